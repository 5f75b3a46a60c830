//! The TLS handshake with a client: which certificate it gets, who it is, and how it ended.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::{ClientIdentity, ServerTls};
use portolan_control::telemetry::handshakes::{Handshake, HandshakeFault, Handshakes};
use rustls::server::{Accepted, Acceptor};
use rustls::{CertificateError, Error, HandshakeKind, InvalidMessage, ProtocolVersion};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{StartHandshake, rustls};

use crate::connection::client_certificate::ClientCertificate;
use crate::connection::context::TlsContext;

/// How much of a client's first words is read at a time: normally all of them.
const READ: usize = 4 << 10;

/// What came of a handshake.
pub(crate) enum Shaken {
    Client(Box<TlsStream<TcpStream>>, TlsContext),
    /// The client speaks HTTP, and takes this for a port where that is understood.
    PlainHttp(TcpStream),
    /// Nothing, or there is nothing to say after it.
    Nothing,
}

/// Shakes hands.
pub(crate) async fn shake_hands(
    stream: TcpStream,
    server: &ServerTls,
    came_to: IpAddr,
    limit: Duration,
    handshakes: &Handshakes,
) -> Shaken {
    let refused = |fault: HandshakeFault, error: &dyn std::fmt::Display| {
        tracing::debug!("TLS handshake failed ({}): {error}", fault.as_str());
        handshakes.one(Handshake::Refused(fault));
    };
    match tokio::time::timeout(limit, begin(stream, server, came_to)).await {
        Ok(Ok(Begun::Client(stream, tls))) => {
            if let Some(client) = &tls.client
                && client.identity.not_after < portolan_certs::now()
            {
                // A resumed session is not verified again.
                refused(HandshakeFault::ClientCertificateExpired, &"in the meantime");
                return Shaken::Nothing;
            }
            let session = stream.get_ref().1;
            handshakes.one(Handshake::Done {
                tls13: session.protocol_version() == Some(ProtocolVersion::TLSv1_3),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            });
            Shaken::Client(Box::new(stream), tls)
        }
        Ok(Ok(Begun::Challenge(mut stream))) => {
            let _ = tokio::time::timeout(limit, stream.shutdown()).await;
            Shaken::Nothing
        }
        Ok(Ok(Begun::PlainHttp(stream))) => {
            refused(HandshakeFault::NotTls, &"plain HTTP");
            Shaken::PlainHttp(stream)
        }
        Ok(Err(error)) => {
            refused(fault(&error), &error);
            Shaken::Nothing
        }
        Err(elapsed) => {
            refused(HandshakeFault::Timeout, &elapsed);
            Shaken::Nothing
        }
    }
}

/// Whom the other side turned out to be.
enum Begun {
    Client(TlsStream<TcpStream>, TlsContext),
    /// A CA that asked a question, and has its answer.
    Challenge(TlsStream<TcpStream>),
    PlainHttp(TcpStream),
}

