//! An endpoint over HTTP/1.1 that closes idle connections when it likes, with or without saying so
//! before, and that writes its answers in pieces. Each answer says over which connection it came.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::certificates::Identity;
use super::wire::{Line, Wire};

/// How it behaves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Habits {
    /// What it says of `Keep-Alive`.
    pub(crate) says: Option<String>,
    /// How long a connection may be idle.
    pub(crate) closes_after: Option<Duration>,
    /// What answers are made of: each piece is written by itself. The first one begins the head; in it,
    /// `{keep}` stands for the line of `Keep-Alive` and for that of the connection's number.
    pub(crate) pieces: Option<Vec<String>>,
}

#[derive(Default)]
struct State {
    /// Connections so far.
    accepted: AtomicU64,
    /// Those that the other side has closed.
    left: AtomicU64,
}

/// The endpoint.
pub(crate) struct Keeper {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(crate) async fn start(wire: Wire, identity: &Identity, habits: Habits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
        let tls = wire.acceptor(identity);
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
                        let (tls, state, habits) = (tls.clone(), shared.clone(), habits.clone());
                        clients.spawn(async move {
                            let line: Box<dyn Line> = match tls {
                                None => Box::new(stream),
                                Some(tls) => match tls.accept(stream).await {
                                    Ok(stream) => Box::new(stream),
                                    Err(_) => return,
                                },
                            };
                            if serve(line, number, &habits).await == Ended::ByThem {
                                state.left.fetch_add(1, Ordering::SeqCst);
                            }
                        });
                    }
                    Some(_) = clients.join_next() => {}
                }
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Those of them that the other side has closed.
    pub(crate) fn left(&self) -> u64 {
        self.state.left.load(Ordering::SeqCst)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(PartialEq)]
enum Ended {
    ByUs,
    ByThem,
}

async fn serve(mut line: Box<dyn Line>, number: u64, habits: &Habits) -> Ended {
    let mut keep = format!("x-connection: {number}\r\n");
    if let Some(says) = &habits.says {
        keep += &format!("connection: keep-alive\r\nkeep-alive: {says}\r\n");
    }
    let whole =
        ["HTTP/1.1 200 OK\r\n{keep}x-origin: keeper\r\ncontent-length: 2\r\n\r\nok".to_owned()];
    let pieces = habits.pieces.as_deref().unwrap_or(&whole);
    loop {
        let reading = request(&mut line);
        let read = match habits.closes_after {
            None => reading.await,
            Some(limit) => match tokio::time::timeout(limit, reading).await {
                Ok(read) => read,
                // Like a server: whatever is on its way is lost.
                Err(_) => return Ended::ByUs,
            },
        };
        if read.is_none() {
            return Ended::ByThem;
        }
        for piece in pieces {
            let piece = piece.replace("{keep}", &keep);
            if line.write_all(piece.as_bytes()).await.is_err() || line.flush().await.is_err() {
                return Ended::ByThem;
            }
        }
    }
}

/// Reads a request as a whole. Nothing: there is none any more.
async fn request(line: &mut Box<dyn Line>) -> Option<()> {
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = seen.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .map_or(0, |length| length.trim().parse().unwrap());
            if seen.len() >= end + 4 + length {
                return Some(());
            }
        }
        match line.read(&mut piece).await {
            Ok(count @ 1..) => seen.extend_from_slice(&piece[..count]),
            _ => return None,
        }
    }
}
