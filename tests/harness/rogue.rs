//! Endpoints that misbehave on purpose, byte by byte.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// How an endpoint misbehaves, once it was connected to.
#[derive(Clone, Debug)]
pub(crate) enum Rogue {
    /// Resets the connection at once.
    ResetAtOnce,
    /// Reads the request and resets the connection.
    ResetAfterRequest,
    /// Reads the request and closes the connection.
    CloseAfterRequest,
    /// Reads and never says a word.
    Stall,
    /// Answers with these bytes, and closes.
    Say(Vec<u8>),
    /// Answers with these bytes, and then never says another word.
    SayAndStall(Vec<u8>),
    /// Answers with these bytes, one at a time.
    Drip(Vec<u8>, Duration),
}

/// An endpoint that misbehaves.
pub(crate) struct RogueEndpoint {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl RogueEndpoint {
    pub(crate) async fn start(rogue: Rogue) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        clients.spawn(misbehave(stream, rogue.clone()));
                    }
                    Some(_) = clients.join_next() => {}
                }
            }
        });
        Self { address, task }
    }

    /// Says these bytes to everybody.
    pub(crate) async fn saying(bytes: &[u8]) -> Self {
        Self::start(Rogue::Say(bytes.to_vec())).await
    }
}

impl Drop for RogueEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where nobody listens, so that connections are refused, and which nobody else gets
/// while this process lives.
pub(crate) async fn nobody() -> SocketAddr {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// An address where connections are neither accepted nor refused: the queue is full.
pub(crate) struct BlackHole {
    pub(crate) address: SocketAddr,
    _listener: std::net::TcpListener,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) async fn start() -> Self {
        let socket = socket2::Socket::new(
            socket2::Domain::IPV4,
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )
        .unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let listener = std::net::TcpListener::from(socket);
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        // Fill the queue until nobody gets in any more.
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            waiting.push(stream);
        }
        Self {
            address,
            _listener: listener,
            _waiting: waiting,
        }
    }
}

async fn misbehave(mut stream: TcpStream, rogue: Rogue) {
    let reset = |stream: TcpStream| {
        let _ = stream.set_zero_linger();
        drop(stream);
    };
    if matches!(rogue, Rogue::ResetAtOnce) {
        return reset(stream);
    }
    read_head(&mut stream).await;
    match rogue {
        Rogue::ResetAtOnce | Rogue::ResetAfterRequest => reset(stream),
        Rogue::CloseAfterRequest => {}
        Rogue::Stall => linger(stream).await,
        Rogue::Say(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            // Closing with unread bytes would reset the connection and take the answer along.
            linger(stream).await;
        }
        Rogue::SayAndStall(bytes) => {
            let _ = stream.write_all(&bytes).await;
            linger(stream).await;
        }
        Rogue::Drip(bytes, pause) => {
            for byte in bytes {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
            }
            let _ = stream.shutdown().await;
            linger(stream).await;
        }
    }
}

async fn read_head(stream: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !seen.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(count) => seen.extend_from_slice(&piece[..count]),
        }
    }
}

/// Reads until the other side goes away.
async fn linger(mut stream: TcpStream) {
    let mut piece = [0; 4096];
    while let Ok(1..) = stream.read(&mut piece).await {}
}
