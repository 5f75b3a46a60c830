//! The new process: takes the sockets, and tells the old one how it goes.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use portolan_control::engine::handover::Handover;
use portolan_proxy::HandedSocket;

use super::wire::{Channel, Offered, PROTOCOL, ToPredecessor, ToSuccessor, frame, receive_offer};
use crate::upgrade::wire::TAKE_OVER;
use crate::{machine, systemd};

/// How long the old process may take to hand over: it has everything at hand.
const HANDING: Duration = Duration::from_secs(10);

/// How long the old process may take to say that it accepts nobody any more.
const DONE: Duration = Duration::from_secs(5);

/// What this process got from whoever started it.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    /// Sockets for listeners; those that systemd hands over may be the admin API's as well.
    pub(crate) sockets: Vec<HandedSocket>,
    /// The socket of the admin API.
    pub(crate) admin: Option<HandedSocket>,
    /// The process that hands over.
    pub(crate) predecessor: Option<Predecessor>,
}

/// The process before this one.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: Option<UnixStream>,
    channel: Option<Channel>,
    pid: u32,
    /// How long it waits for us.
    pub(crate) patience: Duration,
    /// Whether every pool has a verdict there.
    pub(crate) judged: bool,
    /// How long it, and those before it, had run, and when, in time since 1970.
    since_start: Duration,
    wall: Duration,
    /// Where its state is, if it says so.
    state_dir: Option<PathBuf>,
    /// What it knows of endpoints.
    known: Handover,
    /// Processes before it that still let clients finish.
    elders: Vec<OwnedFd>,
    /// Upgrades that were done, with this one, and that failed.
    pub(crate) done: u64,
    pub(crate) failed: u64,
}

impl Inherited {
    /// Takes what there is. Called once, before there are other threads.
    ///
    /// # Errors
    /// When there is something that cannot be used.
    pub(crate) fn take() -> anyhow::Result<Self> {
        if machine::variable(TAKE_OVER).is_some() {
            return Self::from_predecessor();
        }
        Ok(Self {
            sockets: systemd::sockets()?,
            ..Self::default()
        })
    }

    fn from_predecessor() -> anyhow::Result<Self> {
        const WHAT: &str = "cannot take over from the process before this one";
        let input = std::io::stdin().as_fd().try_clone_to_owned();
        let stream = UnixStream::from(input.context(WHAT)?);
        // Its end must be seen when this process ends, or lets go of it.
        let nothing = std::fs::File::open("/dev/null").context(WHAT)?;
        rustix::stdio::dup2_stdin(nothing).context(WHAT)?;
        stream.set_read_timeout(Some(HANDING)).context(WHAT)?;
        let (offer, sockets) = receive_offer(&stream).context(WHAT)?;
        let mut predecessor = Predecessor {
            stream: Some(stream),
            channel: None,
            pid: offer.pid,
            patience: Duration::from_millis(offer.patience_ms),
            judged: offer.judged,
            since_start: Duration::from_nanos(offer.since_start_ns),
            wall: Duration::from_millis(offer.wall_ms),
            state_dir: offer.state_dir,
            known: Handover::from_json(offer.known),
            elders: Vec::new(),
            done: offer.done + 1,
            failed: offer.failed,
        };
        if offer.protocol != PROTOCOL {
            let error = format!(
                "it speaks version {PROTOCOL} of the hand-over, and the running process {}",
                offer.protocol
            );
            predecessor.refuse(&error);
            bail!("{WHAT}: {error}");
        }
        let mut inherited = Self::default();
        for (offered, socket) in offer.sockets.into_iter().zip(sockets) {
            match offered {
                Offered::Listener { configured } => {
                    inherited.sockets.push(HandedSocket { configured, socket });
                }
                Offered::Admin { configured } => {
                    inherited.admin = Some(HandedSocket { configured, socket });
                }
                Offered::Elder => predecessor.elders.push(socket),
            }
        }
        inherited.predecessor = Some(predecessor);
        Ok(inherited)
    }
}

impl Predecessor {
    /// Whether its state is in this folder, too: overrides and certificates are found there, and nowhere
    /// else. If not, why this process cannot take over.
    ///
    /// # Errors
    /// The folder that is to be moved first.
    pub(crate) fn shares_state(&self, state_dir: &Path) -> Result<(), String> {
        let ours = std::path::absolute(state_dir).ok();
        match &self.state_dir {
            Some(theirs) if ours.as_ref() != Some(theirs) => Err(format!(
                "`state_dir` was changed from {} to {}: stop Portolan, move the folder, and start it again",
                theirs.display(),
                state_dir.display()
            )),
            _ => Ok(()),
        }
    }

    /// How long it, and those before it, have run at this time, since 1970.
    pub(crate) fn since_start(&self, wall: Duration) -> Duration {
        // The calendar may be set just now: what cannot be is not believed.
        self.since_start + wall.saturating_sub(self.wall).min(HANDING)
    }

    /// What it knows of endpoints; once.
    pub(crate) fn handed(&mut self) -> Handover {
        std::mem::take(&mut self.known)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Says why this process ends; without waiting for anything.
    pub(crate) fn refuse(&mut self, error: &str) {
        let failed = ToPredecessor::Failed {
            error: error.to_owned(),
        };
        // If it does not arrive, the old process still sees this one end.
        if let (Some(stream), Ok(frame)) = (&mut self.stream, frame(&failed)) {
            let _ = stream.write_all(&frame);
        }
    }

    /// The same, once there is a runtime.
    pub(crate) async fn fail(&mut self, error: &str) {
        let error = error.to_owned();
        if let Ok(channel) = self.channel() {
            let _ = channel.send(&ToPredecessor::Failed { error }).await;
        }
    }

    /// Says that this process could serve, and waits to be told to.
    ///
    /// # Errors
    /// When the old process has gone, or has changed its mind.
    pub(crate) async fn ready(&mut self, version: &str) -> anyhow::Result<()> {
        let ready = ToPredecessor::Ready {
            pid: std::process::id(),
            version: version.to_owned(),
        };
        let channel = self.channel()?;
        channel.send(&ready).await?;
        match channel.receive().await? {
            Some(ToSuccessor::TakeOver) => Ok(()),
            _ => bail!("the process before this one goes on by itself"),
        }
    }

    /// Says that this process accepts, and waits until the old one accepts nobody any more.
    pub(crate) async fn serving(&mut self) {
        let Ok(channel) = self.channel() else {
            return;
        };
        if channel.send(&ToPredecessor::Serving).await.is_ok() {
            // If it has gone instead, it accepts nobody either.
            let _ = tokio::time::timeout(DONE, channel.receive::<ToSuccessor>()).await;
        }
    }

    /// The sockets by which it, and those before it, see this process stop.
    pub(crate) fn into_elders(self) -> Vec<OwnedFd> {
        let mut elders = self.elders;
        let own = self.channel.map(Channel::into_socket);
        elders.extend(own.and_then(Result::ok));
        elders
    }

    fn channel(&mut self) -> anyhow::Result<&mut Channel> {
        if let Some(stream) = self.stream.take() {
            stream.set_read_timeout(None)?;
            self.channel = Some(Channel::new(stream)?);
        }
        self.channel.as_mut().context("there is no channel")
    }
}
