//! The engine's errors → whose fault, and what it means for the try and for the client.

use pingora::{Error, ErrorSource, ErrorType};
use portolan_control::stats::TryOutcome;

use crate::refusal::Refusal;

/// How a try ended that did not end well.
pub(crate) fn outcome(error: &Error) -> TryOutcome {
    if *error.esource() == ErrorSource::Downstream {
        return TryOutcome::Abandoned;
    }
    match error.etype() {
        ErrorType::ConnectTimedout
        | ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError
        | ErrorType::SocketError
        | ErrorType::BindError => TryOutcome::ConnectFailed,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => TryOutcome::TimedOut,
        _ => TryOutcome::Broken,
    }
}

/// What the client is told when the last try ended like this; nothing if it is gone.
pub(crate) fn refusal(error: &Error) -> Option<Refusal> {
    if let ErrorType::HTTPStatus(413) = error.etype() {
        return Some(Refusal::BodyTooLarge);
    }
    match error.esource() {
        ErrorSource::Downstream => match error.etype() {
            ErrorType::InvalidHTTPHeader | ErrorType::H1Error => Some(Refusal::Malformed),
            // A body that breaks its own framing is told apart from a connection that breaks.
            ErrorType::ReadError if is_invalid_data(error) => Some(Refusal::Malformed),
            ErrorType::ReadTimedout => Some(Refusal::HeadersTooSlow),
            _ => None,
        },
        ErrorSource::Upstream => Some(match (error.etype(), outcome(error)) {
            (ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout, _)
            | (_, TryOutcome::TimedOut) => Refusal::TooSlow,
            (_, TryOutcome::ConnectFailed) => Refusal::Unreachable,
            _ => Refusal::Broken,
        }),
        ErrorSource::Internal | ErrorSource::Unset => Some(Refusal::Internal),
    }
}

fn is_invalid_data(error: &Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::InvalidData;
        }
        cause = current.source();
    }
    false
}
