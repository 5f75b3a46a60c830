//! Listeners: addresses on which clients are accepted, added and removed while Portolan runs.
//!
//! [`bind`] takes an address without accepting anybody; [`accept`] lets clients in; [`set`] is all
//! of them together, and changes them when the configuration does.

mod accept;
mod bind;
mod set;

pub(crate) use accept::Service;
pub(crate) use set::ListenerSet;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portolan_certs::ServerTls;
use portolan_config::plan::{LimitsPlan, ListenerPlan};
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
    /// Connections that may be opened beside those that are.
    room: Arc<Semaphore>,
    /// Told when its clients are to leave.
    leaving: watch::Sender<bool>,
}

/// What may change while a listener runs.
#[derive(Debug)]
pub(crate) struct Settings {
    /// As configured.
    pub(crate) plan: ListenerPlan,
    /// TLS, if it is terminated here.
    pub(crate) tls: Option<ServerTls>,
}

impl Listener {
    fn new(bound: SocketAddr, settings: Settings) -> Self {
        Self {
            configured: settings.plan.bind,
            bound,
            room: Arc::new(Semaphore::new(settings.plan.limits.connections)),
            connections: Arc::default(),
            leaving: watch::channel(false).0,
            settings: ArcSwap::new(Arc::new(settings)),
        }
    }

    /// How much one client may ask for.
    pub(crate) fn limits(&self) -> LimitsPlan {
        self.settings.load().plan.limits
    }

    /// Whether every request is answered with a redirect to https.
    pub(crate) fn redirects(&self) -> bool {
        self.settings.load().plan.redirect_to_https
    }

    /// Whether its clients are to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Tells when its clients are to leave: the engine's own kind of signal.
    pub(crate) fn leaving(&self) -> watch::Receiver<bool> {
        self.leaving.subscribe()
    }

    /// Asks its clients to leave.
    fn leave(&self) {
        self.leaving.send_replace(true);
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
