//! The engine's judgement, without its hands: events and the time in, effects out.
//!
//! Everything that can happen is in [`EngineEvent`], everything that may be done in [`Effect`]. State
//! belongs to names (an endpoint's to its pool's name and its address, a sequence of draws to its
//! route's name), so whatever a new configuration keeps by name, it keeps with all that is known
//! about it.

mod accept;
mod names;
mod probes;
mod publish;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::Material;
use portolan_config::names::Name;
use portolan_config::plan::{Plan, PoolId, PoolPlan, ResolverPlan, TargetId, TargetKindPlan};

use crate::clock::Tick;
use crate::counters::PoolStats;
use crate::engine::handover::{Handover, Known};
use crate::engine::observations::Passive;
use crate::engine::resolve::ResolvedName;
use crate::events::event::Event;
use crate::geo::Locator;
use crate::health::outlier::{Alarm, Record, Tally};
use crate::health::verdict::{Health, HealthPolicy};
use crate::overrides::Drains;
use crate::overrides::weights::{Fitted, WeightsOf};
use crate::pool::dial::{Dial, Dialer, ProbeOutcome};
use crate::pool::endpoint::{Endpoint, EndpointKey};
use crate::pool::view::PoolView;
use crate::snapshot::{RouteState, Snapshot, TargetTables, World};
use crate::steering::Sequence;

/// How often shares that follow free capacity are worked out again.
const REFRESH_LOAD: Duration = Duration::from_millis(100);

/// How often shares that follow latency are worked out again.
const REFRESH_LATENCY: Duration = Duration::from_secs(1);

/// Between two questions for a name that could not be answered: doubled each time, up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Everything that can happen.
#[derive(Debug)]
pub enum EngineEvent {
    /// A new configuration is to run, with everything it needs.
    PlanAccepted {
        /// The configuration.
        plan: Arc<Plan>,
        /// Its certificates.
        material: Arc<Material>,
        /// Its geo databases.
        locator: Arc<Locator>,
    },
    /// A geo database was replaced.
    LocatorChanged(Arc<Locator>),
    /// Operators drain other pools or endpoints than before, or give services other weights.
    OverridesChanged(Drains, WeightsOf),
    /// A probe is over.
    ProbeFinished {
        /// Whose.
        key: EndpointKey,
        /// Which.
        serial: u64,
        /// How it ended.
        outcome: ProbeOutcome,
    },
    /// A name was answered for, or not.
    NameAnswered {
        /// The name.
        host: Arc<str>,
        /// Which question.
        serial: u64,
        /// Its addresses.
        answer: Result<ResolvedName, String>,
    },
    /// An endpoint that has requests has been silent for longer than is plausible.
    WentSilent {
        /// Which.
        key: EndpointKey,
        /// For how long.
        silent: Duration,
    },
    /// Requests wait for an endpoint of which nothing is heard: it should be probed.
    Doubted {
        /// Which.
        key: EndpointKey,
    },
    /// What requests told about some endpoint may be a reason to eject it, or to free it.
    Alarmed,
    /// It is time: something that [`Core::wake`] waited for is due.
    Woken,
}

/// Everything that may be done.
#[derive(Debug)]
pub enum Effect {
    /// Probe an endpoint.
    Probe {
        /// Which endpoint.
        key: EndpointKey,
        /// Which probe: its result is told with the same number.
        serial: u64,
        /// How.
        plan: Arc<PoolPlan>,
        /// What is prepared for connections to it.
        dial: Dial,
    },
    /// Ask for a name's addresses.
    Resolve {
        /// The name.
        host: Arc<str>,
        /// Which question: its answer is told with the same number.
        serial: u64,
        /// How.
        plan: ResolverPlan,
    },
    /// Tell operators.
    Emit(Event),
}

/// How long new addresses of a name may take to get their first verdicts, beyond what a probe takes.
const FIRST_VERDICTS: Duration = Duration::from_secs(1);

/// What is due at some time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Probe(EndpointKey),
    Resolve(Arc<str>),
    /// Addresses that a pool's names no longer have may not be needed any more.
    LetGo(Name),
    Measure,
    Look,
}

/// An endpoint as the engine knows it.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) live: Arc<Endpoint>,
    dial: Dial,
    pub(super) health: Health,
    /// What traffic tells about it.
    pub(super) record: Record,
    /// The tries that the record knows of.
    pub(super) counted: Tally,
    /// Operators were told that it is silent, and when it last was.
    pub(super) silent: Option<Tick>,
    /// When it came back, for its slow start.
    pub(super) came_back: Option<Tick>,
    /// Its pool served already when it was added.
    pub(super) added_later: bool,
    /// When its last probe began.
    pub(super) probed: Option<Tick>,
    /// When the next one is due; none while one is under way, or without probes.
    next: Option<Tick>,
    /// The probe under way. Results of others are of an endpoint that was gone in between.
    probing: Option<u64>,
}

