//! The engine's judgement, without its hands: events and the time in, effects out.
//!
//! Everything that can happen is in [`Event`], everything that may be done in [`Effect`]. State
//! belongs to names (an endpoint's to its pool's name and its address, a sequence of draws to its
//! route's name), so whatever a new configuration keeps by name, it keeps with all that is known
//! about it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::Material;
use portolan_config::names::Name;
use portolan_config::plan::{
    EndpointPlan, Plan, PoolId, PoolPlan, ResolverPlan, TargetId, TargetKindPlan,
};

use crate::clock::Tick;
use crate::counters::PoolStats;
use crate::engine::handover::{Handover, Known};
use crate::engine::observations::{LOOK, Passive};
use crate::engine::resolve::Answer;
use crate::events::event::Notice;
use crate::geo::Locator;
use crate::health::outlier::{Alarm, Record, Tally};
use crate::health::slow_start;
use crate::health::verdict::{Event as HealthEvent, Health, HealthPolicy, ProbeFailure, Verdict};
use crate::overrides::Drains;
use crate::overrides::weights::{Fitted, Misfit, WeightsOf};
use crate::pool::dial::{Dial, Dialer, Preparation, ProbeOutcome};
use crate::pool::endpoint::{Endpoint, EndpointKey};
use crate::pool::endpoint_view::EndpointView;
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
pub enum Event {
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
        answer: Result<Answer, String>,
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
    Notice(Notice),
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
    pub fn step(&mut self, event: Event, now: Tick) -> Vec<Effect> {
        self.step_all([event], now)
    }

