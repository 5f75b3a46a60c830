//! Where clients are accepted.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::clients::Clients;
use crate::decode::document;
use crate::leaf::keywords;
use crate::source::At;
use crate::units::{ByteSize, Count, TimeSpan};

document! {
    /// An address on which clients are accepted. Without `tls` it speaks HTTP/1.1 and HTTP/2 with
    /// prior knowledge; with `tls` both, by ALPN.
    pub struct Listener as "a listener" {
        /// `IP:port`. `[::]:443` takes IPv4 as well. Port 0 lets the system choose; the log, the
        /// API and `portolan status` say which it chose.
        pub bind: At<SocketAddr>,
        /// Answer every request with a redirect (308) to the same URL on https.
        pub redirect_to_https: At<bool> = "false",
        /// Terminate TLS here.
        pub tls: Option<ListenerTls>,
        /// Who may send requests here, over all routes: everybody else gets 403. Who cannot be placed
        /// is in no country. Without it, everybody whom `deny` does not name.
        pub allow: Option<Clients>,
        /// Who may not, even if `allow` names them.
        pub deny: Option<Clients>,
        /// How much one client may ask for.
        pub limits: Limits = "{}",
    }
    not_yet { "proxy_protocol" unless "false" }
}

document! {
    /// TLS towards clients. Certificates are chosen by the name the client asks for (SNI); the
    /// first is used for clients that ask for none, or for a name that no certificate has.
    pub struct ListenerTls as "`tls`" {
        /// Certificates with their keys, at least one.
        pub certificates: Vec<Certificate>,
        /// The oldest version of TLS that is spoken.
        pub min_version: At<MinTlsVersion> = "1.2",
    }
    not_yet { "client_ca", "client_auth", "acme", "policy", "crl" }
}

document! {
    /// A certificate chain and its key, as PEM files.
    pub struct Certificate as "a certificate" {
        /// The chain: the certificate itself first, then intermediates.
        pub cert: At<PathBuf>,
        /// The private key: PKCS#8, PKCS#1 or SEC1.
        pub key: At<PathBuf>,
    }
}

keywords! {
    /// The oldest version of TLS that is spoken.
    pub enum MinTlsVersion {
        /// TLS 1.2 and 1.3.
        Tls12 = "1.2",
        /// TLS 1.3 alone.
        Tls13 = "1.3",
    }
}

document! {
    /// How much one connection or request may ask of a listener.
    pub struct Limits as "`limits`" {
        /// All request headers together, with the request line: more is answered with 431. From
        /// 256B to 1MiB.
        pub header_bytes: At<ByteSize> = "64KiB",
        /// How many request headers: more is answered with 431. From 1 to 256.
        pub headers: At<Count> = "100",
        /// How long a client may take to send a request's headers, from its first byte (or, on a
        /// new connection, from its beginning; a TLS handshake has the same time).
        pub header_timeout: At<TimeSpan> = "10s",
        /// How long a connection may stay open with no request on it.
        pub idle_timeout: At<TimeSpan> = "75s",
        /// The largest request body: more is answered with 413. By default there is no limit.
        pub body_bytes: Option<At<ByteSize>>,
        /// Open connections at the same time: those beyond are not accepted until others end.
        pub connections: At<Count> = "20000",
    }
    not_yet { "connections_per_client", "requests_per_connection", "uri_bytes", "min_body_rate" }
}
