//! All listeners together: what a new configuration adds is bound before it is accepted, what it
//! removes is left gracefully after.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, io};

use portolan_certs::Material;
use portolan_config::diagnostic::{Code, Diagnostic};
use portolan_config::plan::{ListenerPlan, Plan};
use portolan_config::source::Origin;
use portolan_control::reload::listeners::{Listeners, PreparedListeners};
use portolan_control::telemetry::listener_status::ListenerStatus;
use tokio::sync::watch;

use crate::accept::accept;
use crate::accept::service::Service;
use crate::descriptors;
use crate::listener::bind::{Bound, HandedSocket, Shared, covers, overlap};
use crate::listener::socket::{ListenSocket, Opening};
use crate::listener::{Listener, ListenerAddress, Settings};

/// The listeners of a process.
pub(crate) struct ListenerSet {
    inner: Arc<Inner>,
}

struct Inner {
    service: Service,
    state: Mutex<SetState>,
}

#[derive(Default)]
struct SetState {
    listeners: Vec<Arc<Listener>>,
    /// Bound, and not open yet: the process is still warming up.
    closed: Vec<(Arc<Listener>, Bound)>,
    /// Those of them that have clients in common, until they listen.
    shared: Vec<Shared>,
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

    /// The sockets of every listener once more: those at their own addresses, in the order of the
    /// configuration, and then all others.
    pub(crate) fn sockets(&self) -> io::Result<Vec<HandedSocket>> {
        let state = self.inner.lock();
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for listener in &state.listeners {
            let configured = listener.place().configured;
            for (at, socket) in listener.sockets().iter().enumerate() {
                let socket = socket.duplicate()?;
                let list = if at == 0 { &mut own } else { &mut others };
                list.push(HandedSocket { configured, socket });
            }
        }
        own.extend(others);
        Ok(own)
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
    pub(crate) fn open(&self) -> io::Result<()> {
        let mut state = self.inner.lock();
        state.opened = true;
        // Whatever is open now is needed to serve anybody at all.
        descriptors::measure();
        for (listener, bound) in std::mem::take(&mut state.closed) {
            let address = bound.address();
            let sockets = listener.sockets();
            let socket = sockets.iter().find(|socket| socket.address == address);
            // One that was to leave before it was opened has none.
            let opening = socket.map(ListenSocket::opening);
            drop(sockets);
            if let Some(opening) = opening {
                self.inner.open(listener, bound, opening)?;
            }
        }
        // All of them listen.
        state.shared.clear();
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
    fn lock(&self) -> std::sync::MutexGuard<'_, SetState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first socket of a process before this one that was bound for this address.
    fn take_handed(&self, configured: SocketAddr) -> Option<HandedSocket> {
        let handed = &mut self.lock().handed;
        let at = handed.iter().position(|it| it.configured == configured)?;
        Some(handed.remove(at))
    }

    /// Lets a listener's clients in by a socket at this address, as long as it is open.
    fn open(
        &self,
        listener: Arc<Listener>,
        bound: Bound,
        opening: watch::Receiver<Opening>,
    ) -> io::Result<()> {
        let address = bound.address();
        let socket = bound.listen()?;
        tracing::info!(
            "listening on {address}{}",
            if listener.settings.load().tls.is_some() {
                " (TLS)"
            } else {
                ""
            }
        );
        // Among what the process waits for when it stops: it still lets in who was waiting.
        self.service.tasks.spawn_on(
            accept(listener, socket, opening, self.service.clone()),
            // Clients are served by the data plane, whoever changes the set.
            self.service.dispatch.any(),
        );
        Ok(())
    }
}

/// What becomes of a listener of the new configuration.
enum Step {
    /// It stands.
    Keep(Arc<Listener>, Settings),
    /// It stands, at another address: its clients stay.
    Move(Arc<Listener>, Settings, Bound),
    /// It is new.
    Add(Arc<Listener>, Bound),
}

impl Step {
    fn listener(&self) -> &Arc<Listener> {
        match self {
            Self::Keep(listener, _) | Self::Move(listener, ..) | Self::Add(listener, _) => listener,
        }
    }

    /// The address that it will have.
    fn address(&self) -> SocketAddr {
        match self {
            Self::Keep(listener, _) => listener.place().bound,
            Self::Move(_, _, bound) | Self::Add(_, bound) => bound.address(),
        }
    }
}

/// A change of the set, bound and not yet in effect.
struct Prepared {
    inner: Arc<Inner>,
    /// Listeners of the new configuration, in its order.
    steps: Vec<Step>,
    /// Sockets whose own listener goes, for the listener that their clients come to then: its place
    /// among the steps.
    others: Vec<(usize, Bound)>,
    shared: Shared,
}

impl PreparedListeners for Prepared {
    fn commit(self: Box<Self>) {
        let mut state = self.inner.lock();
        let mut next: Vec<Arc<Listener>> = Vec::new();
        // What new clients do not come by any more.
        let mut old: Vec<(ListenSocket, Opening)> = Vec::new();
        for step in self.steps {
            next.push(step.listener().clone());
            match step {
                Step::Keep(listener, settings) => listener.change(settings),
                Step::Move(listener, settings, bound) => {
                    let from = listener.place().bound;
                    let (configured, address) = (settings.plan.bind, bound.address());
                    listener.change(settings);
                    match self.inner.enter(&mut state, &listener, bound, 0) {
                        Ok(sockets) => {
                            tracing::info!("moving from {from} to {address}");
                            let bound = address;
                            listener
                                .place
                                .store(Arc::new(ListenerAddress { configured, bound }));
                            old.extend(sockets.into_iter().map(|socket| {
                                let how = match covers(socket.address, address) {
                                    true => Opening::Lingering,
                                    false => Opening::Closed,
                                };
                                (socket, how)
                            }));
                        }
                        Err(error) => tracing::error!("cannot listen on {address}: {error}"),
                    }
                }
                Step::Add(listener, bound) => {
                    let opening = listener.sockets().first().map(ListenSocket::opening);
                    let Some(opening) = opening.filter(|_| state.opened) else {
                        state.closed.push((listener, bound));
                        continue;
                    };
                    let address = bound.address();
                    if let Err(error) = self.inner.open(listener, bound, opening) {
                        tracing::error!("cannot listen on {address}: {error}");
                    }
                }
            }
        }
        let mut taken: Vec<SocketAddr> = Vec::new();
        for (at, bound) in self.others {
            let address = bound.address();
            let listener = &next[at];
            let last = listener.sockets().len();
            match self.inner.enter(&mut state, listener, bound, last) {
                Ok(_) => taken.push(address),
                Err(error) => tracing::error!("cannot go on listening on {address}: {error}"),
            }
        }
        state.handed.retain(|handed| {
            let address = handed.bound();
            address.is_ok_and(|address| !taken.contains(&address))
        });
        taken.extend(next.iter().map(|listener| listener.place().bound));
        // A narrower address of one listener may have become another one's own.
        for listener in &next {
            let mut sockets = listener.sockets();
            let own = |socket: &ListenSocket| socket.address == listener.place().bound;
            let others = next.iter().map(|next| next.place().bound);
            let others: Vec<SocketAddr> = others.collect();
            let (stay, go) = sockets
                .drain(..)
                .partition(|socket| own(socket) || !others.contains(&socket.address));
            *sockets = stay;
            let go: Vec<ListenSocket> = go;
            old.extend(go.into_iter().map(|socket| (socket, Opening::Taken)));
        }
        // Nobody is turned away: from here on others let them in.
        let how_of = |address: SocketAddr, how| match taken.contains(&address) {
            true => Opening::Taken,
            false => how,
        };
        for (socket, how) in old {
            let how = how_of(socket.address, how);
            socket.close(how);
        }
        for listener in &state.listeners {
            if !next.iter().any(|kept| Arc::ptr_eq(kept, listener)) {
                tracing::info!("leaving {}", listener.place().bound);
                for socket in listener.sockets().drain(..) {
                    let covered = next
                        .iter()
                        .any(|next| covers(socket.address, next.place().bound));
                    let how = match covered {
                        true => Opening::Lingering,
                        false => Opening::Closed,
                    };
                    let how = how_of(socket.address, how);
                    socket.close(how);
                }
                listener.leave();
            }
        }
        state.listeners = next;
        if !state.opened {
            state.shared.push(self.shared);
        }
    }
}

impl Inner {
    /// Gives a listener one more socket, at this place among its sockets. Its sockets that let in clients who
    /// come by the new one from now on are given back.
    fn enter(
        &self,
        state: &mut SetState,
        listener: &Arc<Listener>,
        bound: Bound,
        at: usize,
    ) -> io::Result<Vec<ListenSocket>> {
        let address = bound.address();
        let socket = ListenSocket::new(&bound)?;
        let own = at == 0;
        if state.opened {
            self.open(listener.clone(), bound, socket.opening())?;
        } else {
            if own {
                let other = |(other, _): &(Arc<Listener>, Bound)| !Arc::ptr_eq(other, listener);
                state.closed.retain(other);
            }
            state.closed.push((listener.clone(), bound));
        }
        let mut sockets = listener.sockets();
        let mut old = Vec::new();
        if own {
            // A narrower one stays: its clients are this listener's.
            let stays = |socket: &ListenSocket| {
                covers(address, socket.address) && socket.address != address
            };
            let (stay, go) = sockets
                .drain(..)
                .partition(|socket| state.opened && stays(socket));
            (*sockets, old) = (stay, go);
        }
        sockets.insert(at, socket);
        Ok(old)
    }

    /// Every socket of this process where clients come in or may come in.
    fn own(&self) -> io::Result<Vec<(SocketAddr, OwnedFd)>> {
        let state = self.lock();
        let mut own = Vec::new();
        for listener in &state.listeners {
            for socket in listener.sockets().iter() {
                own.push((socket.address, socket.duplicate()?));
            }
        }
        for handed in &state.handed {
            own.push((handed.bound()?, handed.socket.try_clone()?));
        }
        Ok(own)
    }

    /// Takes an address: with a socket of this process that has it, or of one before it, or anew.
    fn bind(
        &self,
        wanted: SocketAddr,
        own: &[(SocketAddr, OwnedFd)],
        shared: &mut Shared,
    ) -> io::Result<Bound> {
        if let Some(handed) = self.take_handed(wanted) {
            return Bound::inherit(handed);
        }
        if wanted.port() == 0 {
            return Bound::new(wanted, None);
        }
        if let Some((address, socket)) = own.iter().find(|(address, _)| *address == wanted) {
            return Ok(Bound::again(socket.try_clone()?, *address));
        }
        let mut alone = true;
        for (_, socket) in own.iter().filter(|(address, _)| overlap(*address, wanted)) {
            shared.add(socket)?;
            alone = false;
        }
        Bound::new(wanted, (!alone).then_some(shared))
    }
}

impl Listeners for ListenerSet {
    fn prepare(
        &self,
        plan: &Arc<Plan>,
        material: &Arc<Material>,
    ) -> Result<Box<dyn PreparedListeners>, Vec<Diagnostic>> {
        let mut prepared = Prepared {
            inner: self.inner.clone(),
            steps: Vec::new(),
            others: Vec::new(),
            shared: Shared::default(),
        };
        let mut own = match self.inner.own() {
            Ok(own) => own,
            Err(error) => return Err(vec![out_of_sockets(&error)]),
        };
        // Several listeners may wish for any port at one address: each keeps its own.
        let mut standing: Vec<Arc<Listener>> = self.inner.lock().listeners.clone();
        let mut find = |fits: &dyn Fn(ListenerAddress) -> bool| {
            let at = standing.iter().position(|it| fits(it.place()))?;
            Some(standing.remove(at))
        };
        let mut kept: Vec<Option<Arc<Listener>>> = plan
            .listeners
            .iter()
            .map(|wanted| find(&|place| place.configured == wanted.bind))
            .collect();
        let mut moved: Vec<Option<Arc<Listener>>> = plan
            .listeners
            .iter()
            .zip(&kept)
            .map(|(wanted, kept)| match kept {
                Some(_) => None,
                None => find(&|place| overlap(place.bound, wanted.bind)),
            })
            .collect();
        let mut found = Vec::new();
        for (at, wanted) in plan.listeners.iter().enumerate() {
            let settings = Settings {
                plan: wanted.clone(),
                tls: material.listeners.get(&at).cloned(),
            };
            if let Some(listener) = kept[at].take() {
                prepared.steps.push(Step::Keep(listener, settings));
                continue;
            }
            let bound = self.inner.bind(wanted.bind, &own, &mut prepared.shared);
            let step = bound.and_then(|bound| {
                own.push((bound.address(), bound.duplicate()?));
                Ok(match moved[at].take() {
                    Some(listener) => Step::Move(listener, settings, bound),
                    None => Step::Add(Arc::new(Listener::new(&bound, settings)?), bound),
                })
            });
            match step {
                Ok(step) => prepared.steps.push(step),
                Err(error) => {
                    let taken = own.iter().any(|(other, _)| overlap(*other, wanted.bind));
                    found.push(cannot_bind(wanted, &error, taken));
                }
            }
        }
        if let Err(error) = prepared.keep_others() {
            found.push(out_of_sockets(&error));
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
                configured: listener.place().configured,
                bound: listener.place().bound,
                tls: listener.settings.load().tls.clone(),
                handshakes: listener.handshakes.clone(),
                connections: listener.connections.clone(),
            })
            .collect()
    }
}

impl Prepared {
    /// Finds out which sockets would be closed although their clients come to a listener that there will
    /// be: that one keeps them. To close them would turn away who is being connected.
    fn keep_others(&mut self) -> io::Result<()> {
        let state = self.inner.lock();
        let mut going: Vec<(SocketAddr, OwnedFd)> = Vec::new();
        for listener in &state.listeners {
            let mut steps = self.steps.iter();
            let step = steps.find(|step| Arc::ptr_eq(step.listener(), listener));
            for socket in listener.sockets().iter() {
                let stays = match step {
                    Some(Step::Keep(..)) => true,
                    // Narrower ones stay with it.
                    Some(step) => covers(step.address(), socket.address),
                    None => false,
                };
                if !stays {
                    going.push((socket.address, socket.duplicate()?));
                }
            }
        }
        for handed in &state.handed {
            going.push((handed.bound()?, handed.socket.try_clone()?));
        }
        drop(state);
        for (address, socket) in going {
            let mut steps = self.steps.iter();
            if steps.any(|step| step.address() == address) {
                continue;
            }
            // Whom the system would give its clients to: the narrowest.
            let steps = self.steps.iter().enumerate();
            let next = steps
                .filter(|(_, step)| covers(step.address(), address))
                .min_by_key(|(_, step)| step.address().is_ipv6());
            if let Some((at, _)) = next {
                self.others.push((at, Bound::again(socket, address)));
            }
        }
        Ok(())
    }
}

/// What is said when an address cannot be had. `shared`: this process has clients in common with it
/// already.
fn cannot_bind(wanted: &ListenerPlan, error: &io::Error, shared: bool) -> Diagnostic {
    let message = format!("cannot listen on `{}`: {error}", wanted.bind);
    let diagnostic = Diagnostic::error(Code::CannotBind, wanted.origin, message);
    if shared && error.kind() == io::ErrorKind::AddrInUse {
        return diagnostic.help(
            "the port is this process's own, but another user opened its socket (systemd, by a \
             .socket unit): change the address there as well, and restart",
        );
    }
    diagnostic
}

/// What is said when sockets of this process cannot be had once more.
fn out_of_sockets(error: &io::Error) -> Diagnostic {
    let message = format!("cannot change the listeners: {error}");
    Diagnostic::error(Code::CannotBind, Origin::Default, message)
}
