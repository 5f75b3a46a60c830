//! What endpoints are told about a client's certificate, in headers that only Portolan sets.

use http::{HeaderName, HeaderValue};
use portolan_certs::ClientIdentity;

/// The certificate itself (RFC 9440).
const CERTIFICATE: HeaderName = HeaderName::from_static("client-cert");
/// Whether it was verified: `SUCCESS`, or `NONE` if none was shown where it might have been.
pub(crate) const VERIFIED: HeaderName = HeaderName::from_static("x-client-cert-verified");
const SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const FINGERPRINT: HeaderName = HeaderName::from_static("x-client-cert-fingerprint");
const SERIAL: HeaderName = HeaderName::from_static("x-client-cert-serial");

/// A client's certificate as endpoints are told of it: made once for a connection.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    pub(crate) identity: ClientIdentity,
    pub(crate) headers: [(HeaderName, HeaderValue); 5],
}

impl ClientCertificate {
    /// `None`: there is something in it that no header can say.
    pub(crate) fn new(identity: ClientIdentity) -> Option<Self> {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        Some(Self {
            headers: [
                (CERTIFICATE, value(&identity.encoded)?),
                (VERIFIED, HeaderValue::from_static("SUCCESS")),
                (SUBJECT, value(&identity.subject)?),
                (FINGERPRINT, value(&identity.fingerprint)?),
                (SERIAL, value(&identity.serial)?),
            ],
            identity,
        })
    }
}

/// Whether a header says something about a client's certificate. Many servers hand `-` and `_` on
/// as the same.
pub(crate) fn is_ours(name: &str) -> bool {
    const FIRST: &[u8] = b"client-cert";
    const SECOND: &[u8] = b"x-client-cert";
    let begins = |with: &[u8]| {
        name.len() >= with.len()
            && name.bytes().zip(with).all(|(has, want)| {
                let has = if has == b'_' { b'-' } else { has };
                has == *want
            })
    };
    begins(FIRST) || begins(SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::RequestHeader;
    use crate::upstream::forward::tell;

    #[test]
    fn what_a_client_says_about_itself_never_passes() {
        let mut request = RequestHeader::build("GET", b"/", 0).unwrap();
        for name in [
            "client-cert",
            "Client-Cert-Chain",
            "X-Client-Cert-Subject",
            "x_client_cert_subject",
            "X-Client_Cert-Verified",
            "client_cert",
        ] {
            request.append_header(name, "CN=admin").unwrap();
        }
        request.append_header("x-client", "stays").unwrap();
        tell(&mut request, None).unwrap();
        let left: Vec<&str> = request.headers.names().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-client"]);
    }
}