/// A name as the engine knows it.
#[derive(Debug, Default)]
struct NameState {
    addresses: Vec<IpAddr>,
    /// Whether it was ever answered for, well or not.
    answered: bool,
    failures: u32,
    next: Option<Tick>,
    /// The question under way.
    asking: Option<u64>,
}

/// An address that its name has no longer, and that still serves.
#[derive(Clone, Debug)]
struct Leaving {
    /// The name.
    host: Arc<str>,
    /// Until when it is kept for new addresses that nothing is known of, or that start slowly.
    settled: Tick,
    /// Until when it is kept because nobody else of its pool can serve.
    last: Tick,
}

/// The state of everything.
#[derive(Debug)]
pub struct Core {
    pub(super) plan: Arc<Plan>,
    material: Arc<Material>,
    locator: Arc<Locator>,
    dialer: Arc<dyn Dialer>,
    /// What operators have drained, beside the configuration.
    drains: Drains,
    /// The weights that they gave to services.
    weights: WeightsOf,
    /// Those under the running configuration.
    fitted: Arc<Fitted>,
    /// What the process before this one knew of endpoints that were not met yet.
    handed: Handover,
    pub(super) endpoints: HashMap<EndpointKey, Box<EndpointState>>,
    names: HashMap<Arc<str>, NameState>,
    leaving: BTreeMap<EndpointKey, Leaving>,
    turns: HashMap<Name, Arc<Sequence>>,
    pool_stats: HashMap<Name, Arc<PoolStats>>,
    routes: HashMap<Arc<str>, Arc<RouteState>>,
    pools: HashMap<Name, PoolId>,
    pub(super) views: Vec<Arc<PoolView>>,
    tables: Vec<Option<Arc<TargetTables>>>,
    /// The same by id, as it is published.
    route_states: Arc<[Arc<RouteState>]>,
    stats_of_pools: Arc<[Arc<PoolStats>]>,
    /// Targets with tables, by the pools they can lead to.
    targets_of_pool: Vec<Vec<TargetId>>,
    /// Targets whose shares move with measurements, by what moves them.
    measured: Measured,
    due: BTreeSet<(Tick, Due)>,
    /// Targets whose tables must be worked out again.
    dirty_targets: BTreeSet<TargetId>,
    /// What requests tell, and what follows.
    pub(super) passive: Passive,
    /// Something that must be published changed.
    pub(super) dirty: bool,
    /// Configurations so far.
    generation: u64,
    /// Probes and questions so far.
    serial: u64,
    pub(super) now: Tick,
}

/// What a core begins with: the configuration, and what operators have overridden.
#[derive(Clone, Debug)]
pub(super) struct Seed {
    plan: Arc<Plan>,
    material: Arc<Material>,
    locator: Arc<Locator>,
    drains: Drains,
    weights: WeightsOf,
}

/// Targets whose shares move with measurements.
#[derive(Debug, Default)]
struct Measured {
    targets: Vec<TargetId>,
    every: Option<Duration>,
}

impl World for Core {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn pool(&self, id: PoolId) -> &PoolView {
        &self.views[id.index()]
    }

    fn weights(&self) -> &Fitted {
        &self.fitted
    }

    fn now(&self) -> Tick {
        self.now
    }
}

impl Core {
    /// A core that runs a first configuration.
    pub fn new(
        plan: Arc<Plan>,
        material: Arc<Material>,
        locator: Arc<Locator>,
        dialer: Arc<dyn Dialer>,
        now: Tick,
    ) -> Self {
        Self::going_on(plan, material, locator, dialer, now, Handover::default())
    }

    /// A core that goes on with what a process before this one knew.
    pub fn going_on(
        plan: Arc<Plan>,
        material: Arc<Material>,
        locator: Arc<Locator>,
        dialer: Arc<dyn Dialer>,
        now: Tick,
        handed: Handover,
    ) -> Self {
        let seed = Seed {
            plan,
            material,
            locator,
            drains: Drains::default(),
            weights: WeightsOf::default(),
        };
        Self::empty(&seed, dialer, now).begun(&seed, handed)
    }

    /// A core that takes the place of one that has failed in the middle of something. It goes on with
    /// what was last published, and with what `handed` says of the endpoints; what was counted stays.
    pub(super) fn in_place_of(failed: &Self, seed: &Seed, now: Tick, handed: Handover) -> Self {
        let mut core = Self::empty(seed, failed.dialer.clone(), now);
        core.pool_stats.clone_from(&failed.pool_stats);
        core.routes.clone_from(&failed.routes);
        core.turns.clone_from(&failed.turns);
        core.drains = seed.drains.clone();
        core.weights = seed.weights.clone();
        core.generation = failed.generation;
        // What the other one has asked for is not answered to this one.
        core.serial = failed.serial;
        core.begun(seed, handed)
    }

