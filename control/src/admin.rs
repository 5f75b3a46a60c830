//! The admin API: what runs, for operators and their tools.
//!
//! Handlers read the published snapshot and ask the [`Reloader`](crate::reload::Reloader) and the [`OverrideStore`](crate::background::overrides::OverrideStore); they
//! decide nothing themselves.
//! Errors are problem+json (RFC 9457).

mod drains;
mod events;
mod explain;
mod given;
mod guard;
mod listener;
mod openapi;
mod overrides;
mod reply;
mod router;
pub mod state;
mod weights;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderValue, header};
use axum::response::Response;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::admin::state::AdminState;

pub use crate::admin::listener::room;
pub use router::router;

/// Serves the API where the running configuration says, and moves when it says something else.
#[derive(Debug)]
pub struct AdminServer {
    place: Arc<Mutex<AdminAddress>>,
    /// Nobody new, and those who are served finish.
    leaving: watch::Sender<bool>,
    /// Closed when nobody is served any more.
    served: watch::Receiver<()>,
}

/// Where the API is.
#[derive(Debug)]
struct AdminAddress {
    configured: SocketAddr,
    bound: SocketAddr,
    /// The socket once more, for a process that takes over, until the API leaves.
    socket: Option<OwnedFd>,
}

impl AdminAddress {
    fn new(configured: SocketAddr, listener: &TcpListener) -> io::Result<Self> {
        Ok(Self {
            configured,
            bound: listener.local_addr()?,
            socket: Some(listener.as_fd().try_clone_to_owned()?),
        })
    }
}

impl AdminServer {
    /// Binds the address of the first configuration.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    /// Takes over the socket of a process before this one.
    ///
    /// # Errors
    /// When it is not a listening one.
    pub fn inherit(socket: OwnedFd) -> io::Result<TcpListener> {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    /// Serves until the process ends, or until it is to leave.
    ///
    /// # Errors
    /// When the socket says nothing about its address.
    pub fn start(listener: TcpListener, state: AdminState) -> io::Result<Self> {
        let configured = state.reloader.running().plan.admin.bind;
        let place = Arc::new(Mutex::new(AdminAddress::new(configured, &listener)?));
        let (leaving, left) = watch::channel(false);
        let (serving, served) = watch::channel(());
        let supervisor = state.supervisor.clone();
        let (again, mut first) = (place.clone(), Some(listener));
        supervisor.keep("admin", move || {
            // Open until nobody begins it again.
            let _ = &serving;
            let (state, place, left) = (state.clone(), again.clone(), left.clone());
            let listener = first.take().map_or_else(|| place_again(&place), Ok);
            async move {
                match listener {
                    Ok(listener) => serve(listener, state, place, left).await,
                    Err(error) => tracing::error!("the admin API cannot be served: {error}"),
                }
            }
        });
        Ok(Self {
            place,
            leaving,
            served,
        })
    }

    /// The address it really has.
    pub fn address(&self) -> SocketAddr {
        self.lock().bound
    }

    /// Its configured address, and its socket once more, for a process that takes over.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn socket(&self) -> io::Result<Option<(SocketAddr, OwnedFd)>> {
        let place = self.lock();
        let socket = place.socket.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(socket.map(|socket| (place.configured, socket)))
    }

    /// Leaves the address, and serves those who are connected to the end of their requests.
    pub fn leave(&self) {
        self.lock().socket = None;
        self.leaving.send_replace(true);
    }

