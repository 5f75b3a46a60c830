//! A client that is gone.

use pingora::{Error, ErrorType};

/// A client that is gone, or never was one.
pub(crate) fn gone(why: &'static str) -> Box<Error> {
    Error::explain(ErrorType::ConnectionClosed, why)
}
