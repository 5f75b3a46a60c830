//! Why a request goes nowhere.

use std::time::Duration;

use portolan_control::refusal::Refusal;

use crate::edge::answer::denial::Denial;

/// Why a request goes nowhere.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is refused; when its client may come back, if something says so.
    Refused(Refusal, Option<Duration>),
    /// The route's authorization service has the answer.
    Denied(Box<Denial>),
}