    /// What another one would begin with, were it to take the place of this one.
    pub(super) fn seed(&self) -> Seed {
        Seed {
            plan: self.plan.clone(),
            material: self.material.clone(),
            locator: self.locator.clone(),
            drains: self.drains.clone(),
            weights: self.weights.clone(),
        }
    }

    fn begun(mut self, seed: &Seed, handed: Handover) -> Self {
        self.handed = handed;
        self.passive.came_back = std::mem::take(&mut self.handed.came_back);
        let (plan, material) = (seed.plan.clone(), seed.material.clone());
        // What was overridden before is known already: there is nothing to tell.
        self.accept(plan, material, seed.locator.clone(), &mut Vec::new());
        // Who is not there now begins like everybody else.
        self.handed = Handover::default();
        self
    }

    fn empty(seed: &Seed, dialer: Arc<dyn Dialer>, now: Tick) -> Self {
        Self {
            plan: seed.plan.clone(),
            material: seed.material.clone(),
            locator: seed.locator.clone(),
            dialer,
            drains: Drains::default(),
            weights: WeightsOf::default(),
            fitted: Arc::default(),
            handed: Handover::default(),
            endpoints: HashMap::new(),
            names: HashMap::new(),
            leaving: BTreeMap::new(),
            turns: HashMap::new(),
            pool_stats: HashMap::new(),
            routes: HashMap::new(),
            pools: HashMap::new(),
            views: Vec::new(),
            tables: Vec::new(),
            route_states: Arc::default(),
            stats_of_pools: Arc::default(),
            targets_of_pool: Vec::new(),
            measured: Measured::default(),
            due: BTreeSet::new(),
            dirty_targets: BTreeSet::new(),
            passive: Passive::default(),
            dirty: true,
            generation: 0,
            serial: 0,
            now,
        }
    }

    /// What is to be done when `event` happens at `now`.
    pub fn step(&mut self, event: EngineEvent, now: Tick) -> Vec<Effect> {
        self.step_all([event], now)
    }

    /// What is to be done when several things happen at the same time: with thousands of verdicts at
    /// once, what is asked about all pools together is asked once.
    pub fn step_all(
        &mut self,
        events: impl IntoIterator<Item = EngineEvent>,
        now: Tick,
    ) -> Vec<Effect> {
        self.now = now;
        let mut effects = Vec::new();
        for event in events {
            self.happen(event, &mut effects);
        }
        self.run_due(&mut effects);
        self.suspect(&mut effects);
        self.check_invariants();
        effects
    }

    fn happen(&mut self, event: EngineEvent, effects: &mut Vec<Effect>) {
        match event {
            EngineEvent::PlanAccepted {
                plan,
                material,
                locator,
            } => self.accept(plan, material, locator, effects),
            EngineEvent::LocatorChanged(locator) => {
                self.locator = locator;
                self.dirty = true;
            }
            EngineEvent::OverridesChanged(drains, weights) => {
                self.set_overrides(drains, weights, effects);
            }
            EngineEvent::ProbeFinished {
                key,
                serial,
                outcome,
            } => self.probed(&key, serial, outcome, effects),
            EngineEvent::NameAnswered {
                host,
                serial,
                answer,
            } => self.answered(&host, serial, answer, effects),
            EngineEvent::WentSilent { key, silent } => self.went_silent(&key, silent, effects),
            EngineEvent::Doubted { key } => self.probe_now(&key),
            EngineEvent::Alarmed => {
                self.look(effects);
                self.keep_looking();
            }
            EngineEvent::Woken => {}
        }
    }

    /// The addresses that their names have no longer, and that still serve.
    #[cfg(test)]
    pub(super) fn leaving(&self) -> impl Iterator<Item = &EndpointKey> {
        self.leaving.keys()
    }

    /// What wakes it when requests tell something.
    pub fn alarm(&self) -> Arc<Alarm> {
        self.passive.alarm.clone()
    }

    /// When the next thing is due.
    pub fn wake(&self) -> Option<Tick> {
        self.due.first().map(|(tick, _)| *tick)
    }

    /// Whether anything changed since the last snapshot.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The world as it is now, after everything that depends on what changed was worked out again.
    pub fn publish(&mut self, now: Tick) -> Arc<Snapshot> {
        self.now = now;
        for target in std::mem::take(&mut self.dirty_targets) {
            self.work_out(target);
        }
        self.dirty = false;
        let (plan, locator) = (self.plan.clone(), self.locator.clone());
        Arc::new(Snapshot {
            generation: self.generation,
            suspicion: self.passive.suspicion.since(),
            weights: self.fitted.clone(),
            pool_stats: self.stats_of_pools.clone(),
            tables: self.tables.clone(),
            routes: self.route_states.clone(),
            ..Snapshot::new(plan, locator, self.views.clone(), now)
        })
    }

