//! A relay in front of an endpoint that can swallow what passes through it, as a network does whose
//! packets vanish: nobody is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Default)]
struct State {
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<State>::default();
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
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => true,
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
