//! The engine: the one loop that owns the state of every pool and publishes what follows from it.
//!
//! [`core`] decides, purely: it takes an event and the time, and says what to do. This
//! file does it: it waits for events, starts probes and questions to name servers, and swaps the
//! published snapshot. The data plane reads the snapshot and never waits for this loop.

pub mod core;
#[cfg(test)]
mod failing;
pub mod handover;
#[cfg(test)]
mod idle;
#[cfg(test)]
mod names;
mod observations;
#[cfg(test)]
mod outages;
mod passive;
pub mod resolve;
mod retired;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_certs::Material;
use portolan_config::plan::Plan;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use self::core::{Core, Effect, EngineEvent, Seed};
use crate::clock::Clock;
use crate::engine::handover::Handover;
use crate::engine::resolve::Resolve;
use crate::events::journal::Journal;
use crate::geo::Locator;
use crate::health::verdict::ProbeFailure;
use crate::overrides::Overrides;
use crate::pool::dial::{Dialer, ProbeOutcome};
use crate::pool::endpoint::EndpointKey;
use crate::snapshot::Snapshot;
use crate::supervisor::{ENGINE, Failures, Next, Supervisor, caught};

/// Probes under way at the same time: more wait, so that thousands of endpoints that become due at
/// once do not take every socket.
const MOST_PROBES: usize = 512;

/// How often the loop is told something: a core may fail once for another reason.
const TOLD_AT_MOST: u32 = 2;

/// Events waiting for the loop. Whoever sends more waits.
const QUEUE: usize = 4096;

/// What falls due within this time of something else waits for it: with thousands of probes every
/// second, a few go out together, and their answers come together.
const TOGETHER: Duration = Duration::from_millis(5);

/// The current snapshot, for everybody.
pub type Published = Arc<ArcSwap<Snapshot>>;

/// How others speak with the loop.
#[derive(Clone, Debug)]
pub struct Engine {
    events: mpsc::Sender<Message>,
    published: Published,
    judged: watch::Receiver<bool>,
}

/// What the loop is told or asked.
#[derive(Debug)]
enum Message {
    /// An event, and whom to tell when what follows from it is published.
    Event(EngineEvent, Option<oneshot::Sender<u64>>),
    /// Somebody wants to know what a process that takes over must know.
    HandOver(oneshot::Sender<Handover>),
}

/// What an engine begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The first configuration.
    pub plan: Arc<Plan>,
    /// Its certificates.
    pub material: Arc<Material>,
    /// Its geo databases.
    pub locator: Arc<Locator>,
    /// Whoever probes endpoints.
    pub dialer: Arc<dyn Dialer>,
    /// Whoever resolves names.
    pub resolver: Arc<dyn Resolve>,
    /// Clocks.
    pub clock: Clock,
    /// Where it tells what happens.
    pub journal: Arc<Journal>,
    /// What the process before this one knew.
    pub handed: Handover,
    /// Whoever is told when the loop fails.
    pub supervisor: Supervisor,
}

/// How requests tell the loop what cannot wait for the next probe. Never blocks: what does not fit
/// into the queue is dropped, and the next probe finds out.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    events: mpsc::WeakSender<Message>,
}

impl EngineHandle {
    /// An endpoint has been silent for longer than is plausible.
    pub fn silent(&self, key: &EndpointKey, silent: Duration) {
        self.tell(EngineEvent::WentSilent {
            key: key.clone(),
            silent,
        });
    }

    /// Requests wait for an endpoint of which nothing is heard: it should be probed.
    pub fn doubted(&self, key: &EndpointKey) {
        self.tell(EngineEvent::Doubted { key: key.clone() });
    }

    fn tell(&self, event: EngineEvent) {
        if let Some(events) = self.events.upgrade() {
            let _ = events.try_send(Message::Event(event, None));
        }
    }
}

/// The loop has ended: the process is stopping.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the engine has stopped")]
pub struct Stopped;

impl Engine {
    /// Starts the loop with a first configuration. Returns when the first snapshot is published.
    pub fn start(beginning: Beginning) -> Self {
        let Beginning {
            plan,
            material,
            locator,
            dialer,
            resolver,
            clock,
            journal,
            handed,
            supervisor,
        } = beginning;
        let now = clock.now();
        let mut core = Core::going_on(plan, material, locator, dialer.clone(), now, handed);
        let published: Published = Arc::new(ArcSwap::new(core.publish(clock.now())));
        let seed = core.seed();
        let (events, received) = mpsc::channel(QUEUE);
        let (judged, watch) = watch::channel(published.load().judged());
        let driver = Driver {
            core,
            seed,
            supervisor,
            clock,
            dialer,
            resolver,
            journal,
            published: published.clone(),
            events: events.downgrade(),
            judged,
            slots: Arc::new(Semaphore::new(MOST_PROBES)),
        };
        tokio::spawn(driver.run(received));
        Self {
            events,
            published,
            judged: watch,
        }
    }

