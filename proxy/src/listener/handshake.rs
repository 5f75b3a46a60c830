//! The TLS handshake with a client: which certificate it gets, who it is, and how it ended.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::{ClientIdentity, ServerTls};
use portolan_control::handshakes::{Handshake, HandshakeFault, Handshakes};
use rustls::{CertificateError, Error, HandshakeKind, InvalidMessage, ProtocolVersion};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;

use crate::client_certificate::ClientCertificate;
use crate::context::TlsContext;

/// Shakes hands. `None`: it came to nothing, or there is nothing to say after it.
pub(super) async fn shake_hands(
    stream: TcpStream,
    server: &ServerTls,
    limit: Duration,
    handshakes: &Handshakes,
) -> Option<(TlsStream<TcpStream>, TlsContext)> {
    let refused = |fault: HandshakeFault, error: &dyn std::fmt::Display| {
        tracing::debug!("TLS handshake failed ({}): {error}", fault.as_str());
        handshakes.one(Handshake::Refused(fault));
    };
    match tokio::time::timeout(limit, begin(stream, server)).await {
        Ok(Ok(Shaken::Client(stream, tls))) => {
            if let Some(client) = &tls.client
                && client.identity.not_after < portolan_certs::now()
            {
                // A resumed session is not verified again.
                refused(HandshakeFault::ClientCertificateExpired, &"in the meantime");
                return None;
            }
            let session = stream.get_ref().1;
            handshakes.one(Handshake::Done {
                tls13: session.protocol_version() == Some(ProtocolVersion::TLSv1_3),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            });
            Some((stream, tls))
        }
        Ok(Ok(Shaken::Challenge(mut stream))) => {
            let _ = tokio::time::timeout(limit, stream.shutdown()).await;
            None
        }
        Ok(Err(error)) => {
            refused(fault(&error), &error);
            None
        }
        Err(elapsed) => {
            refused(HandshakeFault::Timeout, &elapsed);
            None
        }
    }
}

/// With whom hands were shaken.
enum Shaken {
    Client(TlsStream<TcpStream>, TlsContext),
    /// A CA that asked a question, and has its answer.
    Challenge(TlsStream<TcpStream>),
}

async fn begin(stream: TcpStream, server: &ServerTls) -> io::Result<Shaken> {
    let started = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    // The same for all of the connection, whatever changes meanwhile.
    let serving = server.serving();
    let chosen = serving.choose(&started.client_hello());
    let stream = started.into_stream(chosen.config).await?;
    if chosen.challenge {
        return Ok(Shaken::Challenge(stream));
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
        able: chosen.able,
        store: serving.store.clone(),
        asked: server.client_auth().is_some(),
        client,
    };
    Ok(Shaken::Client(stream, tls))
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
