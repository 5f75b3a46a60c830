//! One cloud whose endpoints speak HTTP/2 in clear text (and HTTP/1.1, to whoever drives this): small
//! answers, and one that hardly anybody reads to its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;

use crate::origin::{BODY, listen, say};

/// A large answer: so many pieces of so much.
const PIECES: usize = 1024;
const PIECE: usize = 64 << 10;

/// Streams of one connection, as most servers have them.
const STREAMS: u32 = 250;

/// Serves at these addresses, for ever. Says a line when it does.
pub(crate) async fn serve(name: &str, addresses: Vec<SocketAddr>) {
    let name: Arc<str> = name.into();
    let connections = Arc::<AtomicU64>::default();
    for address in addresses {
        let listener = listen(address);
        let (name, connections) = (name.clone(), connections.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                stream.set_nodelay(true).expect("a connection");
                connections.fetch_add(1, Ordering::Relaxed);
                let (name, connections) = (name.clone(), connections.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = answer(&request, &name, &connections);
                        async move {
                            // Who is not heard to the end ends the connection.
                            let _ = request.into_body().collect().await;
                            Ok::<_, Infallible>(answer)
                        }
                    });
                    let mut builder = Builder::new(TokioExecutor::new());
                    builder.http2().max_concurrent_streams(STREAMS);
                    // A connection that breaks is over; whoever broke it knows.
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
    }
    say("serving");
    std::future::pending::<()>().await;
}

fn answer(
    request: &Request<Incoming>,
    name: &str,
    connections: &AtomicU64,
) -> Response<BoxBody<Bytes, Infallible>> {
    let whole = |text: String| Full::new(Bytes::from(text)).boxed();
    let body = match request.uri().path() {
        "/health" => whole("ok".to_owned()),
        "/connections" => whole(connections.load(Ordering::Relaxed).to_string()),
        "/large" => {
            static PART: [u8; PIECE] = [b'x'; PIECE];
            let pieces = (0..PIECES).map(|_| Ok(Frame::data(Bytes::from_static(&PART))));
            StreamBody::new(stream::iter(pieces)).boxed()
        }
        _ => whole("x".repeat(BODY)),
    };
    let answer = Response::builder().header("x-cloud", name).body(body);
    answer.expect("an answer")
}