    /// For those who serve requests.
    pub fn messenger(&self) -> EngineHandle {
        EngineHandle {
            events: self.events.downgrade(),
        }
    }

    /// The current snapshot.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Makes a configuration the running one. Returns its generation; the first snapshot
    /// that has it is published by then.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn accept(
        &self,
        plan: Arc<Plan>,
        material: Arc<Material>,
        locator: Arc<Locator>,
    ) -> Result<u64, Stopped> {
        self.tell(|| EngineEvent::PlanAccepted {
            plan: plan.clone(),
            material: material.clone(),
            locator: locator.clone(),
        })
        .await
    }

    /// Replaces the geo databases.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn relocate(&self, locator: Arc<Locator>) -> Result<u64, Stopped> {
        self.tell(|| EngineEvent::LocatorChanged(locator.clone()))
            .await
    }

    /// Sets what operators have overridden. Returns when requests go by it.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn override_by(&self, overrides: &Overrides) -> Result<u64, Stopped> {
        let (drains, weights) = (overrides.drained(), overrides.weights());
        self.tell(|| EngineEvent::OverridesChanged(drains.clone(), weights.clone()))
            .await
    }

    /// What a process that takes over must know.
    ///
    /// # Errors
    /// When the loop has ended.
    pub async fn hand_over(&self) -> Result<Handover, Stopped> {
        let (asking, told) = oneshot::channel();
        let message = Message::HandOver(asking);
        self.events.send(message).await.map_err(|_| Stopped)?;
        told.await.map_err(|_| Stopped)
    }

    /// Waits until every pool is judged, but no longer than this.
    pub async fn wait_until_judged(&self, grace: Duration) -> bool {
        let mut judged = self.judged.clone();
        let waiting = judged.wait_for(|judged| *judged);
        tokio::time::timeout(grace, waiting)
            .await
            .is_ok_and(|outcome| outcome.is_ok())
    }

    /// Whether the loop has ended: nobody will be answered any more.
    pub fn is_stopped(&self) -> bool {
        self.events.is_closed()
    }

    /// Tells the loop something, and waits until requests go by it. A core that panics in the middle of it
    /// has not followed it, so the one that takes its place is told once more.
    async fn tell(&self, event: impl Fn() -> EngineEvent) -> Result<u64, Stopped> {
        for _ in 0..TOLD_AT_MOST {
            let (done, told) = oneshot::channel();
            let message = Message::Event(event(), Some(done));
            self.events.send(message).await.map_err(|_| Stopped)?;
            if let Ok(generation) = told.await {
                return Ok(generation);
            }
        }
        Err(Stopped)
    }
}

/// The loop and what it acts with.
struct Driver {
    core: Core,
    /// What the last snapshot was published from.
    seed: Seed,
    supervisor: Supervisor,
    clock: Clock,
    dialer: Arc<dyn Dialer>,
    resolver: Arc<dyn Resolve>,
    journal: Arc<Journal>,
    published: Published,
    events: mpsc::WeakSender<Message>,
    judged: watch::Sender<bool>,
    slots: Arc<Semaphore>,
}

impl Driver {
    /// Turns the loop until nobody can tell it anything any more. If it panics, a new core goes on.
    async fn run(mut self, mut events: mpsc::Receiver<Message>) {
        let mut failures = Failures::default();
        let supervisor = self.supervisor.clone();
        while supervisor
            .caught(ENGINE, self.turn(&mut events))
            .await
            .is_err()
        {
            loop {
                let Next::Again(pause) = self.supervisor.engine_failed(&mut failures) else {
                    return;
                };
                tokio::time::sleep(pause).await;
                if self.begin_anew(failures.repeated()) {
                    break;
                }
            }
        }
    }

