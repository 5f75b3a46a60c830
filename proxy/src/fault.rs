//! The engine's errors → whose fault, and what it means for the try and for the client.

use std::io;

use pingora::{Error, ErrorSource, ErrorType};
use portolan_control::stats::TryOutcome;

use crate::refusal::Refusal;

/// How a try ended that did not end well.
pub(crate) fn outcome(error: &Error) -> TryOutcome {
    if *error.esource() == ErrorSource::Downstream || is_the_requests_own(error) {
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

/// Whether it is the request that cannot be sent, whatever the endpoint: it has a status of its own.
pub(crate) fn is_the_requests_own(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::HTTPStatus(413 | 431 | 501))
}

/// What the client is told when the last try ended like this; nothing if it is gone.
pub(crate) fn refusal(error: &Error) -> Option<Refusal> {
    match error.etype() {
        ErrorType::HTTPStatus(413) => return Some(Refusal::BodyTooLarge),
        ErrorType::HTTPStatus(431) => return Some(Refusal::HeadersTooLarge),
        ErrorType::HTTPStatus(501) => return Some(Refusal::UpgradeNotOffered),
        _ => {}
    }
    match error.esource() {
        ErrorSource::Downstream => match error.etype() {
            ErrorType::InvalidHTTPHeader | ErrorType::H1Error => Some(Refusal::Malformed),
            // A body that breaks its own framing is told apart from a connection that breaks.
            ErrorType::ReadError if is_caused_by(error, io::ErrorKind::InvalidData) => {
                Some(Refusal::Malformed)
            }
            ErrorType::ReadError if is_caused_by(error, io::ErrorKind::TimedOut) => {
                Some(Refusal::BodyTooSlow)
            }
            ErrorType::ReadTimedout => Some(Refusal::BodyTooSlow),
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

fn is_caused_by(error: &Error, kind: io::ErrorKind) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|io| io.kind() == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::OrErr as _;

    #[test]
    fn a_client_that_breaks_its_own_framing_is_told_and_one_that_is_gone_is_not() {
        let failed = |kind| {
            let result: Result<(), _> = Err(io::Error::from(kind));
            let mut error = result
                .or_err(ErrorType::ReadError, "when reading body")
                .unwrap_err();
            error.as_down();
            refusal(&error)
        };
        assert_eq!(failed(io::ErrorKind::InvalidData), Some(Refusal::Malformed));
        assert_eq!(failed(io::ErrorKind::TimedOut), Some(Refusal::BodyTooSlow));
        assert_eq!(failed(io::ErrorKind::ConnectionReset), None);
    }
}
