//! Why a request goes nowhere.

use portolan_control::refusal::Refusal;

use crate::edge::answer::denial::Denial;

/// Why a request goes nowhere.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Refusal, Option<std::time::Duration>),
    Redirect,
    /// A browser asks whether it may ask, and the route has the answer.
    Preflight,
    /// The route's authorization service has the answer.
    Denied(Box<Denial>),
}