    // === A process that takes over ===

    /// What is known of endpoints, for a process that takes over.
    pub fn hand_over(&self) -> Handover {
        let endpoints = self.endpoints.iter().map(|(key, state)| {
            let known = Known {
                health: state.health.clone(),
                record: (&state.record).into(),
                came_back: state.came_back,
                measured: state.live.measured(),
            };
            (key.clone(), known)
        });
        let answered = self.names.iter().filter(|(_, name)| name.answered);
        Handover {
            endpoints: endpoints.collect(),
            names: answered
                .map(|(host, name)| {
                    // The next process asks at once, and finds out for itself which of them have gone.
                    let leaving = self.leaving.iter().filter(|(_, it)| it.host == *host);
                    let leaving = leaving.map(|(key, _)| key.address.ip());
                    let mut addresses: Vec<IpAddr> =
                        name.addresses.iter().copied().chain(leaving).collect();
                    addresses.sort_unstable();
                    addresses.dedup();
                    (host.clone(), addresses)
                })
                .collect(),
            came_back: self.passive.came_back.clone(),
        }
    }

    /// The pool that an endpoint belongs to, if there is one of that name.
    pub(super) fn pool_of(&self, key: &EndpointKey) -> Option<Arc<PoolPlan>> {
        let id = self.pools.get(&key.pool)?;
        Some(self.plan.pools[id.index()].clone())
    }

    /// Does everything that is due.
    fn run_due(&mut self, effects: &mut Vec<Effect>) {
        while let Some((tick, _)) = self.due.first()
            && *tick <= self.now
        {
            let Some((_, due)) = self.due.pop_first() else {
                break;
            };
            match due {
                Due::Probe(key) => self.begin_probe(&key, effects),
                Due::Resolve(host) => self.begin_resolve(&host, effects),
                Due::LetGo(pool) => {
                    if let Some(id) = self.pools.get(&pool).copied()
                        && self.leaving_of(&pool).next().is_some()
                    {
                        self.change_pool(id, effects);
                    }
                }
                Due::Measure => self.measure(),
                Due::Look => {
                    self.passive.looks = false;
                    if self.look(effects) && !self.passive.looks {
                        self.passive.alarm.sleep();
                    } else {
                        self.keep_looking();
                    }
                }
            }
        }
    }

    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let mut due: BTreeMap<&EndpointKey, usize> = BTreeMap::new();
        for (_, what) in &self.due {
            if let Due::Probe(key) = what {
                *due.entry(key).or_default() += 1;
            }
        }
        let looks = self.due.iter().filter(|(_, due)| *due == Due::Look).count();
        debug_assert_eq!(looks, usize::from(self.passive.looks), "looks that are due");
        debug_assert!(
            looks == 1 || self.is_calm(),
            "something needs a look, and nobody will"
        );
        for (key, state) in &self.endpoints {
            let planned = due.get(key).copied().unwrap_or(0);
            let probed = self.pool_of(key).is_some_and(|pool| pool.probe.is_some());
            debug_assert!(planned <= 1, "{key} is due {planned} times");
            debug_assert!(
                !probed || state.probing.is_some() || planned == 1,
                "nobody will ever probe {key} again"
            );
            debug_assert!(
                state.probing.is_none() || planned == 0,
                "{key} would be probed twice at once"
            );
        }
    }
}

/// An address of a pool.
struct Placed {
    address: SocketAddr,
    weight: u32,
    backup: bool,
    name: Option<Arc<str>>,
    /// The name has it no longer.
    leaving: bool,
}

/// A policy for endpoints without probes: none of it matters.
const OFF: HealthPolicy = HealthPolicy {
    every: Duration::from_secs(1),
    fast_every: Duration::from_secs(1),
    down_after: 1,
    up_after: 1,
};

/// A number from 0 to 1 that tells an endpoint's probes apart from others' and from its own others.
fn spread(endpoint: &Endpoint, probed: Tick) -> f64 {
    let mixed = (endpoint.seed ^ probed.since_start().as_nanos() as u64)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 11) as f64 / (1u64 << 53) as f64
}

/// How often a measured target is worked out again.
fn refresh_interval(plan: &Plan, target: TargetId) -> Duration {
    let by_load = plan
        .targets
        .reachable(target)
        .into_iter()
        .any(|id| matches!(plan.targets.node(id).kind, TargetKindPlan::LeastLoaded(_)));
    if by_load {
        REFRESH_LOAD
    } else {
        REFRESH_LATENCY
    }
}
