//! Requests to an authority, and to a webhook: over HTTP/1.1, with bounds on everything.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fmt, io};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::{ClientConfig, RootCertStore};

use super::moment::Moment;
use crate::bundle::read_chain;
use crate::client::roots;
use crate::error::BundleError;
use crate::verifier::{ServerVerifier, own, words};

/// To connect.
const CONNECT: Duration = Duration::from_secs(10);

/// For one request, from its beginning to the end of its answer.
const REQUEST: Duration = Duration::from_secs(30);

/// The longest answer. A chain of certificates has a few kilobytes.
const ANSWER: usize = 1 << 20;

const AGENT: &str = concat!("portolan/", env!("CARGO_PKG_VERSION"));

/// Why no request could be sent, or none was answered.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The file with the authority's certificates cannot be used.
    #[error("nobody can be trusted: {0}")]
    Ca(#[from] BundleError),
    /// The system brings no certificates to trust.
    #[error(
        "this system has no certificates of authorities to trust ({0}): install them, or name some with `ca`"
    )]
    NoRoots(String),
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs())]
    TooSlow(Duration),
}

/// Sends requests.
#[derive(Clone)]
pub struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// How long the last one who refused wants to be left alone.
    left_alone: Arc<Mutex<Option<LeaveAlone>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// What a `Retry-After` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaveAlone {
    For(Duration),
    Until(SystemTime),
}

impl LeaveAlone {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        match text.parse() {
            Ok(seconds) => Some(Self::For(Duration::from_secs(seconds))),
            Err(_) => httpdate::parse_http_date(text).ok().map(Self::Until),
        }
    }

    fn until(self, now: Moment) -> Moment {
        match self {
            Self::For(span) => now + span,
            Self::Until(time) => {
                let span = time.duration_since(SystemTime::UNIX_EPOCH);
                Moment::after_1970(span.unwrap_or_default())
            }
        }
    }
}

/// To whom requests may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schemes {
    /// Over TLS alone.
    Https,
    /// Without, too.
    Any,
}

impl Client {
    /// One that trusts the certificates in this file, or those of the system.
    ///
    /// # Errors
    /// When there is nobody to trust.
    pub fn new(ca: Option<&Path>, schemes: Schemes) -> Result<Self, RequestError> {
        match ca {
            Some(path) => {
                let chain = read_chain(path)?;
                let verifier = ServerVerifier::new(roots(&chain, path)?, own(&chain));
                Ok(Self::trusting(verifier, schemes))
            }
            None => Ok(Self::trusting(
                ServerVerifier::new(system_roots()?, Vec::new()),
                schemes,
            )),
        }
    }

    /// One that trusts nobody: TLS fails with everybody.
    pub(super) fn without_roots(schemes: Schemes) -> Self {
        Self::trusting(None, schemes)
    }

    fn trusting(verifier: Option<ServerVerifier>, schemes: Schemes) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for TLS 1.2 and 1.3");
        let tls = match verifier {
            Some(verifier) => tls
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier)),
            None => tls.with_root_certificates(RootCertStore::empty()),
        };
        let tls = tls.with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
        let builder = match schemes {
            Schemes::Https => builder.https_only(),
            Schemes::Any => builder.https_or_http(),
        };
        let connector = builder.enable_http1().wrap_connector(tcp);
        Self {
            http: HyperClient::builder(TokioExecutor::new()).build(connector),
            left_alone: Arc::default(),
        }
    }

    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// When there is none.
    pub async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Response<Bytes>, RequestError> {
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let sending = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| reason(&error))?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, ANSWER).collect().await;
            let body = body.map_err(|error| {
                RequestError::Failed(match error.is::<LengthLimitError>() {
                    true => "the answer is larger than 1 MiB".to_owned(),
                    false => "the answer broke off".to_owned(),
                })
            })?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        match tokio::time::timeout(patience, sending).await {
            Ok(response) => response,
            Err(_) => Err(RequestError::TooSlow(patience)),
        }
    }

    /// Until when the last one who refused wants to be left alone, as far as it said.
    pub fn left_alone_until(&self, now: Moment) -> Option<Moment> {
        let left_alone = self.left_alone.lock();
        let left_alone = *left_alone.unwrap_or_else(PoisonError::into_inner);
        left_alone.map(|leave_alone| leave_alone.until(now))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let request = Request::from_parts(parts, Full::new(body));
            let path = request.uri().path().to_owned();
            let response = client.send(request, REQUEST).await;
            let response = response.map_err(|error| instant_acme::Error::Other(error.into()))?;
            let status = response.status();
            tracing::debug!(path, status = status.as_u16(), "the authority answered");
            if status.is_client_error() || status.is_server_error() {
                let left_alone = client.left_alone.lock();
                *left_alone.unwrap_or_else(PoisonError::into_inner) =
                    LeaveAlone::of(response.headers());
            }
            let (parts, body) = response.into_parts();
            Ok(BytesResponse {
                parts,
                body: Box::new(body),
            })
        })
    }
}

/// What went wrong, with what was behind it: "client error" alone helps nobody.
fn reason(error: &hyper_util::client::legacy::Error) -> RequestError {
    let mut last: &dyn std::error::Error = error;
    let mut text = Vec::new();
    while let Some(source) = last.source() {
        let inner = source
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return RequestError::Failed(format!("TLS handshake failed: {}", words(tls)));
        }
        text.push(source.to_string());
        last = source;
    }
    text.dedup();
    RequestError::Failed(match text.is_empty() {
        true => error.to_string(),
        false => text.join(": "),
    })
}

fn system_roots() -> Result<RootCertStore, RequestError> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some stores hold certificates that nobody can read: the others count.
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        let why = loaded.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound).to_string());
        return Err(RequestError::NoRoots(why));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_to_leave_an_authority_alone() {
        let now = Moment::from_seconds(1_000);
        let until = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            LeaveAlone::of(&headers).map(|leave| leave.until(now))
        };
        assert_eq!(until("120"), Some(Moment::from_seconds(1_120)));
        assert_eq!(
            until("Thu, 01 Jan 1970 01:00:00 GMT"),
            Some(Moment::from_seconds(3_600))
        );
        assert_eq!(until("soon"), None);
        assert_eq!(LeaveAlone::of(&HeaderMap::new()), None);
    }

    #[test]
    fn what_cannot_be_trusted_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let said = |path: &Path| {
            let client = Client::new(Some(path), Schemes::Https);
            client.unwrap_err().to_string()
        };
        assert!(said(&path).contains("ca.pem"));
        std::fs::write(&path, "").unwrap();
        assert!(said(&path).contains("holds no certificate"));
    }
}
