//! What handlers look at.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use crate::background::overrides::OverrideStore;
use crate::clock::Clock;
use crate::engine::Published;
use crate::events::journal::Journal;
use crate::reload::Reloader;
use crate::reload::listeners::Listeners;
use crate::supervisor::Supervisor;

/// Where the process is in its life.
#[derive(Clone, Debug, Default)]
pub struct Phase(Arc<AtomicU8>);

impl Phase {
    /// The listeners are open.
    pub fn set_ready(&self) {
        self.0.store(1, Ordering::Relaxed);
    }

    /// The process is stopping.
    pub fn set_stopping(&self) {
        self.0.store(2, Ordering::Relaxed);
    }

    /// Another process serves; this one finishes what it has begun.
    pub fn set_handed_over(&self) {
        self.0.store(3, Ordering::Relaxed);
    }

    /// Whether traffic should be sent here: to this address, whichever process has it.
    pub fn is_ready(&self) -> bool {
        matches!(self.0.load(Ordering::Relaxed), 1 | 3)
    }

    /// The word that users see.
    pub fn as_str(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            0 => "warming",
            1 => "ready",
            2 => "stopping",
            _ => "handed over",
        }
    }
}

/// What handlers look at.
#[derive(Clone, Debug)]
pub struct AdminState {
    /// The current snapshot.
    pub published: Published,
    /// What runs, and how to replace it.
    pub reloader: Arc<Reloader>,
    /// What operators have overridden, and how they do.
    pub overrides: Arc<OverrideStore>,
    /// What happened lately.
    pub journal: Arc<Journal>,
    /// The listeners.
    pub listeners: Arc<dyn Listeners>,
    /// Where the process is in its life.
    pub phase: Phase,
    /// Clocks.
    pub clock: Clock,
    /// Portolan's version.
    pub version: &'static str,
    /// The socket where upgrades are asked for, once there is one.
    pub upgrade_socket: Arc<OnceLock<PathBuf>>,
    /// How many clients there may be at the same time.
    pub room: usize,
    /// Who begins the API again if it fails.
    pub supervisor: Supervisor,
}
