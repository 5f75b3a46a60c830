//! What endpoints and authorities are verified with, and what is said when they do not pass.
//!
//! A CA must not be an endpoint's own certificate (RFC 5280, section 4.2.1.9): the library that verifies
//! refuses a certificate that says of itself that it is a CA. But that is what `openssl req -x509` makes,
//! and what many name as `ca`: the very certificate that the endpoint shows. Whoever names it has said more
//! than any CA could: it is trusted as it is, byte for byte, as long as it is valid, whatever names are in
//! it. The endpoint still proves that it has the key.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Certificates among those that are named as CAs which may be somebody's own: each signed by itself, and
/// not kept from signing anything but certificates. Real CAs mostly are.
pub(crate) fn own(chain: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    chain.iter().filter(|der| is_own(der)).cloned().collect()
}

fn is_own(der: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der.as_ref()) else {
        return false;
    };
    let usage = certificate.key_usage();
    certificate.subject().as_raw() == certificate.issuer().as_raw()
        && match usage {
            Ok(Some(usage)) => usage.value.digital_signature(),
            Ok(None) => true,
            Err(_) => false,
        }
}

/// Whether a certificate is one of these and valid; nothing if it is none of them.
fn pinned(
    certificate: &CertificateDer<'_>,
    pins: &[CertificateDer<'static>],
    now: UnixTime,
) -> Option<Result<(), Error>> {
    if !pins.iter().any(|pin| pin.as_ref() == certificate.as_ref()) {
        return None;
    }
    let bad = |error| Some(Err(Error::InvalidCertificate(error)));
    let Ok((_, parsed)) = X509Certificate::from_der(certificate.as_ref()) else {
        return bad(CertificateError::BadEncoding);
    };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        bad(CertificateError::NotValidYet)
    } else if now > validity.not_after.timestamp() {
        bad(CertificateError::Expired)
    } else {
        Some(Ok(()))
    }
}

/// Verifies servers: by CAs, or by their very certificates.
#[derive(Debug)]
pub struct ServerVerifier {
    inner: Arc<WebPkiServerVerifier>,
    pins: Vec<CertificateDer<'static>>,
}

