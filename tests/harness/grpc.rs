//! An endpoint that speaks the gRPC health protocol, correctly or as badly as a test wants.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// What is said about a service. One that nothing was said about is not found (status 5), as the
/// protocol wants it.
#[derive(Clone, Debug)]
pub(crate) enum Serving {
    /// `HealthCheckResponse.status`: 0 UNKNOWN, 1 SERVING, 2 NOT_SERVING, 3 SERVICE_UNKNOWN.
    Status(u8),
    /// No message, and this `grpc-status` with this message, without a body.
    Error(u32, &'static str),
    /// A message that says SERVING, followed by this `grpc-status`.
    ButThen(u32),
    /// A message that says SERVING, and the end without a `grpc-status`.
    NoStatus,
    /// Success, but no message.
    NoMessage,
    /// An HTTP status, and nothing of gRPC.
    Http(u16),
}

/// What it says about each service.
type Said = Arc<Mutex<HashMap<String, Serving>>>;

/// A gRPC server with the health service, over HTTP/2 alone.
pub(crate) struct GrpcHealth {
    pub(crate) address: SocketAddr,
    said: Said,
    task: JoinHandle<()>,
}

impl GrpcHealth {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    pub(crate) async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let said = Said::default();
        let task = tokio::spawn(serve(listener, said.clone(), tls));
        Self {
            address,
            said,
            task,
        }
    }

    /// What is said about a service from now on; `""` is the whole server.
    pub(crate) fn set(&self, service: &str, serving: Serving) {
        let mut said = self.said.lock().unwrap();
        said.insert(service.to_owned(), serving);
    }
}

impl Drop for GrpcHealth {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, said: Said, tls: Option<TlsAcceptor>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                let (said, tls) = (said.clone(), tls.clone());
                clients.spawn(async move {
                    match tls {
                        None => converse(stream, said).await,
                        // Whoever breaks the handshake off has the test's reasons.
                        Some(tls) => if let Ok(stream) = tls.accept(stream).await {
                            converse(stream, said).await;
                        },
                    }
                });
            }
            Some(_) = clients.join_next() => {}
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, said: Said) {
    let service = service_fn(move |request| {
        let said = said.clone();
        async move { Ok::<_, Infallible>(answer(request, &said).await) }
    });
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>, said: &Said) -> Response<Body> {
    let builder = Response::builder().header("content-type", "application/grpc");
    if request.uri().path() != "/grpc.health.v1.Health/Check" {
        let answer = builder.header("grpc-status", "12").body(nothing());
        return answer.unwrap();
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let serving = said.lock().unwrap().get(&service(&body)).cloned();
    let serving = serving.unwrap_or(Serving::Error(5, "unknown service"));
    let message = |status: u8| Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
    let ended = |status: u32| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status));
        Frame::trailers(trailers)
    };
    match serving {
        // A field that has its default is not sent.
        Serving::Status(0) => {
            builder.body(frames([Frame::data(Bytes::from_static(&[0; 5])), ended(0)]))
        }
        Serving::Status(status) => builder.body(frames([message(status), ended(0)])),
        Serving::Error(status, words) => builder
            .header("grpc-status", status)
            .header("grpc-message", words)
            .body(nothing()),
        Serving::ButThen(status) => builder.body(frames([message(1), ended(status)])),
        Serving::NoStatus => builder.body(frames([message(1)])),
        Serving::NoMessage => builder.body(frames([ended(0)])),
        Serving::Http(status) => Response::builder().status(status).body(nothing()),
    }
    .unwrap()
}

/// The service that a `HealthCheckRequest` asks for: field 1, a string.
fn service(body: &[u8]) -> String {
    let message = &body[5..];
    match message {
        [] => String::new(),
        [0x0a, length, name @ ..] if name.len() == usize::from(*length) => {
            String::from_utf8(name.to_vec()).unwrap()
        }
        _ => panic!("not a health check's request: {message:?}"),
    }
}

fn frames<const N: usize>(frames: [Frame<Bytes>; N]) -> Body {
    StreamBody::new(stream::iter(frames.map(Ok))).boxed()
}

/// No body at all: the headers end the stream.
fn nothing() -> Body {
    Empty::new().boxed()
}