    /// What is to be done when several things happen at the same time: with thousands of verdicts at
    /// once, what is asked about all pools together is asked once.
    pub fn step_all(&mut self, events: impl IntoIterator<Item = Event>, now: Tick) -> Vec<Effect> {
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

    fn happen(&mut self, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::PlanAccepted {
                plan,
                material,
                locator,
            } => self.accept(plan, material, locator, effects),
            Event::LocatorChanged(locator) => {
                self.locator = locator;
                self.dirty = true;
            }
            Event::OverridesChanged(drains, weights) => {
                self.set_overrides(drains, weights, effects);
            }
            Event::ProbeFinished {
                key,
                serial,
                outcome,
            } => self.probed(&key, serial, outcome, effects),
            Event::NameAnswered {
                host,
                serial,
                answer,
            } => self.answered(&host, serial, answer, effects),
            Event::WentSilent { key, silent } => self.went_silent(&key, silent, effects),
            Event::Doubted { key } => self.probe_now(&key),
            Event::Alarmed => {
                self.look(effects);
                self.keep_looking();
            }
            Event::Woken => {}
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

    // === A new configuration ===

    fn accept(
        &mut self,
        plan: Arc<Plan>,
        material: Arc<Material>,
        locator: Arc<Locator>,
        effects: &mut Vec<Effect>,
    ) {
        self.plan = plan;
        self.material = material;
        self.locator = locator;
        self.generation += 1;
        self.dirty = true;
        self.pools = self
            .plan
            .pools
            .iter()
            .map(|pool| (pool.name.clone(), pool.id))
            .collect();
        self.keep_names();
        self.keep_passive();
        self.keep_endpoints();
        self.keep_pools_and_routes();
        self.fit_weights(effects);
        self.index_targets();
    }

    /// Fits the weights that operators gave to services to the running configuration, and says
    /// which fit no longer, or again.
    fn fit_weights(&mut self, effects: &mut Vec<Effect>) {
        let fitted = Fitted::new(&self.plan, &self.weights);
        let before = std::mem::replace(&mut self.fitted, Arc::new(fitted));
        let told = |misfits: &BTreeMap<Name, Misfit>, (name, misfit): (&Name, &Misfit)| {
            misfits.get(name) == Some(misfit)
        };
        let misfits = self.fitted.misfits();
        for (service, misfit) in misfits.iter().filter(|it| !told(before.misfits(), *it)) {
            effects.push(Effect::Notice(Notice::WeightsIdle {
                service: service.clone(),
                misfit: misfit.clone(),
            }));
        }
        for service in before.misfits().keys() {
            if !misfits.contains_key(service) && self.weights.of(service).is_some() {
                effects.push(Effect::Notice(Notice::WeightsFit {
                    service: service.clone(),
                }));
            }
        }
    }

    /// Begins with new names, forgets those that nobody mentions any more.
    fn keep_names(&mut self) {
        let wanted: HashSet<Arc<str>> = self
            .plan
            .pools
            .iter()
            .flat_map(|pool| &pool.endpoints)
            .filter_map(|endpoint| match endpoint {
                EndpointPlan::Dns { host, .. } => Some(host.clone()),
                EndpointPlan::Address { .. } => None,
            })
            .collect();
        self.names.retain(|host, _| wanted.contains(host));
        self.due.retain(|(_, due)| match due {
            Due::Resolve(host) => wanted.contains(host),
            _ => true,
        });
        for host in wanted {
            if !self.names.contains_key(&host) {
                // What another process was answered is good enough until we are.
                let handed = self.handed.names.remove(&host);
                let state = NameState {
                    answered: handed.is_some(),
                    addresses: handed.unwrap_or_default(),
                    next: Some(self.now),
                    ..NameState::default()
                };
                self.due.insert((self.now, Due::Resolve(host.clone())));
                self.names.insert(host, state);
            }
        }
    }

    /// Begins with new endpoints, forgets those that are gone, and keeps everything known about the
    /// others. Called for every configuration and every change of a name's addresses.
    fn keep_endpoints(&mut self) {
        let plan = self.plan.clone();
        self.forget_leaving();
        let known = self.endpoints.len();
        let mut wanted = HashSet::with_capacity(known.max(plan.pools.len()));
        let serving = self.serving();
        for pool in &plan.pools {
            let serves = serving.contains(&pool.name);
            for placed in self.placed(pool) {
                let key = EndpointKey {
                    pool: pool.name.clone(),
                    address: placed.address,
                };
                if wanted.insert(key.clone()) {
                    self.keep_endpoint(pool, key, placed.name.as_ref(), serves);
                }
            }
        }
        let endpoints = &mut self.endpoints;
        endpoints.retain(|key, _| wanted.contains(key));
        self.due.retain(|(_, due)| match due {
            Due::Probe(key) => wanted.contains(key),
            _ => true,
        });
    }

    fn keep_endpoint(
        &mut self,
        pool: &Arc<PoolPlan>,
        key: EndpointKey,
        name: Option<&Arc<str>>,
        serving: bool,
    ) {
        let dial = Dial::when_needed(Preparation {
            dialer: self.dialer.clone(),
            pool: pool.clone(),
            identity: self.material.pools.get(&pool.id).cloned(),
            address: key.address,
            name: name.cloned(),
        });
        let now = self.now;
        let alarm = self.passive.alarm.clone();
        let handed = self.handed.endpoints.remove(&key);
        let state = self.endpoints.entry(key.clone()).or_insert_with(|| {
            Box::new(EndpointState {
                live: Arc::new(Endpoint::watched(key.clone(), alarm)),
                dial: dial.clone(),
                health: Health::unknown(now),
                record: Record::default(),
                counted: Tally::default(),
                silent: None,
                came_back: None,
                added_later: serving,
                probed: None,
                next: None,
                probing: None,
            })
        });
        if let Some(known) = handed {
            state.go_on(known, pool);
        }
        state.dial = dial;
        state.keep_watch(pool, now);
        let next = match &pool.probe {
            None => {
                let health = std::mem::replace(&mut state.health, Health::unknown(now));
                state.health = health.step(&OFF, HealthEvent::ProbesSwitchedOff, now);
                None
            }
            // The next probe goes out when the new pace says, seen from the last one: a change of
            // the pace neither skips a probe nor sends all of them at once.
            Some(probe) if state.probing.is_none() => Some(match state.probed {
                None => now,
                Some(probed) => {
                    let pace = state
                        .health
                        .pace(&probe.into(), spread(&state.live, probed));
                    (probed + pace).max(now)
                }
            }),
            Some(_) => None,
        };
        if let Some(before) = std::mem::replace(&mut state.next, next) {
            self.due.remove(&(before, Due::Probe(key.clone())));
        }
        if let Some(next) = next {
            self.due.insert((next, Due::Probe(key)));
        }
    }

    /// The addresses of a pool, in the order written; of two entries for one address the first.
    fn placed(&self, pool: &PoolPlan) -> Vec<Placed> {
        let mut seen = HashSet::new();
        let mut placed: Vec<Placed> = Vec::with_capacity(pool.endpoints.len());
        // Most pools are small.
        let mut is_new = |placed: &[Placed], address: SocketAddr| {
            if placed.len() < 16 {
                return placed.iter().all(|it| it.address != address);
            }
            if seen.is_empty() {
                seen.extend(placed.iter().map(|it| it.address));
            }
            seen.insert(address)
        };
        for endpoint in &pool.endpoints {
            match endpoint {
                EndpointPlan::Address {
                    address,
                    weight,
                    backup,
                } => {
                    if is_new(&placed, *address) {
                        placed.push(Placed {
                            address: *address,
                            weight: *weight,
                            backup: *backup,
                            name: None,
                            leaving: false,
                        });
                    }
                }
                EndpointPlan::Dns {
                    host,
                    port,
                    weight,
                    backup,
                } => {
                    let found = self.names.get(host).map_or(&[][..], |name| &name.addresses);
                    for address in found {
                        let address = SocketAddr::new(*address, *port);
                        if is_new(&placed, address) {
                            placed.push(Placed {
                                address,
                                weight: *weight,
                                backup: *backup,
                                name: Some(host.clone()),
                                leaving: false,
                            });
                        }
                    }
                }
            }
        }
        for (key, leaving) in self.leaving_of(&pool.name) {
            let entry = pool.endpoints.iter().find_map(|endpoint| match endpoint {
                EndpointPlan::Dns {
                    host,
                    port,
                    weight,
                    backup,
                } if *host == leaving.host && *port == key.address.port() => {
                    Some((*weight, *backup))
                }
                _ => None,
            });
            if let Some((weight, backup)) = entry
                && is_new(&placed, key.address)
            {
                placed.push(Placed {
                    address: key.address,
                    weight,
                    backup,
                    name: Some(leaving.host.clone()),
                    leaving: true,
                });
            }
        }
        placed
    }

    // === Addresses that a name has no longer ===

    /// Those of a pool, ascending.
    fn leaving_of(&self, pool: &Name) -> impl Iterator<Item = (&EndpointKey, &Leaving)> {
        let first = EndpointKey {
            pool: pool.clone(),
            address: SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0),
        };
        let leaving = (!self.leaving.is_empty()).then(|| self.leaving.range(first..));
        let pool = pool.clone();
        leaving
            .into_iter()
            .flatten()
            .take_while(move |(key, _)| key.pool == pool)
    }

    /// Whether an endpoint gets requests: healthy by its probes, and not ejected.
    fn serves(&self, key: &EndpointKey) -> bool {
        self.endpoints.get(key).is_some_and(|state| {
            state.health.verdict == Verdict::Healthy
                && state.record.standing.ejected_since().is_none()
        })
    }

    /// A name has lost these addresses. Those that serve stay until others can: the last answer that was
    /// good is better than one of which nothing is known.
    fn begin_leaving(&mut self, host: &Arc<str>, gone: &[IpAddr]) {
        let now = self.now;
        let max_ttl = self.plan.resolver.max_ttl;
        for id in self.pools_with(host) {
            let pool = self.plan.pools[id.index()].clone();
            let wait = pool
                .probe
                .as_ref()
                .map_or(Duration::ZERO, |probe| probe.timeout);
            let slow = pool.slow_start.unwrap_or_default();
            let leaving = Leaving {
                host: host.clone(),
                settled: now + wait + FIRST_VERDICTS + slow,
                last: now + max_ttl.max(wait),
            };
            let ports: BTreeSet<u16> = pool
                .endpoints
                .iter()
                .filter_map(|endpoint| match endpoint {
                    EndpointPlan::Dns { host: of, port, .. } if of == host => Some(*port),
                    _ => None,
                })
                .collect();
            for address in gone {
                for port in &ports {
                    let key = EndpointKey {
                        pool: pool.name.clone(),
                        address: SocketAddr::new(*address, *port),
                    };
                    if self.serves(&key) {
                        let name = pool.name.clone();
                        self.due.insert((leaving.settled, Due::LetGo(name.clone())));
                        self.due.insert((leaving.last, Due::LetGo(name)));
                        self.leaving.insert(key, leaving.clone());
                    }
                }
            }
        }
    }

    /// Forgets those that no pool asks for any more, and those that are wanted otherwise.
    fn forget_leaving(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let leaving = std::mem::take(&mut self.leaving);
        let kept = leaving.into_iter().filter(|(key, leaving)| {
            let Some(pool) = self.pool_of(key) else {
                return false;
            };
            let named = pool.endpoints.iter().any(|endpoint| {
                matches!(endpoint, EndpointPlan::Dns { host, port, .. }
                    if *host == leaving.host && *port == key.address.port())
            });
            // Without those that leave, which are taken out just now.
            named
                && self
                    .placed(&pool)
                    .iter()
                    .all(|it| it.address != key.address)
        });
        self.leaving = kept.collect();
    }

    /// Lets go of addresses of a pool that are not needed any more. The pool's view has to be made anew.
    fn let_go(&mut self, pool: &Arc<PoolPlan>) {
        if self.leaving_of(&pool.name).next().is_none() {
            return;
        }
        let without = self.view_of(pool, |endpoint| !endpoint.leaving);
        let serves = without.availability > 0.0;
        let goes: Vec<EndpointKey> = self
            .leaving_of(&pool.name)
            .filter(|(key, leaving)| {
                let settles = self.now < leaving.settled
                    && without.endpoints.iter().any(|endpoint| {
                        endpoint.name.as_ref() == Some(&leaving.host)
                            && (endpoint.health.verdict == Verdict::Unknown || endpoint.ramp < 1.0)
                    });
                let needed = settles || (!serves && self.now < leaving.last);
                !needed || !self.serves(key)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in goes {
            self.leaving.remove(&key);
            if let Some(state) = self.endpoints.remove(&key)
                && let Some(next) = state.next
            {
                self.due.remove(&(next, Due::Probe(key)));
            }
        }
    }

    fn keep_pools_and_routes(&mut self) {
        let plan = self.plan.clone();
        let pools: HashSet<&Name> = plan.pools.iter().map(|pool| &pool.name).collect();
        self.turns.retain(|name, _| pools.contains(name));
        self.passive
            .came_back
            .retain(|name, _| pools.contains(name));
        self.pool_stats.retain(|name, _| pools.contains(name));
        for pool in &plan.pools {
            self.turns.entry(pool.name.clone()).or_default();
            self.pool_stats.entry(pool.name.clone()).or_default();
        }
        let stats = plan.pools.iter();
        self.stats_of_pools = stats
            .map(|pool| self.pool_stats[&pool.name].clone())
            .collect();
        // Views of other pools stood at these indices: all are made anew.
        self.views.clear();
        for pool in &plan.pools {
            self.let_go(pool);
            let view = self.view(pool);
            self.views.push(Arc::new(view));
        }
        self.dirty_targets.clear();

        let before = std::mem::take(&mut self.routes);
        let keys = &self.material.token_keys;
        self.route_states = plan
            .routes
            .iter()
            .map(|route| {
                let old = before.get(&route.name).map(AsRef::as_ref);
                Arc::new(RouteState::new(&plan, route.id, keys, old))
            })
            .collect();
        self.routes = self
            .route_states
            .iter()
            .map(|state| (state.name.clone(), state.clone()))
            .collect();
    }

    /// Works out the tables of every target, and what each depends on.
    fn index_targets(&mut self) {
        let plan = self.plan.clone();
        self.tables = vec![None; plan.targets.len()];
        self.targets_of_pool = vec![Vec::new(); plan.pools.len()];
        let mut measured = Measured::default();
        for (at, classes) in plan.classes.iter().enumerate() {
            if classes.is_none() {
                continue;
            }
            let target = TargetId::new(at);
            for pool in &plan.targets.node(target).pools {
                self.targets_of_pool[pool.index()].push(target);
            }
            if plan.targets.node(target).measured {
                measured.targets.push(target);
                let every = refresh_interval(&plan, target);
                measured.every = Some(measured.every.map_or(every, |other| other.min(every)));
            }
            self.work_out(target);
        }
        self.measured = measured;
        self.due.retain(|(_, due)| *due != Due::Measure);
        if let Some(every) = self.measured.every {
            self.due.insert((self.now + every, Due::Measure));
        }
    }

    // === Publishing ===

    pub(super) fn view(&self, pool: &Arc<PoolPlan>) -> PoolView {
        let view = self.view_of(pool, |_| true);
        self.passive.shape(view, self.now)
    }

    /// A pool with some of its endpoints.
    fn view_of(&self, pool: &Arc<PoolPlan>, with: impl Fn(&EndpointView) -> bool) -> PoolView {
        let endpoints = self
            .placed(pool)
            .into_iter()
            .filter_map(|placed| {
                let key = EndpointKey {
                    pool: pool.name.clone(),
                    address: placed.address,
                };
                let state = self.endpoints.get(&key)?;
                let drained = self.drains.endpoint(&key).then_some(placed.weight);
                Some(EndpointView {
                    live: state.live.clone(),
                    dial: state.dial.clone(),
                    weight: if drained.is_some() { 0 } else { placed.weight },
                    drained,
                    backup: placed.backup,
                    name: placed.name,
                    health: state.health.clone(),
                    standing: state.record.standing,
                    ramp: slow_start::share(pool.slow_start, state.came_back, self.now),
                    leaving: placed.leaving,
                })
            })
            .filter(with)
            .collect();
        let resolved = pool.endpoints.iter().all(|endpoint| match endpoint {
            EndpointPlan::Dns { host, .. } => {
                self.names.get(host).is_some_and(|name| name.answered)
            }
            EndpointPlan::Address { .. } => true,
        });
        let mut plan = pool.clone();
        if !plan.drain && self.drains.pool(&plan.name) {
            Arc::make_mut(&mut plan).drain = true;
        }
        let turns = self.turns[&pool.name].clone();
        PoolView::new(plan, endpoints, resolved, turns)
    }

    /// Works out the tables of a target. Whether they changed.
    fn work_out(&mut self, target: TargetId) -> bool {
        let plan = self.plan.clone();
        let tables = TargetTables::new(&*self, target, plan.classes(target));
        let slot = &mut self.tables[target.index()];
        if slot
            .as_ref()
            .is_some_and(|before| before.says_the_same(&tables))
        {
            return false;
        }
        *slot = Some(Arc::new(tables));
        true
    }

    /// Pools go by what is drained now, and services by their weights; only what changed is worked
    /// out again. Whoever changed it is told elsewhere.
    fn set_overrides(&mut self, drains: Drains, weights: WeightsOf, effects: &mut Vec<Effect>) {
        let plan = self.plan.clone();
        let before = std::mem::replace(&mut self.drains, drains);
        for pool in &plan.pools {
            if !before.differs_in(&self.drains, &pool.name) {
                continue;
            }
            let view = self.view(pool);
            self.views[pool.id.index()] = Arc::new(view);
            self.dirty_targets
                .extend(&self.targets_of_pool[pool.id.index()]);
        }
        if self.weights != weights {
            self.weights = weights;
            let before = self.fitted.clone();
            self.fit_weights(effects);
            self.reweigh(&before);
        }
        self.dirty = true;
    }

    /// Every target that leads through a service with other weights than before has other shares.
    fn reweigh(&mut self, before: &Fitted) {
        let plan = self.plan.clone();
        let changed: HashSet<TargetId> = (0..plan.targets.len())
            .map(TargetId::new)
            .filter(|target| match &plan.targets.node(*target).kind {
                TargetKindPlan::Service(service, _) => {
                    before.of(*service) != self.fitted.of(*service)
                }
                _ => false,
            })
            .collect();
        if changed.is_empty() {
            return;
        }
        for (at, classes) in plan.classes.iter().enumerate() {
            let target = TargetId::new(at);
            let leads = || {
                let below = plan.targets.reachable(target);
                below.iter().any(|id| changed.contains(id))
            };
            if classes.is_some() && leads() {
                self.dirty_targets.insert(target);
            }
        }
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

    // === Probes and names ===

    fn probed(
        &mut self,
        key: &EndpointKey,
        serial: u64,
        outcome: ProbeOutcome,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        let Some(pool) = self.pool_of(key) else {
            return;
        };
        let found = self.endpoints.get_mut(key);
        let Some(state) = found.filter(|state| state.probing == Some(serial)) else {
            return;
        };
        state.probing = None;
        let Some(probe) = &pool.probe else {
            return;
        };
        let policy = HealthPolicy::from(probe);
        let event = match outcome.result {
            Ok(()) => HealthEvent::ProbeSucceeded,
            Err(ProbeFailure::Edge(_) | ProbeFailure::Own) => {
                // It was not asked: the verdict stays, and it is asked again soon.
                let probed = state.probed.unwrap_or(now);
                let next = (probed + policy.fast_every).max(now);
                state.next = Some(next);
                self.due.insert((next, Due::Probe(key.clone())));
                return;
            }
            Err(failure) => HealthEvent::ProbeFailed(failure),
        };
        let succeeded = event == HealthEvent::ProbeSucceeded;
        let silently = matches!(&event, HealthEvent::ProbeFailed(failure) if failure.is_silence());
        state.live.observe_probe(outcome.took, succeeded, now);
        let silent = if succeeded {
            state.live.stall.probe_passed(outcome.took, now);
            None
        } else {
            state.live.stall.probe_over(silently, now)
        };
        state.fell_silent(silent, now, effects);
        let looks = silent.is_some();
        let before = state.health.verdict;
        let health = std::mem::replace(&mut state.health, Health::unknown(now));
        state.health = health.step(&policy, event, now);
        let after = state.health.verdict;
        let because = state.health.because.clone();
        let added_later = std::mem::take(&mut state.added_later);

        let probed = state.probed.unwrap_or(now);
        let next = (probed + state.health.pace(&policy, spread(&state.live, probed))).max(now);
        state.next = Some(next);
        self.due.insert((next, Due::Probe(key.clone())));

        if before != after && after == Verdict::Unhealthy {
            state.live.begin_connection_generation();
        }
        if before == Verdict::Unhealthy && before != after {
            state.begins_anew();
        }
        if before != after {
            let dead = after == Verdict::Unhealthy && silently;
            state.tell_requests(dead, state.probed.unwrap_or(now));
            effects.push(Effect::Notice(Notice::EndpointJudged {
                key: key.clone(),
                verdict: after,
                because,
            }));
        }
        let back = match before {
            Verdict::Unhealthy => true,
            Verdict::Unknown => added_later,
            Verdict::Healthy => false,
        };
        if after == Verdict::Healthy && before != after && back {
            self.begin_slowly(key);
        }
        let changed = if succeeded {
            self.passed(key, probe, before, after, effects)
        } else {
            self.probe_failed(key);
            false
        };
        if looks {
            self.keep_looking();
        }
        if before != after || changed {
            self.change_pool(pool.id, effects);
        }
    }

    /// Has every endpoint probed now that is not being probed already.
    pub(super) fn probe_everybody(&mut self) {
        for (key, state) in &mut self.endpoints {
            if let Some(before) = state.next {
                self.due.remove(&(before, Due::Probe(key.clone())));
                state.next = Some(self.now);
                self.due.insert((self.now, Due::Probe(key.clone())));
            }
        }
    }

    /// Has an endpoint probed now, unless it is being probed already.
    pub(super) fn probe_now(&mut self, key: &EndpointKey) {
        if let Some(state) = self.endpoints.get_mut(key)
            && let Some(before) = state.next
        {
            self.due.remove(&(before, Due::Probe(key.clone())));
            state.next = Some(self.now);
            self.due.insert((self.now, Due::Probe(key.clone())));
        }
    }

    /// Has the engine look at what requests tell from time to time, until nothing asks for it.
    pub(super) fn keep_looking(&mut self) {
        if !self.passive.looks {
            self.passive.looks = true;
            self.passive.alarm.wake();
            self.due.insert((self.now + LOOK, Due::Look));
        }
    }

    /// Makes a pool's view anew and says whether it came up or went down.
    pub(super) fn change_pool(&mut self, pool: PoolId, effects: &mut Vec<Effect>) {
        let was_up = self.views[pool.index()].availability > 0.0;
        let was_judged = self.views[pool.index()].judged;
        self.remember();
        let plan = self.plan.pools[pool.index()].clone();
        self.let_go(&plan);
        let mut view = self.view(&plan);
        let up = view.availability > 0.0;
        if up && !was_up && was_judged && self.pool_comes_back(&plan) {
            view = self.view(&plan);
        }
        if up != was_up || (view.judged && !was_judged && !up) {
            effects.push(Effect::Notice(Notice::PoolChanged {
                pool: plan.name.clone(),
                up,
                healthy: (view.healthy, view.counted),
            }));
        }
        self.views[pool.index()] = Arc::new(view);
        self.dirty_targets
            .extend(&self.targets_of_pool[pool.index()]);
        self.dirty = true;
    }

    /// The pool that an endpoint belongs to, if there is one of that name.
    pub(super) fn pool_of(&self, key: &EndpointKey) -> Option<Arc<PoolPlan>> {
        let id = self.pools.get(&key.pool)?;
        Some(self.plan.pools[id.index()].clone())
    }

    fn answered(
        &mut self,
        host: &Arc<str>,
        serial: u64,
        answer: Result<Answer, String>,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        let resolver = self.plan.resolver.clone();
        let found = self.names.get_mut(host);
        let Some(state) = found.filter(|state| state.asking == Some(serial)) else {
            return;
        };
        state.asking = None;
        let first = !std::mem::replace(&mut state.answered, true);
        let mut changed = false;
        let mut gone = Vec::new();
        let wait = match answer {
            Ok(answer) => {
                state.failures = 0;
                changed = state.addresses != answer.addresses;
                gone = std::mem::replace(&mut state.addresses, answer.addresses);
                gone.retain(|address| !state.addresses.contains(address));
                if changed {
                    effects.push(Effect::Notice(Notice::NameChanged {
                        host: host.clone(),
                        addresses: state.addresses.len(),
                    }));
                }
                answer.ttl.clamp(resolver.min_ttl, resolver.max_ttl)
            }
            Err(error) => {
                // Said once per outage, not once per try.
                if state.failures == 0 {
                    effects.push(Effect::Notice(Notice::NameFailed {
                        host: host.clone(),
                        error,
                    }));
                }
                let doubled = FIRST_RETRY * 2u32.pow(state.failures.min(5));
                state.failures += 1;
                doubled.min(LAST_RETRY)
            }
        };
        let next = now + wait;
        state.next = Some(next);
        self.due.insert((next, Due::Resolve(host.clone())));
        if changed {
            self.begin_leaving(host, &gone);
            self.keep_endpoints();
        }
        if changed || first {
            for pool in self.pools_with(host) {
                self.change_pool(pool, effects);
            }
        }
    }

    /// The pools that have endpoints under this name.
    fn pools_with(&self, name: &str) -> Vec<PoolId> {
        self.plan
            .pools
            .iter()
            .filter(|pool| {
                pool.endpoints
                    .iter()
                    .any(|e| matches!(e, EndpointPlan::Dns { host, .. } if **host == *name))
            })
            .map(|pool| pool.id)
            .collect()
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

    /// Probes an endpoint at once instead of when it is due.
    fn went_silent(&mut self, key: &EndpointKey, silent: Duration, effects: &mut Vec<Effect>) {
        let now = self.now;
        if let Some(state) = self.endpoints.get_mut(key) {
            state.fell_silent(Some(silent), now, effects);
            self.probe_now(key);
            self.keep_looking();
        }
    }

    fn begin_probe(&mut self, key: &EndpointKey, effects: &mut Vec<Effect>) {
        let now = self.now;
        let Some(plan) = self.pool_of(key) else {
            return;
        };
        let Some(state) = self.endpoints.get_mut(key) else {
            return;
        };
        self.serial += 1;
        state.next = None;
        state.probed = Some(now);
        state.live.stall.probe_sent(now);
        state.probing = Some(self.serial);
        effects.push(Effect::Probe {
            key: key.clone(),
            serial: self.serial,
            plan,
            dial: state.dial.clone(),
        });
    }

    fn begin_resolve(&mut self, host: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(state) = self.names.get_mut(host) else {
            return;
        };
        self.serial += 1;
        state.next = None;
        state.asking = Some(self.serial);
        effects.push(Effect::Resolve {
            host: host.clone(),
            serial: self.serial,
            plan: self.plan.resolver.clone(),
        });
    }

    fn measure(&mut self) {
        for target in self.measured.targets.clone() {
            self.dirty |= self.work_out(target);
        }
        if let Some(every) = self.measured.every {
            self.due.insert((self.now + every, Due::Measure));
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
