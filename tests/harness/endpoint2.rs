//! Endpoints over HTTP/2 whose every word a test decides: by the library, request by request, or by
//! hand, frame by frame.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::Request;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::certificates::Identity;
use super::wire::{Line, Wire};

/// An endpoint.
pub(crate) struct Endpoint2 {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Endpoint2 {
    /// One that does with each request what it is told, by the library.
    pub(crate) async fn start<F>(
        wire: Wire,
        identity: &Identity,
        builder: Builder,
        serve: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::by_hand(wire, identity, move |_, line| {
            let (builder, serve) = (builder.clone(), serve.clone());
            async move {
                let Ok(mut connection) = builder.handshake(line).await else {
                    return;
                };
                // Both end with the connection.
                let mut requests = JoinSet::new();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    requests.spawn(serve(request, respond));
                }
            }
        })
        .await
    }

    /// One that does with each connection, by its number, what it is told.
    pub(crate) async fn by_hand<F>(
        wire: Wire,
        identity: &Identity,
        serve: impl Fn(u64, Box<dyn Line>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let counted = connections.clone();
        let tls = wire.acceptor(identity);
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let _ = stream.set_nodelay(true);
                let number = counted.fetch_add(1, Ordering::Relaxed);
                let (serve, tls) = (serve.clone(), tls.clone());
                clients.spawn(async move {
                    let line: Box<dyn Line> = match tls {
                        None => Box::new(stream),
                        // Whoever breaks the handshake off has the test's reasons.
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    serve(number, line).await;
                });
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Endpoint2 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The frames of HTTP/2 (RFC 9113, section 6).
pub(crate) mod frame {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;

    /// Of SETTINGS and PING.
    pub(crate) const ACK: u8 = 1;
    /// Of DATA and HEADERS.
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
}

/// A frame that came.
pub(crate) struct Came {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// A connection, frame by frame, of an endpoint that acknowledges what has to be.
pub(crate) struct Frames(Box<dyn Line>);

impl Frames {
    /// Reads the client's preface, and says what is allowed.
    pub(crate) async fn begin(mut line: Box<dyn Line>, settings: &[(u16, u32)]) -> Option<Self> {
        let mut preface = [0; "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()];
        line.read_exact(&mut preface).await.ok()?;
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut frames = Self(line);
        frames.say(frame::SETTINGS, 0, 0, &payload).await?;
        Some(frames)
    }

    /// The next frame that is not only to be acknowledged; none at the end.
    pub(crate) async fn next(&mut self) -> Option<Came> {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, rest @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            match kind {
                frame::SETTINGS if flags & frame::ACK == 0 => {
                    self.say(frame::SETTINGS, frame::ACK, 0, b"").await?;
                }
                frame::PING if flags & frame::ACK == 0 => {
                    self.say(frame::PING, frame::ACK, 0, &payload).await?;
                }
                frame::SETTINGS | frame::PING => {}
                _ => {
                    return Some(Came {
                        kind,
                        flags,
                        stream: u32::from_be_bytes(rest),
                    });
                }
            }
        }
    }

    /// Reads until a request is complete: its stream.
    pub(crate) async fn request(&mut self) -> Option<u32> {
        loop {
            let came = self.next().await?;
            if came.kind <= frame::HEADERS && came.flags & frame::END_STREAM != 0 {
                return Some(came.stream);
            }
        }
    }

    /// Says a frame. Nothing: the client is gone.
    pub(crate) async fn say(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> Option<()> {
        let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
        let mut bytes = vec![a, b, c, kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.0.write_all(&bytes).await.ok()?;
        self.0.flush().await.ok()
    }

    /// Answers 200 with these words.
    pub(crate) async fn answer(&mut self, stream: u32, words: &[u8]) -> Option<()> {
        self.say(frame::HEADERS, frame::END_HEADERS, stream, &[0x88])
            .await?;
        self.say(frame::DATA, frame::END_STREAM, stream, words)
            .await
    }

    /// Resets a stream.
    pub(crate) async fn reset(&mut self, stream: u32, code: u32) -> Option<()> {
        self.say(frame::RST_STREAM, 0, stream, &code.to_be_bytes())
            .await
    }

    /// Says that it takes no more than this stream, and why.
    pub(crate) async fn go_away(&mut self, last: u32, code: u32) -> Option<()> {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.say(frame::GOAWAY, 0, 0, &payload).await
    }
}
