//! Where clients are accepted.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::acme::CertificateName;
use super::clients::Clients;
use crate::decode::document;
use crate::decode::switch::Switch;
use crate::names::Name;
use crate::scalar::keywords;
use crate::source::At;
use crate::units::{ByteSize, Count, TimeSpan};

document! {
    /// An address on which clients are accepted. Without `tls` it speaks HTTP/1.1 and HTTP/2 with
    /// prior knowledge; with `tls` both, by ALPN.
    pub struct Listener as "a listener" {
        /// `IP:port`. `[::]:443` takes IPv4 as well. Port 0 lets the system choose; the log, the
        /// API and `portolan status` say which it chose. A port may have several listeners, at
        /// `127.0.0.1` and at `0.0.0.0`, say: a client comes to the one with the narrowest address.
        pub bind: At<SocketAddr>,
        /// Answer every request with a redirect (308) to the same URL on https.
        pub redirect_to_https: At<bool> = "false",
        /// Terminate TLS here.
        pub tls: Option<ListenerTls>,
        /// Every connection begins with a PROXY protocol header (version 1 or 2) that says whom it
        /// is for, as load balancers of TCP write it. It is mandatory, it is only taken from
        /// `client_ip.trusted` peers, and the address in it counts as the peer's. Everything else
        /// is closed.
        pub proxy_protocol: At<bool> = "false",
        /// Who may send requests here, over all routes: everybody else gets 403. Who cannot be placed
        /// is in no country. Without it, everybody whom `deny` does not name.
        pub allow: Option<Box<Clients>>,
        /// Who may not, even if `allow` names them.
        pub deny: Option<Box<Clients>>,
        /// How much one client may ask for.
        pub limits: Limits = "{}",
    }
}

document! {
    /// TLS towards clients. Certificates are chosen by the name the client asks for (SNI); the
    /// first is used for clients that ask for none, or for a name that no certificate has. All
    /// files are watched: what changes in them is used at once, without a reload.
    pub struct ListenerTls as "`tls`" {
        /// Certificates with their keys, at least one. Of several for one name (an ECDSA and an RSA
        /// one, say) a client gets the first in the order ECDSA, Ed25519, RSA that it can verify.
        pub certificates: Vec<Certificate>,
        /// Which versions, ciphers and curves are spoken, as Mozilla recommends them.
        pub profile: At<TlsProfile> = "intermediate",
        /// The oldest version of TLS that is spoken. With `profile: modern` it is 1.3 in any case.
        pub min_version: At<MinTlsVersion> = "1.2",
        /// Mutual TLS: the CAs of clients' certificates, as a PEM file. Endpoints are told whose
        /// certificate it was, in headers that clients cannot set themselves.
        pub client_ca: Option<At<PathBuf>>,
        /// Whether every client must show a certificate. By default `required`; needs `client_ca`.
        pub client_auth: Option<At<ClientAuth>>,
        /// Certificates of clients that were revoked before their time, as a PEM file with one list
        /// (CRL) for every CA that issues them. A list that is too old counts as none: its clients
        /// are refused. Needs `client_ca`.
        pub client_crl: Option<At<PathBuf>>,
    }
}

document! {
    /// A certificate chain and its key as PEM files, a directory of such pairs, or a certificate that
    /// Portolan asks an authority for. Exactly one of `cert`, `directory` and `acme`.
    pub struct Certificate as "a certificate" {
        /// The chain: the certificate itself first, then intermediates.
        pub cert: Option<At<PathBuf>>,
        /// The private key: PKCS#8, PKCS#1 or SEC1. By default it stands in the same file as the
        /// chain.
        pub key: Option<At<PathBuf>>,
        /// The CA's word that the certificate is not revoked (an OCSP response in DER), shown to
        /// clients that ask for it as long as it is fresh. By default the file beside `cert` with
        /// the ending `.ocsp`, if there is one.
        pub ocsp: Option<At<PathBuf>>,
        /// A directory: every `NAME.pem`, `NAME.crt` or `NAME.cert` in it with its key, which is
        /// `NAME.key` or stands in the same file; and every folder in it that holds
        /// `fullchain.pem` and `privkey.pem`, or `tls.crt` and `tls.key`.
        pub directory: Option<At<PathBuf>>,
        /// A certificate that Portolan asks for, and renews, by itself: the name of an issuer of the
        /// top-level `acme`. Until it is issued, another certificate that has the name is shown, or
        /// one that nobody trusts.
        pub acme: Option<At<Name>>,
        /// The names of a certificate that is asked for, at least one: `api.example.com`, or
        /// `*.example.com` where the issuer's challenge is `dns-01`.
        pub names: Vec<At<CertificateName>>,
    }
}

keywords! {
    /// Which versions, ciphers and curves are spoken, as Mozilla recommends them.
    pub enum TlsProfile {
        /// TLS 1.3 alone: for clients of the last years.
        Modern = "modern",
        /// TLS 1.2 with forward secrecy, and TLS 1.3: for nearly everybody.
        Intermediate = "intermediate",
    }
}

keywords! {
    /// Whether every client must show a certificate.
    pub enum ClientAuth {
        /// Who shows none, or one that cannot be verified, is refused.
        Required = "required",
        /// Who shows none is served; who shows one that cannot be verified is refused.
        Optional = "optional",
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
        /// Open connections of one client at the same time: those beyond are closed at once. IPv6
        /// clients count by their /64. Proxies in front count as one client, unless they speak the
        /// PROXY protocol. By default there is no limit.
        pub connections_per_client: Option<At<Count>>,
        /// How many requests a connection may bring before it is ended, as gracefully as its
        /// protocol allows. By default there is no limit.
        pub requests_per_connection: Option<At<Count>>,
        /// The longest target of a request, path and query: more is answered with 414.
        pub uri_bytes: At<ByteSize> = "16KiB",
        /// How many bytes of its body a client must send per second, on average, while they are
        /// waited for: less is answered with 408. The first 5 seconds of waiting are free. Bodies
        /// of gRPC requests may be streams that say nothing for a while, and are exempt. `off`:
        /// only `idle_timeout` counts, from one piece to the next.
        pub min_body_rate: Switch<At<ByteSize>> = "240B",
    }
}
