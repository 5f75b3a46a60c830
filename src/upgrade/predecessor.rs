//! The old process: starts the new one, hands everything over, and goes on if anything is wrong.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use portolan_control::admin::AdminServer;
use portolan_control::background::overrides::{OverrideStore, Pause};
use portolan_control::clock::Clock;
use portolan_control::engine::Engine;
use portolan_control::events::event::{Event, Upgrade};
use portolan_control::events::journal::Journal;
use portolan_control::reload::Reloader;
use portolan_proxy::HandedSocket;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::wire::{Channel, LONGEST, Offer, Offered, PROTOCOL, ToPredecessor, ToSuccessor};
use crate::machine::Program;
use crate::systemd;
use crate::systemd::Notifier;
use crate::upgrade::previous_generations::PreviousGenerations;
use crate::upgrade::wire::TAKE_OVER;

/// How long a process that was told to take over may take to accept: it has done everything else.
const SERVING: Duration = Duration::from_secs(5);

/// What is known of endpoints goes into one frame with the rest.
const MOST_KNOWN: usize = LONGEST / 2;

/// How long to wait for the last words of a process that has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Hands over to new processes.
pub(crate) struct Upgrader {
    pub(crate) program: Program,
    /// The sockets of the listeners.
    pub(crate) sockets: Box<dyn Fn() -> io::Result<Vec<HandedSocket>> + Send + Sync>,
    pub(crate) admin: Arc<AdminServer>,
    pub(crate) elders: PreviousGenerations,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) overrides: Arc<OverrideStore>,
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) journal: Arc<Journal>,
    pub(crate) notifier: Notifier,
    /// One upgrade at a time. Whether there was one: then there is nothing left to hand over.
    pub(crate) turn: Mutex<bool>,
}

/// The new process, which serves.
#[derive(Debug)]
pub(crate) struct Successor {
    channel: Channel,
    pub(crate) pid: u32,
    pub(crate) version: String,
}

impl Successor {
    /// Waits until it has gone, or is to go.
    pub(crate) async fn gone(&mut self) {
        self.channel.closed().await;
    }
}

impl Upgrader {
    /// Starts a new process, of this binary if one is named, and returns when it serves.
    ///
    /// # Errors
    /// Why it does not. Then this process serves on.
    pub(crate) async fn upgrade(
        &self,
        binary: Option<&Path>,
        patience: Duration,
    ) -> anyhow::Result<Successor> {
        let Ok(mut done) = self.turn.try_lock() else {
            bail!("an upgrade is under way");
        };
        if *done {
            bail!("another process has taken over from this one: ask that one");
        }
        if std::process::id() == 1 {
            bail!(
                "this is the first process of its container, which ends with it: start a new \
                 container instead"
            );
        }
        // The new process would read it.
        if let Some(file) = self.reloader.being_written() {
            bail!(
                "`{}` is being written: try again when it is closed",
                file.display()
            );
        }
        let binary = binary.unwrap_or(&self.program.path);
        let name = binary.display().to_string();
        self.tell(Upgrade::Started { binary: name });
        self.notifier.send(&["STATUS=Upgrading."]);
        let outcome = self.attempt(binary, patience).await;
        match &outcome {
            Ok(successor) => {
                *done = true;
                // Whoever asks operators' questions from now on gets the new one's answers.
                self.admin.leave();
                self.tell(Upgrade::Done {
                    pid: successor.pid,
                    version: successor.version.clone(),
                });
            }
            Err(error) => {
                self.reloader.totals().upgrades_failed.one();
                self.notifier
                    .send(&["STATUS=Serving; the last upgrade failed."]);
                let error = format!("{error:#}");
                self.tell(Upgrade::Failed { error });
            }
        }
        outcome
    }

    fn tell(&self, upgrade: Upgrade) {
        self.journal.emit(&Event::Upgrade(upgrade));
    }

    /// What is known of endpoints. More than can be sent is not: the new process finds out itself.
    async fn known(&self) -> serde_json::Value {
        let known = match self.engine.hand_over().await {
            Ok(known) => known.to_json(),
            Err(_) => serde_json::Value::Null,
        };
        if known.to_string().len() > MOST_KNOWN {
            tracing::warn!("the new process has to judge the endpoints itself: they are too many");
            return serde_json::Value::Null;
        }
        known
    }

