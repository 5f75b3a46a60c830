//! What systemd and Portolan tell each other: sockets that systemd opened, and how the service is.

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use listenfd::ListenFd;
use portolan_proxy::HandedSocket;
use rustix::time::{ClockId, clock_gettime};

use crate::machine;

/// The variables by which systemd hands over sockets.
pub(crate) const SOCKET_VARIABLES: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// How long a message may take. systemd is not expected to be slow, and nobody shall wait if it is.
const MESSAGE: Duration = Duration::from_millis(500);

/// The sockets that systemd opened for this process. Called once, before there are other threads.
///
/// # Errors
/// When one is not a TCP socket that can be used.
pub(crate) fn sockets() -> anyhow::Result<Vec<HandedSocket>> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..passed.len() {
        const WHAT: &str = "a socket of the unit's .socket file cannot be used";
        let listener = passed.take_tcp_listener(at).context(WHAT)?;
        if let Some(listener) = listener {
            let accepts = socket2::SockRef::from(&listener).is_listener();
            anyhow::ensure!(
                accepts.context(WHAT)?,
                "{WHAT}: it is a connection (`Accept=` must be off)"
            );
            sockets.push(HandedSocket {
                configured: listener.local_addr().context(WHAT)?,
                socket: OwnedFd::from(listener),
            });
        }
    }
    Ok(sockets)
}

/// Tells systemd how the service is, if systemd wants to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notifier(Option<Arc<(UnixDatagram, SocketAddr)>>);

impl Notifier {
    /// To whoever the environment names.
    pub(crate) fn from_environment() -> Self {
        let Some(name) = machine::variable("NOTIFY_SOCKET") else {
            return Self::default();
        };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        let open = || {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(MESSAGE))?;
            std::io::Result::Ok((socket, address?))
        };
        match open() {
            Ok(open) => Self(Some(Arc::new(open))),
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET is `{name}`, and cannot be used: {error}");
                Self::default()
            }
        }
    }

    /// Sends lines like `READY=1`.
    pub(crate) fn send(&self, lines: &[&str]) {
        if let Some((socket, address)) = self.0.as_deref()
            && let Err(error) = socket.send_to_addr(lines.join("\n").as_bytes(), address)
        {
            tracing::debug!("systemd cannot be told: {error}");
        }
    }

    /// It serves.
    pub(crate) fn ready(&self, listeners: usize) {
        let s = if listeners == 1 { "" } else { "s" };
        let status = format!("STATUS=Serving on {listeners} listener{s}.");
        self.send(&["READY=1", &status]);
    }

    /// It reads its configuration again: systemd waits for [`Self::ready`].
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        let stamp = format!("MONOTONIC_USEC={microseconds}");
        self.send(&["RELOADING=1", &stamp, "STATUS=Reloading."]);
    }

    /// It stops, and may take this long.
    pub(crate) fn stopping(&self, limit: Duration) {
        let extend = format!("EXTEND_TIMEOUT_USEC={}", (limit + SLACK).as_micros());
        self.send(&["STOPPING=1", &extend, "STATUS=Finishing requests."]);
    }
}

/// What ending takes after the last request.
const SLACK: Duration = Duration::from_secs(5);
