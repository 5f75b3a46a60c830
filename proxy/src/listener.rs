//! Listeners: addresses on which clients are accepted, added and removed while Portolan runs.
//!
//! [`bind`] takes an address without accepting anybody; [`accept`] lets clients in; [`set`] is all
//! of them together, and changes them when the configuration does.

mod accept;
mod bind;
mod handshake;
mod http2;
mod per_client;
mod proxied;
mod set;

pub(crate) use accept::Service;
pub use bind::HandedSocket;
use per_client::PerClient;
pub(crate) use set::ListenerSet;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use portolan_certs::ServerTls;
use portolan_config::plan::{LimitsPlan, ListenerPlan};
use portolan_control::handshakes::Handshakes;
use portolan_control::stats::Gauge;
use tokio::sync::{Semaphore, watch};

/// An address on which clients are accepted, as long as its configuration keeps it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The address in the configuration.
    pub(crate) configured: SocketAddr,
    /// The address it really has.
    pub(crate) bound: SocketAddr,
    /// What may change while it runs.
    settings: ArcSwap<Settings>,
    /// Open connections.
    pub(crate) connections: Arc<Gauge>,
    /// TLS handshakes.
    pub(crate) handshakes: Arc<Handshakes>,
    /// Connections that may be opened beside those that are.
    room: Arc<Semaphore>,
    /// Open connections by client.
    pub(crate) clients: Arc<PerClient>,
    /// Told when its clients are to leave.
    leaving: watch::Sender<bool>,
    /// They are: for those who only look.
    left: AtomicBool,
    /// The socket once more, for a process that takes over. Gone when its clients are to leave:
    /// as long as anybody has it, clients can connect.
    socket: Mutex<Option<OwnedFd>>,
    /// Another process accepts here now.
    handed_over: AtomicBool,
}

/// What may change while a listener runs.
#[derive(Debug)]
pub(crate) struct Settings {
    /// As configured.
    pub(crate) plan: ListenerPlan,
    /// TLS, if it is terminated here.
    pub(crate) tls: Option<Arc<ServerTls>>,
}

impl Listener {
    fn new(bound: &bind::Bound, settings: Settings) -> io::Result<Self> {
        Ok(Self {
            configured: settings.plan.bind,
            bound: bound.address(),
            socket: Mutex::new(Some(bound.duplicate()?)),
            handed_over: AtomicBool::new(false),
            room: Arc::new(Semaphore::new(settings.plan.limits.connections)),
            connections: Arc::default(),
            handshakes: Arc::default(),
            clients: Arc::default(),
            leaving: watch::channel(false).0,
            left: AtomicBool::new(false),
            settings: ArcSwap::new(Arc::new(settings)),
        })
    }

    /// How much one client may ask for.
    pub(crate) fn limits(&self) -> LimitsPlan {
        self.settings.load().plan.limits
    }

    /// What may change while it runs, as it is now.
    pub(crate) fn settings(&self) -> arc_swap::Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Whether every request is answered with a redirect to https.
    pub(crate) fn redirects(&self) -> bool {
        self.settings.load().plan.redirect_to_https
    }

    /// Whether its clients are to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Tells when its clients are to leave.
    pub(crate) fn leaving(&self) -> watch::Receiver<bool> {
        let mut leaving = self.leaving.subscribe();
        if *leaving.borrow() {
            // Whoever comes this late still has to be told, not only whoever was there before.
            leaving.mark_changed();
        }
        leaving
    }

    /// Asks its clients to leave, and accepts nobody any more.
    fn leave(&self) {
        self.socket().take();
        self.left.store(true, Ordering::Relaxed);
        self.leaving.send_replace(true);
    }

    /// Leaves the address to another process that accepts there already.
    fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
        self.leave();
    }

    /// Whether another process accepts here now.
    fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed)
    }

    /// The socket once more, if clients may still come.
    fn duplicate(&self) -> io::Result<Option<OwnedFd>> {
        self.socket().as_ref().map(OwnedFd::try_clone).transpose()
    }

    fn socket(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a changed configuration. Connections that are open keep what they agreed on.
    fn change(&self, settings: Settings) {
        let before = self.settings.load().plan.limits.connections;
        let after = settings.plan.limits.connections;
        if after > before {
            self.room.add_permits(after - before);
        } else {
            self.room.forget_permits(before - after);
        }
        self.settings.store(Arc::new(settings));
    }
}
