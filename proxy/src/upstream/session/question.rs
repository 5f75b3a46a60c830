//! A request as it is given to a connection.

use tokio::time::Instant;

use crate::http::head::RequestHeader;
use crate::upstream::session::part::Length;

/// What is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: RequestHeader,
    pub(crate) length: Length,
    /// It may be sent twice.
    pub(crate) idempotent: bool,
    /// It cannot be sent again once it was, and began then: of connections that are there already, it uses
    /// those that were used a moment ago.
    pub(crate) once: Option<Instant>,
    /// The client waits to be told that its body is wanted.
    pub(crate) expects: bool,
    /// It asks for its connection to be upgraded.
    pub(crate) upgrade: bool,
    /// Its body still comes: when all of it was sent has to be told.
    pub(crate) flows: bool,
    /// It is a gRPC call.
    pub(crate) is_call: bool,
}