/// What a client says first; nothing if it speaks plain HTTP.
async fn first_words(stream: &mut TcpStream) -> io::Result<Option<Accepted>> {
    let mut acceptor = Acceptor::default();
    let mut first = true;
    loop {
        stream.readable().await?;
        match hear(stream, &mut acceptor, &mut first)? {
            HandshakeEvent::Nothing => {}
            HandshakeEvent::Hello(accepted) => return Ok(Some(*accepted)),
            HandshakeEvent::PlainHttp => return Ok(None),
            HandshakeEvent::Else(error, words) => {
                // Whether or not it gets to read why.
                let _ = stream.write_all(&words).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

/// What was heard of a client.
enum HandshakeEvent {
    /// Not enough yet.
    Nothing,
    Hello(Box<Accepted>),
    PlainHttp,
    /// What no handshake begins with, and what is said to that.
    Else(Error, Vec<u8>),
}

/// Reads what there is. No buffer is kept while more is waited for.
fn hear(
    stream: &TcpStream,
    acceptor: &mut Acceptor,
    first: &mut bool,
) -> io::Result<HandshakeEvent> {
    let mut room = [0; READ];
    let count = match stream.try_read(&mut room) {
        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Ok(HandshakeEvent::Nothing);
        }
        Err(error) => return Err(error),
    };
    let mut said = &room[..count];
    if std::mem::take(first) && is_plain_http(said) {
        return Ok(HandshakeEvent::PlainHttp);
    }
    while !said.is_empty() && acceptor.read_tls(&mut said)? > 0 {}
    match acceptor.accept() {
        Ok(Some(accepted)) => Ok(HandshakeEvent::Hello(Box::new(accepted))),
        Ok(None) => Ok(HandshakeEvent::Nothing),
        Err((error, mut alert)) => {
            let mut words = Vec::new();
            alert.write_all(&mut words)?;
            Ok(HandshakeEvent::Else(error, words))
        }
    }
}

/// Whether a request begins here: with a method, of letters alone. Nothing in TLS begins with a letter.
fn is_plain_http(said: &[u8]) -> bool {
    let method = said.split(|byte| *byte == b' ').next().unwrap_or_default();
    !method.is_empty() && method.iter().all(u8::is_ascii_alphabetic)
}

async fn begin(mut stream: TcpStream, server: &ServerTls, came_to: IpAddr) -> io::Result<Begun> {
    let Some(accepted) = first_words(&mut stream).await? else {
        return Ok(Begun::PlainHttp(stream));
    };
    let started = StartHandshake::from_parts(accepted, stream);
    // The same for all of the connection, whatever changes meanwhile.
    let serving = server.serving();
    let chosen = serving.choose(&started.client_hello(), came_to);
    let stream = started.into_stream(chosen.config).await?;
    if chosen.challenge {
        return Ok(Begun::Challenge(stream));
    }
    let session = stream.get_ref().1;
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let client = shown
        .map(|certificate| {
            ClientIdentity::of(certificate)
                .and_then(ClientCertificate::new)
                .map(Arc::new)
                // It was verified, and yet nobody could be told whose it is.
                .ok_or_else(|| {
                    io::Error::other(Error::InvalidCertificate(CertificateError::BadEncoding))
                })
        })
        .transpose()?;
    let tls = TlsContext {
        version: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        certificate: chosen.certificate,
        named: chosen.named,
        able: chosen.able,
        store: serving.store.clone(),
        asked: server.client_auth().is_some(),
        client,
    };
    Ok(Begun::Client(stream, tls))
}

/// What went wrong, as metrics tell it.
fn fault(error: &io::Error) -> HandshakeFault {
    use HandshakeFault as Fault;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        None => Fault::Closed,
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Fault::NotTls,
        Some(Error::PeerIncompatible(_)) => Fault::NothingInCommon,
        Some(Error::AlertReceived(_)) => Fault::RefusedByClient,
        Some(Error::NoCertificatesPresented) => Fault::ClientCertificateMissing,
        Some(Error::InvalidCertificate(error)) => match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Fault::ClientCertificateExpired,
            CertificateError::Revoked
            | CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => {
                Fault::ClientCertificateRevoked
            }
            _ => Fault::ClientCertificateInvalid,
        },
        // The resolver had nothing to offer.
        Some(Error::General(_)) => Fault::NoCertificate,
        Some(_) => Fault::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_told_from_tls_and_from_noise() {
        for http in ["GET / HTTP/1.1\r\n", "POST", "get /", "PRI * HTTP/2.0\r\n"] {
            assert!(is_plain_http(http.as_bytes()), "{http}");
        }
        let tls: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0];
        let old: &[u8] = &[0x80, 0x2e, 1, 3, 1];
        for other in [tls, old, b"", b" GET", b"SSH-2.0-x\r\n", b"\0\0 /", b"{}"] {
            assert!(!is_plain_http(other), "{other:?}");
        }
    }
}
