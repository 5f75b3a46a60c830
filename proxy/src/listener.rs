//! Listeners: addresses on which clients are accepted, added and removed while Portolan runs.
//!
//! [`bind`] takes an address without accepting anybody; [`socket`] is where clients come in, and [`accept`](crate::accept)
//! lets them; [`set`](crate::accept::set) is all listeners together, and changes them when the configuration does.

pub(crate) mod bind;
mod per_client;
pub(crate) mod socket;

pub use bind::HandedSocket;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use portolan_certs::ServerTls;
use portolan_config::plan::{LimitsPlan, ListenerPlan};
use portolan_control::counters::Gauge;
use portolan_control::telemetry::handshakes::Handshakes;
use tokio::sync::{Semaphore, watch};

use self::bind::Bound;
use crate::listener::socket::{ListenSocket, Opening};
use per_client::PerClient;

/// An address on which clients are accepted, as long as its configuration keeps it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Where it is.
    pub(crate) place: ArcSwap<ListenerAddress>,
    /// What may change while it runs.
    pub(crate) settings: ArcSwap<Settings>,
    /// Open connections.
    pub(crate) connections: Arc<Gauge>,
    /// TLS handshakes.
    pub(crate) handshakes: Arc<Handshakes>,
    /// Connections that may be opened beside those that are.
    pub(crate) room: Arc<Semaphore>,
    /// Open connections by client.
    pub(crate) clients: Arc<PerClient>,
    /// Told when its clients are to leave.
    leaving: watch::Sender<bool>,
    /// They are: for those who only look.
    left: AtomicBool,
    /// Where its clients come in, at its own address first. None when they are to leave.
    sockets: Mutex<Vec<ListenSocket>>,
}

/// Where a listener is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenerAddress {
    /// The address in the configuration.
    pub(crate) configured: SocketAddr,
    /// The address it really has.
    pub(crate) bound: SocketAddr,
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
    pub(crate) fn new(bound: &Bound, settings: Settings) -> io::Result<Self> {
        Ok(Self {
            place: ArcSwap::from_pointee(ListenerAddress {
                configured: settings.plan.bind,
                bound: bound.address(),
            }),
            sockets: Mutex::new(vec![ListenSocket::new(bound)?]),
            room: Arc::new(Semaphore::new(settings.plan.limits.connections)),
            connections: Arc::default(),
            handshakes: Arc::default(),
            clients: Arc::default(),
            leaving: watch::channel(false).0,
            left: AtomicBool::new(false),
            settings: ArcSwap::new(Arc::new(settings)),
        })
    }

    /// Where it is.
    pub(crate) fn place(&self) -> ListenerAddress {
        **self.place.load()
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
    pub(crate) fn leave(&self) {
        self.close(Opening::Closed);
    }

    /// Leaves the address to another process that accepts there already.
    pub(crate) fn hand_over(&self) {
        self.close(Opening::Taken);
    }

    fn close(&self, how: Opening) {
        for socket in self.sockets().drain(..) {
            socket.close(how);
        }
        self.left.store(true, Ordering::Relaxed);
        self.leaving.send_replace(true);
    }

    pub(crate) fn sockets(&self) -> std::sync::MutexGuard<'_, Vec<ListenSocket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a changed configuration. Connections that are open keep what they agreed on.
    pub(crate) fn change(&self, settings: Settings) {
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
