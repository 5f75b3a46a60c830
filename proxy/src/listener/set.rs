//! All listeners together: what a new configuration adds is bound before it is accepted, what it
//! removes is left gracefully after.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_certs::Material;
use portolan_config::diagnostic::{Code, Diagnostic};
use portolan_config::plan::Plan;
use portolan_control::listeners::{ListenerStatus, Listeners, PreparedListeners};

use super::accept::{Service, accept};
use super::bind::{Bound, HandedSocket};
use super::{Listener, Settings};

/// The listeners of a process.
pub(crate) struct ListenerSet {
    inner: Arc<Inner>,
}

struct Inner {
    service: Service,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listeners: Vec<Arc<Listener>>,
    /// Bound, and not open yet: the process is still warming up.
    closed: Vec<(Arc<Listener>, Bound)>,
    opened: bool,
    /// Sockets of a process before this one, to be used instead of binding anew.
    handed: Vec<HandedSocket>,
}

impl fmt::Debug for ListenerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerSet").finish_non_exhaustive()
    }
}

impl ListenerSet {
    /// No listeners yet.
    pub(crate) fn new(service: Service) -> Self {
        Self {
            inner: Arc::new(Inner {
                service,
                state: Mutex::default(),
            }),
        }
    }

    /// Uses these sockets for the listeners of the first configuration.
    pub(crate) fn inherit(&self, sockets: Vec<HandedSocket>) {
        self.inner.lock().handed = sockets;
    }

    /// Those of the sockets that no listener has use for. They are closed when dropped.
    pub(crate) fn left_over(&self) -> Vec<HandedSocket> {
        std::mem::take(&mut self.inner.lock().handed)
    }

    /// The socket of every listener once more, in the order of the configuration.
    pub(crate) fn sockets(&self) -> std::io::Result<Vec<HandedSocket>> {
        let state = self.inner.lock();
        let mut sockets = Vec::new();
        for listener in &state.listeners {
            if let Some(socket) = listener.duplicate()? {
                let configured = listener.configured;
                sockets.push(HandedSocket { configured, socket });
            }
        }
        Ok(sockets)
    }

    /// Leaves every listener to a process that accepts there already, and asks every client that
    /// is here to leave.
    pub(crate) fn hand_over(&self) {
        let state = self.inner.lock();
        for listener in &state.listeners {
            listener.hand_over();
        }
    }

    /// Opens every listener: from now on clients are accepted, also on those that are added later.
    pub(crate) fn open(&self) -> Result<(), std::io::Error> {
        let mut state = self.inner.lock();
        state.opened = true;
        for (listener, bound) in std::mem::take(&mut state.closed) {
            self.inner.open(listener, bound)?;
        }
        Ok(())
    }

    /// Asks every client to leave, and accepts nobody any more.
    pub(crate) fn leave(&self) {
        let state = self.inner.lock();
        for listener in &state.listeners {
            listener.leave();
        }
    }

    /// Waits until every connection has ended, once clients were asked to leave.
    pub(crate) async fn wait_until_empty(&self) {
        let tasks = &self.inner.service.tasks;
        tasks.close();
        tasks.wait().await;
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first socket of a process before this one that was bound for this address.
    fn take_handed(&self, configured: SocketAddr) -> Option<HandedSocket> {
        let handed = &mut self.lock().handed;
        let at = handed.iter().position(|it| it.configured == configured)?;
        Some(handed.remove(at))
    }

    fn open(&self, listener: Arc<Listener>, bound: Bound) -> std::io::Result<()> {
        let socket = bound.listen()?;
        tracing::info!(
            "listening on {}{}",
            listener.bound,
            if listener.settings.load().tls.is_some() {
                " (TLS)"
            } else {
                ""
            }
        );
        // Among what the process waits for when it stops: it still lets in who was waiting.
        self.service.tasks.spawn_on(
            accept(listener, socket, self.service.clone()),
            // Clients are served by the data plane, whoever changes the set.
            self.service.dispatch.any(),
        );
        Ok(())
    }
}

/// A change of the set, bound and not yet in effect.
struct Prepared {
    inner: Arc<Inner>,
    /// Listeners of the new configuration that stand, with their new settings.
    kept: Vec<(Arc<Listener>, Settings)>,
    added: Vec<(Arc<Listener>, Bound)>,
}

impl PreparedListeners for Prepared {
    fn commit(self: Box<Self>) {
        let mut state = self.inner.lock();
        let mut next: Vec<Arc<Listener>> = Vec::new();
        for (listener, settings) in self.kept {
            listener.change(settings);
            next.push(listener);
        }
        for (listener, bound) in self.added {
            next.push(listener.clone());
            if state.opened {
                if let Err(error) = self.inner.open(listener.clone(), bound) {
                    tracing::error!("cannot listen on {}: {error}", listener.bound);
                }
            } else {
                state.closed.push((listener, bound));
            }
        }
        for listener in &state.listeners {
            if !next.iter().any(|kept| Arc::ptr_eq(kept, listener)) {
                tracing::info!("leaving {}", listener.bound);
                listener.leave();
            }
        }
        state.listeners = next;
    }
}

impl Listeners for ListenerSet {
    fn prepare(
        &self,
        plan: &Arc<Plan>,
        material: &Arc<Material>,
    ) -> Result<Box<dyn PreparedListeners>, Vec<Diagnostic>> {
        let mut standing: HashMap<SocketAddr, Vec<Arc<Listener>>> = HashMap::new();
        for listener in self.inner.lock().listeners.iter().rev() {
            standing
                .entry(listener.configured)
                .or_default()
                .push(listener.clone());
        }
        let mut found = Vec::new();
        let mut prepared = Prepared {
            inner: self.inner.clone(),
            kept: Vec::new(),
            added: Vec::new(),
        };
        for (at, wanted) in plan.listeners.iter().enumerate() {
            let settings = Settings {
                plan: wanted.clone(),
                tls: material.listeners.get(&at).cloned(),
            };
            // Several listeners may wish for any port at one address: each keeps its own.
            if let Some(listener) = standing.get_mut(&wanted.bind).and_then(Vec::pop) {
                prepared.kept.push((listener, settings));
                continue;
            }
            let bound = match self.inner.take_handed(wanted.bind) {
                Some(handed) => Bound::inherit(handed),
                None => Bound::new(wanted.bind),
            };
            let listener = bound.and_then(|bound| Ok((Listener::new(&bound, settings)?, bound)));
            match listener {
                Ok((listener, bound)) => prepared.added.push((Arc::new(listener), bound)),
                Err(error) => found.push(Diagnostic::error(
                    Code::CannotBind,
                    wanted.origin,
                    format!("cannot listen on `{}`: {error}", wanted.bind),
                )),
            }
        }
        if found.is_empty() {
            Ok(Box::new(prepared))
        } else {
            Err(found)
        }
    }

    fn status(&self) -> Vec<ListenerStatus> {
        let state = self.inner.lock();
        let listeners = state.listeners.iter();
        listeners
            .map(|listener| ListenerStatus {
                configured: listener.configured,
                bound: listener.bound,
                tls: listener.settings.load().tls.clone(),
                handshakes: listener.handshakes.clone(),
                connections: listener.connections.clone(),
            })
            .collect()
    }
}
