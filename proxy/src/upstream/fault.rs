//! The engine's errors → whose fault, and what it means for the try and for the client.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use pingora::{Error, ErrorSource, ErrorType};
use portolan_control::counters::TryOutcome;
use portolan_control::health::exhaustion::Shortage;
use portolan_control::refusal::Refusal;

/// What this machine had run out of when a connection was to be made, if that was the reason. Then it says
/// nothing about the endpoint: there is no verdict in it.
pub(crate) fn shortage(error: &Error) -> Option<Shortage> {
    if *error.esource() == ErrorSource::Downstream {
        return None;
    }
    match error.etype() {
        // On a connection that was there.
        ErrorType::ReadError
        | ErrorType::WriteError
        | ErrorType::ReadTimedout
        | ErrorType::WriteTimedout
        | ErrorType::ConnectionClosed => None,
        _ => Shortage::of(cause(error)?),
    }
}

/// The system's own error, if one is at the bottom of it.
fn cause(error: &Error) -> Option<&io::Error> {
    let mut cause: &(dyn std::error::Error + 'static) = error.root_cause();
    loop {
        if let Some(io) = cause.downcast_ref() {
            return Some(io);
        }
        cause = cause.source()?;
    }
}

/// The same error, told apart where the system does not: that no local port is left for an endpoint, and
/// that there is no local address from which it could ever be reached (a machine without IPv6), are one
/// error number. The latter is the endpoint's own trouble, like a missing route.
pub(crate) fn told_apart(error: Box<Error>, endpoint: Option<SocketAddr>) -> Box<Error> {
    let (Some(Shortage::Ports), Some(endpoint)) = (shortage(&error), endpoint) else {
        return error;
    };
    // Nothing is sent by this: an address is chosen, and a port of another kind.
    let any: SocketAddr = match endpoint {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let reached = UdpSocket::bind(any).and_then(|socket| socket.connect(endpoint));
    match reached {
        Err(why) if Shortage::of(&why).is_none_or(|short| short == Shortage::Ports) => {
            Error::explain(
                ErrorType::ConnectNoRoute,
                format!("no local address leads to {endpoint}"),
            )
        }
        _ => error,
    }
}

/// How a try ended that did not end well.
pub(crate) fn outcome(error: &Error) -> TryOutcome {
    if *error.esource() == ErrorSource::Downstream || is_the_requests_own(error) {
        return TryOutcome::Abandoned;
    }
    if shortage(error).is_some() {
        return TryOutcome::EdgeExhausted;
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
    if shortage(error).is_some() {
        return Some(Refusal::EdgeExhausted);
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

    #[test]
    fn what_the_edge_has_run_out_of_is_nobody_elses_fault() {
        use rustix::io::Errno;
        let failed = |etype, errno: Errno| {
            let io: io::Error = errno.into();
            // As the engine wraps it.
            let inner = Error::because(etype, "when connecting", io);
            Error::because(ErrorType::InternalError, "to somebody", inner).into_up()
        };
        for (errno, what) in [
            (Errno::MFILE, Shortage::Files),
            (Errno::NFILE, Shortage::SystemFiles),
            (Errno::ADDRNOTAVAIL, Shortage::Ports),
            (Errno::NOBUFS, Shortage::Memory),
        ] {
            let error = failed(ErrorType::SocketError, errno);
            assert_eq!(shortage(&error), Some(what));
            assert_eq!(outcome(&error), TryOutcome::EdgeExhausted);
            assert_eq!(refusal(&error), Some(Refusal::EdgeExhausted));
        }
        let refused = failed(ErrorType::ConnectRefused, Errno::CONNREFUSED);
        assert_eq!(shortage(&refused), None);
        let io: io::Error = Errno::NOBUFS.into();
        let broken = Error::because(ErrorType::WriteError, "when writing", io).into_up();
        assert_eq!(
            outcome(&broken),
            TryOutcome::Broken,
            "it may have been seen"
        );
    }

    #[test]
    fn an_address_that_cannot_be_reached_from_here_is_no_shortage() {
        let error = || {
            let io: io::Error = rustix::io::Errno::ADDRNOTAVAIL.into();
            Error::because(ErrorType::ConnectError, "cannot connect", io).into_up()
        };
        let here: SocketAddr = "127.0.0.1:80".parse().unwrap();
        assert_eq!(
            outcome(&told_apart(error(), Some(here))),
            TryOutcome::EdgeExhausted
        );
        assert_eq!(
            outcome(&told_apart(error(), None)),
            TryOutcome::EdgeExhausted
        );
        // A network that is for documentation alone, and has no router here or anywhere.
        let nowhere: SocketAddr = "[2001:db8::1]:80".parse().unwrap();
        if UdpSocket::bind("[::]:0")
            .and_then(|socket| socket.connect(nowhere))
            .is_err()
        {
            let told = told_apart(error(), Some(nowhere));
            assert_eq!(outcome(&told), TryOutcome::ConnectFailed);
        }
    }
}