impl ServerVerifier {
    /// One that trusts these. Nothing if there is nobody to trust.
    pub(crate) fn new(roots: RootCertStore, pins: Vec<CertificateDer<'static>>) -> Option<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        Some(Self {
            inner: builder.build().ok()?,
            pins,
        })
    }

    /// Verifies the chain that a server of this name has shown, when it has proved that it has the key.
    ///
    /// # Errors
    /// Why it is not believed, in words.
    pub fn verify(&self, chain: &[CertificateDer<'_>], name: &str) -> Result<(), String> {
        let (Some((leaf, rest)), Ok(name)) = (chain.split_first(), ServerName::try_from(name))
        else {
            return Err("it has shown no certificate".to_owned());
        };
        let verified = self.verify_server_cert(leaf, rest, &name, &[], UnixTime::now());
        verified.map(drop).map_err(|error| words(&error))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match pinned(leaf, &self.pins, now) {
            Some(judged) => judged.map(|()| ServerCertVerified::assertion()),
            None => self.inner.verify_server_cert(leaf, rest, name, ocsp, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Verifies clients: by CAs, or by their very certificates.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) inner: Arc<dyn ClientCertVerifier>,
    pub(crate) pins: Vec<CertificateDer<'static>>,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match pinned(leaf, &self.pins, now) {
            Some(judged) => judged.map(|()| ClientCertVerified::assertion()),
            None => self.inner.verify_client_cert(leaf, rest, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Why a certificate is not believed, in words; for anything else, that the handshake failed.
pub fn words(error: &Error) -> String {
    plain(&error.to_string())
}

/// The library's words about a failed handshake in our own: somewhere among them stands one of its names
/// for what is wrong. The first of the list that fits counts.
pub fn plain(words: &str) -> String {
    const PLAIN: [(&str, &str); 21] = [
        (
            "CaUsedAsEndEntity",
            "its certificate is one of a CA, and not the very one that `ca` names: name it itself in \
             `ca`, or give the endpoint a certificate with `CA:FALSE`",
        ),
        (
            "UnknownIssuer",
            "its certificate is signed by no CA that is trusted: name that CA in `ca`",
        ),
        (
            "NotValidForName",
            "its certificate is for other names than the one that is asked for (`server_name`)",
        ),
        ("certificate expired", "its certificate has expired"),
        ("Expired", "its certificate has expired"),
        ("not valid before", "its certificate is not valid yet"),
        ("NotValidYet", "its certificate is not valid yet"),
        (
            "UnsupportedCertVersion",
            "its certificate is of X.509 version 1, which has no names: make one of version 3",
        ),
        (
            "purpose",
            "its certificate is not for servers (`extendedKeyUsage` lacks `serverAuth`)",
        ),
        (
            "InvalidPurpose",
            "its certificate is not for servers (`extendedKeyUsage` lacks `serverAuth`)",
        ),
        ("Revoked", "its certificate is revoked"),
        ("BadEncoding", "its certificate is damaged"),
        (
            "BadSignature",
            "a signature in its chain of certificates does not hold: perhaps another CA of the same \
             name has signed it than the one that `ca` names",
        ),
        (
            "UnsupportedSignatureAlgorithm",
            "a signature in its chain of certificates is of a kind that is not trusted any more",
        ),
        ("InvalidContentType", "it does not speak TLS on this port"),
        (
            "NoApplicationProtocol",
            "it speaks none of the protocols that it was offered (`protocol`)",
        ),
        (
            "CertificateRequired",
            "it wants a certificate of ours (`client_cert`)",
        ),
        ("ProtocolVersion", "it speaks neither TLS 1.2 nor TLS 1.3"),
        (
            "HandshakeFailure",
            "it broke off: it has no version or cipher in common with us, or wants a certificate of \
             ours (`client_cert`)",
        ),
        (
            "UnrecognizedName",
            "it does not know the name that is asked for (`server_name`)",
        ),
        ("eof", "it closed the connection during the handshake"),
    ];
    if let Some((_, names)) = words.split_once("not valid for name ") {
        return other_names(names);
    }
    if let Some((_, plain)) = PLAIN.iter().find(|(name, _)| words.contains(name)) {
        return (*plain).to_owned();
    }
    match words.split_once("fatal alert: ") {
        // The names of alerts are those of RFC 8446, section 6.
        Some((_, alert)) if alert.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            format!("it broke off with the alert {alert}")
        }
        _ => words.to_owned(),
    }
}

/// A certificate is for other names: in quotes first the one that is asked for, then those that it is for.
fn other_names(names: &str) -> String {
    let mut quoted = names.split('"').skip(1).step_by(2);
    let asked = quoted.next().unwrap_or_default();
    let others: Vec<String> = quoted.take(5).map(|name| format!("`{name}`")).collect();
    let others = match others.is_empty() {
        true => "other names".to_owned(),
        false => others.join(", "),
    };
    format!("its certificate is for {others}, and not for `{asked}`: say its name in `server_name`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::read_chain;
    use crate::bundle::tests::write;
    use crate::client::roots;
    use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, date_time_ymd};

    /// Signed by itself, as `openssl req -x509` makes them.
    fn made(
        names: &[&str],
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> Vec<CertificateDer<'static>> {
        let folder = tempfile::tempdir().unwrap();
        let kind = &rcgen::PKCS_ECDSA_P256_SHA256;
        let (cert, _) = write(folder.path(), "a", names, kind, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            change(params);
        });
        read_chain(&cert).unwrap()
    }

    fn verifier(chain: &[CertificateDer<'static>]) -> ServerVerifier {
        let roots = roots(chain, std::path::Path::new("ca.pem")).unwrap();
        ServerVerifier::new(roots, own(chain)).unwrap()
    }

    #[test]
    fn the_very_certificate_is_trusted_as_long_as_it_is_valid() {
        let own = made(&["a.example"], |_| {});
        assert_eq!(verifier(&own).verify(&own, "a.example"), Ok(()));
        assert_eq!(verifier(&own).verify(&own, "192.0.2.1"), Ok(()));
        // Another one with the same name.
        let other = made(&["a.example"], |_| {});
        let error = verifier(&own).verify(&other, "a.example").unwrap_err();
        assert!(error.contains("one of a CA"), "{error}");
        let old = made(&["a.example"], |params| {
            params.not_after = date_time_ymd(2020, 1, 1);
        });
        let error = verifier(&old).verify(&old, "a.example").unwrap_err();
        assert!(error.contains("has expired"), "{error}");
        let new = made(&["a.example"], |params| {
            params.not_before = date_time_ymd(2900, 1, 1);
            params.not_after = date_time_ymd(2901, 1, 1);
        });
        let error = verifier(&new).verify(&new, "a.example").unwrap_err();
        assert!(error.contains("not valid yet"), "{error}");
    }

    #[test]
    fn a_real_ca_is_nobodys_own_certificate() {
        let ca = made(&["a.example"], |params| {
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        });
        let error = verifier(&ca).verify(&ca, "a.example").unwrap_err();
        assert!(error.contains("one of a CA"), "{error}");
    }

    #[test]
    fn no_name_of_the_library_reaches_an_operator() {
        let told = |error| words(&Error::InvalidCertificate(error));
        for error in [
            CertificateError::UnknownIssuer,
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::NotValidForName,
            CertificateError::BadSignature,
            CertificateError::BadEncoding,
            CertificateError::Revoked,
            CertificateError::InvalidPurpose,
        ] {
            let told = told(error.clone());
            assert!(!told.contains(&format!("{error:?}")), "{told}");
        }
        let other = "certificate not valid for name \"a.b\"; certificate is only valid for DnsName(\"c.d\") or DnsName(\"*.e\")";
        assert_eq!(
            plain(other),
            "its certificate is for `c.d`, `*.e`, and not for `a.b`: say its name in `server_name`"
        );
        assert_eq!(
            plain("received fatal alert: AccessDenied"),
            "it broke off with the alert AccessDenied"
        );
    }
}
