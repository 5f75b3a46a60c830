//! A stand-in for what Pebble does not have: an authority that says when to renew (RFC 9773). It stands
//! before Pebble, passes everything on, and adds that.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certificates::Authority;
use super::client::Failure;

/// The first certificate that it is asked about is to be renewed at once, all others much later.
pub(crate) struct Advisor {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    address: SocketAddr,
    pebble: SocketAddr,
    roots: RootCertStore,
    asked: Mutex<Vec<String>>,
    replaced: Mutex<Vec<String>>,
}

impl Advisor {
    pub(crate) async fn start(authority: &Authority, pebble: u16) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let identity = authority.sign(&["127.0.0.1"]);
        let acceptor = TlsAcceptor::from(Arc::new(identity.server_config(&["http/1.1"])));
        let state = Arc::new(State {
            address,
            pebble: SocketAddr::from(([127, 0, 0, 1], pebble)),
            roots: authority.roots(),
            asked: Mutex::default(),
            replaced: Mutex::default(),
        });
        let own = state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                let (acceptor, state) = (acceptor.clone(), own.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(|request| answer(&state, request));
                    let _ = server::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, state }
    }

    /// The certificates that it was asked about.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }

    /// The certificates that orders said they would replace.
    pub(crate) fn replaced(&self) -> Vec<String> {
        self.state.replaced.lock().unwrap().clone()
    }
}

async fn answer(
    state: &State,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if let Some(certificate) = path.strip_prefix("/advice/") {
        return Ok(state.advise(certificate));
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let replaces = replaces(&body);
    let Ok(mut answer) = state.ask(Request::from_parts(parts, Full::new(body))).await else {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = http::StatusCode::BAD_GATEWAY;
        return Ok(answer);
    };
    let add = match (path.as_str(), replaces) {
        ("/dir", _) => Some(("renewalInfo", format!("https://{}/advice", state.address))),
        (_, Some(replaces)) if answer.status() == 201 => {
            state.replaced.lock().unwrap().push(replaces.clone());
            Some(("replaces", replaces))
        }
        _ => None,
    };
    if let Some((key, value)) = add {
        let mut document: Value = serde_json::from_slice(answer.body()).unwrap();
        document[key] = value.into();
        *answer.body_mut() = document.to_string().into();
        answer.headers_mut().remove(http::header::CONTENT_LENGTH);
    }
    Ok(answer.map(Full::new))
}

/// What an order says that it replaces: the payload of a signed request is a text in base64url.
fn replaces(body: &[u8]) -> Option<String> {
    let signed: Value = serde_json::from_slice(body).ok()?;
    let payload = decode(signed["payload"].as_str()?)?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    payload["replaces"].as_str().map(str::to_owned)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bits = 0_u32;
    let mut count = 0;
    let mut bytes = Vec::new();
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        bits = ((bits << 6) | value as u32) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

impl State {
    fn advise(&self, certificate: &str) -> Response<Full<Bytes>> {
        let mut asked = self.asked.lock().unwrap();
        let first = asked.first().is_none_or(|first| first == certificate);
        asked.push(certificate.to_owned());
        let year = if first { "2020" } else { "2120" };
        let window = json!({
            "suggestedWindow": {
                "start": format!("{year}-01-01T00:00:00Z"),
                "end": format!("{year}-01-02T00:00:00Z"),
            }
        });
        Response::builder()
            .header("retry-after", "21600")
            .body(window.to_string().into())
            .unwrap()
    }

    /// Passes a request on, as it is: the authority's links lead to whatever host it is asked by.
    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        let trusting = ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let stream = TcpStream::connect(self.pebble).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        let stream = TlsConnector::from(Arc::new(trusting))
            .connect(name, stream)
            .await?;
        let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(
            parts,
            body.collect().await?.to_bytes(),
        ))
    }
}