    /// Puts a new core in the place of the one that has failed: false if that fails, too.
    fn begin_anew(&mut self, repeated: bool) -> bool {
        let now = self.clock.now();
        let anew = catch_unwind(AssertUnwindSafe(|| {
            // Of the endpoints at least the verdicts: without them requests would go where nobody serves.
            let handed = match repeated {
                false => self.core.hand_over(),
                true => self.core.hand_over().verdicts_alone(),
            };
            Core::in_place_of(&self.core, &self.seed, now, handed)
        }));
        match anew {
            Ok(core) => {
                self.core = core;
                true
            }
            Err(_) => false,
        }
    }

    async fn turn(&mut self, events: &mut mpsc::Receiver<Message>) {
        self.step(EngineEvent::Woken, None);
        let alarm = self.core.alarm();
        let mut woken = self.clock.now();
        loop {
            let wake = self.core.wake();
            let earliest = woken + TOGETHER;
            let sleep = async {
                match wake {
                    Some(tick) => {
                        let at = self.clock.instant(tick.max(earliest));
                        tokio::time::sleep_until(at.into()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = events.recv() => match message {
                    None => return,
                    Some(first) => {
                        // What waits already is taken together, and published once.
                        let mut told = Vec::new();
                        let mut happened = Vec::new();
                        let mut asking = Vec::new();
                        let mut next = Some(first);
                        while let Some(message) = next {
                            match message {
                                Message::Event(event, done) => {
                                    told.extend(done);
                                    happened.push(event);
                                }
                                Message::HandOver(who) => asking.push(who),
                            }
                            next = events.try_recv().ok();
                        }
                        self.take(happened);
                        for who in asking {
                            let _ = who.send(self.core.hand_over());
                        }
                        self.publish(told);
                    }
                },
                () = sleep => {
                    woken = self.clock.now();
                    self.step(EngineEvent::Woken, None);
                }
                () = alarm.rung() => {
                    let asked = alarm.asked();
                    self.step(EngineEvent::Alarmed, None);
                    alarm.answer(asked);
                }
            }
        }
    }

    fn step(&mut self, event: EngineEvent, told: Option<oneshot::Sender<u64>>) {
        self.take([event]);
        self.publish(told);
    }

    fn take(&mut self, events: impl IntoIterator<Item = EngineEvent>) {
        for effect in self.core.step_all(events, self.clock.now()) {
            self.perform(effect);
        }
    }

    fn publish(&mut self, told: impl IntoIterator<Item = oneshot::Sender<u64>>) {
        if self.core.is_dirty() {
            let snapshot = self.core.publish(self.clock.now());
            let judged = snapshot.judged();
            let before = self.published.swap(snapshot.clone());
            self.seed = self.core.seed();
            if before.generation != snapshot.generation {
                tokio::spawn(retired::retire(before));
            }
            self.judged
                .send_if_modified(|before| std::mem::replace(before, judged) != judged);
        }
        let generation = self.published.load().generation;
        for sender in told {
            // Whoever asked may have gone away, which harms nobody.
            let _ = sender.send(generation);
        }
    }

    fn perform(&self, effect: Effect) {
        match effect {
            Effect::Probe {
                key,
                serial,
                plan,
                dial,
            } => {
                let probing = self.dialer.probe(&plan, &dial);
                let events = self.events.clone();
                let slots = self.slots.clone();
                tokio::spawn(async move {
                    let outcome = {
                        let _slot = slots.acquire().await;
                        caught(probing).await
                    };
                    // Whoever waits for a verdict must get an answer, or it is never asked again.
                    let outcome = outcome.unwrap_or(ProbeOutcome {
                        result: Err(ProbeFailure::Own),
                        took: Duration::ZERO,
                    });
                    let event = EngineEvent::ProbeFinished {
                        key,
                        serial,
                        outcome,
                    };
                    report(&events, event).await;
                });
            }
            Effect::Resolve { host, serial, plan } => {
                let resolver = self.resolver.clone();
                let events = self.events.clone();
                tokio::spawn(async move {
                    let asking = resolver.resolve(&host, &plan);
                    let answer = caught(asking).await;
                    let own = || Err("asking has failed, by a fault of Portolan's".to_owned());
                    let answer = answer.unwrap_or_else(|_| own());
                    let event = EngineEvent::NameAnswered {
                        host,
                        serial,
                        answer,
                    };
                    report(&events, event).await;
                });
            }
            Effect::Emit(event) => self.journal.emit(&event),
        }
    }
}

/// Sends an event to the loop, if it still runs.
async fn report(events: &mpsc::WeakSender<Message>, event: EngineEvent) {
    if let Some(events) = events.upgrade() {
        let _ = events.send(Message::Event(event, None)).await;
    }
}
