//! A relay in front of an endpoint that can swallow what passes through it, as a network does whose
//! packets vanish: nobody is told. Or it is a long way: everything takes its time, also the news that a
//! connection has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

#[derive(Default)]
struct State {
    /// How long everything takes, each way.
    delay: Duration,
    /// New connections are accepted, and swallowed.
    dark: AtomicBool,
    /// Connections so far that are swallowed and still open.
    swallowing: AtomicU64,
    /// Bytes that were sent over them.
    swallowed: AtomicU64,
    /// Connections that are passed on.
    passing: AtomicU64,
}

/// The relay.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    /// How often all connections of the time went dark.
    nights: watch::Sender<u64>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        Self::over_a_way(to, Duration::ZERO).await
    }

    /// One over which everything takes so long, each way.
    pub(crate) async fn over_a_way(to: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            delay,
            ..State::default()
        });
        let nights = watch::Sender::new(0);
        let task = tokio::spawn({
            let (state, nights) = (state.clone(), nights.clone());
            async move {
                let mut clients = JoinSet::new();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            let (stream, _) = accepted.unwrap();
                            let _ = stream.set_nodelay(true);
                            let night = nights.subscribe();
                            clients.spawn(relay(stream, to, state.clone(), night));
                        }
                        Some(_) = clients.join_next() => {}
                    }
                }
            }
        });
        Self {
            address,
            state,
            nights,
            task,
        }
    }

    /// From now on everything is swallowed: of connections that are there, for ever; of new ones,
    /// until [`Self::dawn`], and those that came before stay dark.
    pub(crate) fn nightfall(&self) {
        self.state.dark.store(true, Ordering::SeqCst);
        self.nights.send_modify(|nights| *nights += 1);
    }

    /// New connections are served again.
    pub(crate) fn dawn(&self) {
        self.state.dark.store(false, Ordering::SeqCst);
    }

    /// Bytes that vanished.
    pub(crate) fn swallowed(&self) -> u64 {
        self.state.swallowed.load(Ordering::SeqCst)
    }

    /// Open connections on which everything vanishes.
    pub(crate) fn swallowing(&self) -> u64 {
        self.state.swallowing.load(Ordering::SeqCst)
    }

    /// Open connections that are passed on.
    pub(crate) fn passing(&self) -> u64 {
        self.state.passing.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn relay(
    mut client: TcpStream,
    to: SocketAddr,
    state: Arc<State>,
    mut night: watch::Receiver<u64>,
) {
    if !state.dark.load(Ordering::SeqCst) {
        let Ok(mut server) = TcpStream::connect(to).await else {
            return;
        };
        let _ = server.set_nodelay(true);
        state.passing.fetch_add(1, Ordering::SeqCst);
        let over = tokio::select! {
            biased;
            _ = night.changed() => false,
            _ = pass(&mut client, &mut server, state.delay) => true,
        };
        state.passing.fetch_sub(1, Ordering::SeqCst);
        if over {
            let _ = client.shutdown().await;
            return;
        }
    }
    state.swallowing.fetch_add(1, Ordering::SeqCst);
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = client.read(&mut piece).await {
        state.swallowed.fetch_add(count as u64, Ordering::SeqCst);
    }
    state.swallowing.fetch_sub(1, Ordering::SeqCst);
}

/// Passes everything on, both ways, until both sides have ended.
async fn pass(client: &mut TcpStream, server: &mut TcpStream, delay: Duration) {
    if delay.is_zero() {
        let _ = tokio::io::copy_bidirectional(client, server).await;
        return;
    }
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::join!(
        late(from_client, to_server, delay),
        late(from_server, to_client, delay)
    );
}

/// Passes on what comes, so much later, and its end.
async fn late(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, delay: Duration) {
    let (arrives, mut due) = mpsc::unbounded_channel();
    let reading = async move {
        let mut piece = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            let _ = arrives.send((Instant::now() + delay, piece[..count].to_vec()));
        }
        // Its end is news, too.
        let _ = arrives.send((Instant::now() + delay, Vec::new()));
    };
    let writing = async move {
        while let Some((when, piece)) = due.recv().await {
            tokio::time::sleep_until(when).await;
            if piece.is_empty() || to.write_all(&piece).await.is_err() {
                let _ = to.shutdown().await;
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