    /// Waits until it has left, and everybody is served.
    pub async fn left(&self) {
        let mut served = self.served.clone();
        while served.changed().await.is_ok() {}
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AdminAddress> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Operators who may wait to be let in.
const BACKLOG: i32 = 1024;

/// How long clients of a closed socket may still begin a request: one may be sending it just now.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Answers under way when the API moves may take this long to finish.
const MOVE_GRACE: Duration = Duration::from_secs(5);

async fn serve(
    mut listener: TcpListener,
    state: AdminState,
    place: Arc<Mutex<AdminAddress>>,
    mut leaving: watch::Receiver<bool>,
) {
    let mut plans = state.reloader.plans();
    plans.mark_changed();
    let here = |place: &Arc<Mutex<AdminAddress>>| {
        let place = place.lock().unwrap_or_else(PoisonError::into_inner);
        place.configured
    };
    loop {
        let (close, closed) = watch::channel(false);
        let mut inside = tokio::spawn(behind(listener, state.clone(), closed));
        // The next address that differs from this one and can be had.
        listener = loop {
            let changed = async {
                if plans.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let left = async {
                let _ = leaving.wait_for(|leaving| *leaving).await;
            };
            tokio::select! {
                () = changed => {}
                () = left => {
                    close.send_replace(true);
                    let _ = inside.await;
                    return;
                }
                // Nobody has closed it: it has panicked, and the whole of it is begun again.
                ended = &mut inside => match ended {
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    _ => return,
                },
            }
            let wanted = plans.borrow_and_update().admin.bind;
            if wanted == here(&place) {
                continue;
            }
            let bound = {
                let place = place.lock().unwrap_or_else(PoisonError::into_inner);
                bind_beside(wanted, &place)
            };
            let moved =
                bound.and_then(|listener| Ok((AdminAddress::new(wanted, &listener)?, listener)));
            match moved {
                Ok((next, listener)) => {
                    tracing::info!("the admin API moves to {}", next.bound);
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = next;
                    break listener;
                }
                Err(error) => {
                    tracing::error!(
                        "the admin API stays where it is: cannot bind {wanted}: {error}"
                    );
                }
            }
        };
        close.send_replace(true);
    }
}

/// Takes another address while the API is still at this one, even if they have clients in common: one
/// port, at `127.0.0.1` and at `0.0.0.0`.
fn bind_beside(wanted: SocketAddr, place: &AdminAddress) -> io::Result<TcpListener> {
    if let (true, Some(socket)) = (wanted == place.bound, &place.socket) {
        return AdminServer::inherit(socket.try_clone()?);
    }
    let own = place.socket.as_ref().map(SockRef::from);
    let own = own.filter(|_| wanted.port() == place.bound.port());
    let share = |socket: &SockRef<'_>, shared| socket.set_reuse_port(shared);
    let domain = Domain::for_address(wanted);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if let Some(own) = &own {
        share(own, true)?;
        share(&SockRef::from(&socket), true)?;
    }
    let bound = socket
        .bind(&wanted.into())
        .and_then(|()| socket.listen(BACKLOG));
    // From here on nobody else of this user may have it.
    if let Some(own) = &own {
        share(own, false)?;
        share(&SockRef::from(&socket), false)?;
    }
    bound?;
    TcpListener::from_std(socket.into())
}

/// The socket of the API once more.
fn place_again(place: &Mutex<AdminAddress>) -> io::Result<TcpListener> {
    let place = place.lock().unwrap_or_else(PoisonError::into_inner);
    let socket = place.socket.as_ref().map(OwnedFd::try_clone).transpose()?;
    AdminServer::inherit(socket.ok_or(io::ErrorKind::NotConnected)?)
}

/// Serves who comes through a socket, and after it was closed, who is inside.
async fn behind(listener: TcpListener, state: AdminState, mut closed: watch::Receiver<bool>) {
    let told = closed.clone();
    let tell = move |mut response: Response| {
        if *told.borrow() {
            // Whoever asks again shall come by another socket.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        std::future::ready(response)
    };
    let (room, totals) = (state.room, state.reloader.totals().clone());
    let app = router(state)
        .layer(axum::Extension(events::Closing(closed.clone())))
        .layer(axum::middleware::map_response(tell));
    let serving = listener::serve(listener, app, room, totals, closed.clone(), CLOSE_GRACE);
    let too_long = async {
        let _ = closed.wait_for(|closed| *closed).await;
        tokio::time::sleep(MOVE_GRACE).await;
    };
    tokio::select! {
        () = serving => {}
        () = too_long => {}
    }
}
