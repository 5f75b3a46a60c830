//! The admin API: what runs, for operators and their tools.
//!
//! Handlers read the published snapshot and ask the [`Reloader`] and the [`OverrideKeeper`]; they
//! decide nothing themselves.
//! Errors are problem+json (RFC 9457).

mod drains;
mod guard;
mod reply;
mod router;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::engine::Published;
use crate::listeners::Listeners;
use crate::overrides::keeper::OverrideKeeper;
use crate::reload::Reloader;

pub use router::router;

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

    /// Whether traffic should be sent here.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }

    /// The word that users see.
    pub fn as_str(&self) -> &'static str {
        match self.0.load(Ordering::Relaxed) {
            0 => "warming",
            1 => "ready",
            _ => "stopping",
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
    pub overrides: Arc<OverrideKeeper>,
    /// The listeners.
    pub listeners: Arc<dyn Listeners>,
    /// Where the process is in its life.
    pub phase: Phase,
    /// Clocks.
    pub clock: Clock,
    /// Portolan's version.
    pub version: &'static str,
}

/// Serves the API where the running configuration says, and moves when it says something else.
#[derive(Debug)]
pub struct AdminServer {
    bound: watch::Receiver<SocketAddr>,
}

impl AdminServer {
    /// Binds the address of the first configuration.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    /// Serves until the process ends.
    ///
    /// # Errors
    /// When the socket says nothing about its address.
    pub fn start(listener: TcpListener, state: AdminState) -> std::io::Result<Self> {
        let (tell, bound) = watch::channel(listener.local_addr()?);
        tokio::spawn(serve(listener, state, tell));
        Ok(Self { bound })
    }

    /// The address it really has.
    pub fn address(&self) -> SocketAddr {
        *self.bound.borrow()
    }
}

/// Answers under way when the API moves may take this long to finish.
const MOVE_GRACE: Duration = Duration::from_secs(5);

async fn serve(mut listener: TcpListener, state: AdminState, tell: watch::Sender<SocketAddr>) {
    let mut plans = state.reloader.plans();
    let mut configured = plans.borrow_and_update().admin.bind;
    loop {
        let (leave, left) = watch::channel(());
        let app = router(state.clone()).into_make_service_with_connect_info::<SocketAddr>();
        let serving = tokio::spawn(async move {
            let mut left = left;
            axum::serve(listener, app)
                .with_graceful_shutdown(async move {
                    let _ = left.changed().await;
                })
                .await
        });
        // The next address that differs from this one and can be had.
        listener = loop {
            if plans.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let wanted = plans.borrow_and_update().admin.bind;
            if wanted == configured {
                continue;
            }
            match TcpListener::bind(wanted).await {
                Ok(listener) => {
                    configured = wanted;
                    break listener;
                }
                Err(error) => {
                    tracing::error!(
                        "the admin API stays where it is: cannot bind {wanted}: {error}"
                    );
                }
            }
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!("the admin API moves to {address}");
            tell.send_replace(address);
        }
        drop(leave);
        tokio::spawn(async move {
            let mut serving = serving;
            if tokio::time::timeout(MOVE_GRACE, &mut serving)
                .await
                .is_err()
            {
                serving.abort();
            }
        });
    }
}