    async fn attempt(&self, binary: &Path, patience: Duration) -> anyhow::Result<Successor> {
        // What is handed over must not change meanwhile; a reload waits.
        let pause = self.reloader.pause().await;
        let (offered, sockets) = self.offer().context("cannot hand over the sockets")?;
        let totals = self.reloader.totals();
        let offer = Offer {
            protocol: PROTOCOL,
            pid: std::process::id(),
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            judged: self.engine.published().load().judged(),
            done: totals.upgrades_done.get(),
            failed: totals.upgrades_failed.get(),
            since_start_ns: self.clock.now().since_start().as_nanos() as u64,
            wall_ms: self.clock.wall().as_millis() as u64,
            state_dir: std::path::absolute(&self.reloader.running().plan.process.state_dir).ok(),
            known: self.known().await,
            sockets: offered,
        };
        let (ours, theirs) = UnixStream::pair().context("cannot hand over")?;
        let channel = Channel::new(ours).context("cannot hand over")?;
        let mut candidate = Candidate::start(&self.program, binary, theirs)?;
        let name = binary.display();
        let child = candidate.child();
        let overrides = &self.overrides;
        let talking = hand_over(channel, &offer, &sockets, &name, patience, overrides);
        tokio::pin!(talking);
        let spoken = tokio::select! {
            biased;
            spoken = &mut talking => spoken,
            // It may have said why.
            _ = child.wait() => match tokio::time::timeout(LAST_WORDS, talking).await {
                Ok(spoken) => spoken,
                Err(_) => Err(anyhow::anyhow!("{name} says nothing")),
            },
        };
        let (mut successor, overrides) = match spoken {
            Ok(served) => served,
            Err(error) if error.is::<Refused>() => return Err(error),
            // How it ended says more than what was noticed first.
            Err(error) => match tokio::time::timeout(LAST_WORDS, child.wait()).await {
                Ok(Ok(status)) => bail!("{name} ended before it was ready: {status}"),
                _ => return Err(error),
            },
        };
        // From here on it is the one that serves, whatever becomes of this process.
        candidate.let_go();
        pause.retire();
        overrides.retire();
        self.notifier.send(&[&format!("MAINPID={}", successor.pid)]);
        // Not told, it goes on by itself soon enough.
        let _ = successor.channel.send(&ToSuccessor::Done).await;
        Ok(successor)
    }

    fn offer(&self) -> io::Result<(Vec<Offered>, Vec<OwnedFd>)> {
        let listeners = (self.sockets)()?.into_iter().map(|handed| {
            let configured = handed.configured;
            (Offered::Listener { configured }, handed.socket)
        });
        let admin = self.admin.socket()?;
        let admin = admin.map(|(configured, socket)| (Offered::Admin { configured }, socket));
        let elders = self.elders.duplicate()?.into_iter();
        let elders = elders.map(|elder| (Offered::Elder, elder));
        Ok(listeners.chain(admin).chain(elders).unzip())
    }
}

/// The new process said that it cannot.
#[derive(Debug, thiserror::Error)]
#[error("{binary} cannot take over: {error}")]
struct Refused {
    binary: String,
    error: String,
}

/// Speaks with a new process until it serves. From the moment when it takes over, nothing is
/// overridden here.
async fn hand_over(
    mut channel: Channel,
    offer: &Offer,
    sockets: &[OwnedFd],
    binary: &impl ToString,
    patience: Duration,
    overrides: &OverrideStore,
) -> anyhow::Result<(Successor, Pause)> {
    let binary = binary.to_string();
    let gone = || gone(&binary);
    let preparing = async {
        channel.send(offer).await.with_context(gone)?;
        let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(|it| it.as_fd()).collect();
        channel.send_sockets(&sockets).await.with_context(gone)?;
        match channel.receive().await.with_context(gone)? {
            Some(ToPredecessor::Ready { pid, version }) => Ok((pid, version)),
            other => Err(unexpected(&binary, other)),
        }
    };
    let (pid, version) = match tokio::time::timeout(patience, preparing).await {
        Ok(ready) => ready?,
        Err(_) => bail!("{binary} was not ready within {} s", patience.as_secs_f64()),
    };
    // From here on the new process goes by what is overridden now. Nobody has to wait for long.
    let pause = overrides.pause().await;
    let taking = async {
        channel
            .send(&ToSuccessor::TakeOver)
            .await
            .with_context(gone)?;
        match channel.receive().await.with_context(gone)? {
            Some(ToPredecessor::Serving) => Ok(()),
            other => Err(unexpected(&binary, other)),
        }
    };
    match tokio::time::timeout(SERVING, taking).await {
        Ok(served) => served?,
        Err(_) => bail!("{binary} was ready, and then did not accept"),
    }
    let successor = Successor {
        channel,
        pid,
        version,
    };
    Ok((successor, pause))
}

fn unexpected(binary: &str, said: Option<ToPredecessor>) -> anyhow::Error {
    match said {
        Some(ToPredecessor::Failed { error }) => anyhow::Error::new(Refused {
            binary: binary.to_owned(),
            error,
        }),
        Some(other) => anyhow::anyhow!("{binary} said what it must not say now: {other:?}"),
        None => anyhow::anyhow!(gone(binary)),
    }
}

fn gone(binary: &str) -> String {
    format!("{binary} has closed its standard input: it does not know how to take over")
}

/// A process that may become the one that serves. Ended when it does not.
struct Candidate {
    child: Option<Child>,
}

impl Candidate {
    fn start(program: &Program, binary: &Path, input: UnixStream) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command
            .args(&program.arguments)
            .env(TAKE_OVER, "1")
            .stdin(Stdio::from(OwnedFd::from(input)));
        // Sockets that systemd once gave to this process are not the new one's by that name.
        for variable in systemd::SOCKET_VARIABLES {
            command.env_remove(variable);
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self { child: Some(child) })
    }

    fn child(&mut self) -> &mut Child {
        self.child
            .as_mut()
            .expect("it is let go of at the end only")
    }

    /// It lives on.
    fn let_go(mut self) {
        self.child = None;
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.start_kill();
        }
    }
}

impl std::fmt::Debug for Upgrader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrader").finish_non_exhaustive()
    }
}

/// Where a binary is, if it was named at all.
pub(super) fn named(binary: Option<PathBuf>) -> anyhow::Result<Option<PathBuf>> {
    match binary {
        Some(path) if !path.is_absolute() => {
            bail!("{} is not an absolute path", path.display())
        }
        other => Ok(other),
    }
}
