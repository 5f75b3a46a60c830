//! Seeded simulation of the engine's core: random configurations, probes that succeed, fail and
//! stall, names that change and fail, all in made-up time, beside a shadow model that knows nothing
//! of the core's bookkeeping.
//!
//! A failure prints its seed; `SEED=123 cargo test -p portolan-control simulation` runs that one.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::{Material, UpstreamIdentity};
use portolan_config::plan::{EndpointPlan, Plan, PoolPlan};
use portolan_config::{Machine, check_text};

use super::core::{Core, Effect, EngineEvent};
use crate::clock::Tick;
use crate::engine::resolve::ResolvedName;
use crate::geo::Locator;
use crate::health::verdict::{ProbeFailure, Verdict};
use crate::pool::dial::{Dial, Dialer, ProbeOutcome, Probing};
use crate::pool::endpoint::EndpointKey;
use crate::snapshot::Snapshot;
use crate::steering::{Basis, Table};

const POOLS: usize = 4;
const STEPS: usize = 1_500;
const SEEDS: u64 = 60;

#[derive(Debug)]
pub(super) struct Nobody;

impl Dialer for Nobody {
    fn prepare(
        &self,
        _: &Arc<PoolPlan>,
        _: Option<&Arc<UpstreamIdentity>>,
        _: SocketAddr,
        _: Option<&str>,
    ) -> Dial {
        Dial::new(())
    }

    fn probe(&self, _: &Arc<PoolPlan>, _: &Dial) -> Probing {
        unreachable!("the simulation answers probes itself")
    }
}

/// What the simulation believes of an endpoint: the rules of docs/health.md, in the shortest form.
#[derive(Debug, Default)]
struct Shadow {
    /// Probes from before it was there are not its own.
    born: u64,
    results: Vec<bool>,
    verdict: Option<bool>,
    off: bool,
}

impl Shadow {
    fn probed(&mut self, good: bool, down_after: u32, up_after: u32) {
        self.results.push(good);
        let same = self
            .results
            .iter()
            .rev()
            .take_while(|result| **result == good)
            .count() as u32;
        match self.verdict {
            None => self.verdict = Some(good),
            Some(true) if !good && same >= down_after => self.verdict = Some(false),
            Some(false) if good && same >= up_after => self.verdict = Some(true),
            Some(_) => return,
        }
        self.results.clear();
    }
}

struct World {
    random: fastrand::Rng,
    now: Tick,
    core: Core,
    plan: Arc<Plan>,
    /// Probes under way: when they end, which they are, whose, how they end.
    probes: BTreeMap<(Tick, u64), (EndpointKey, bool)>,
    /// Questions under way.
    questions: BTreeMap<(Tick, u64), Arc<str>>,
    /// The last probe or question.
    serial: u64,
    /// When each name was first mentioned without a break.
    named: HashMap<Arc<str>, u64>,
    shadows: HashMap<EndpointKey, Shadow>,
    names: HashMap<Arc<str>, Vec<IpAddr>>,
    /// When names lost addresses last.
    lost: HashMap<(Arc<str>, IpAddr), Tick>,
    last_probe: HashMap<EndpointKey, Tick>,
    generation: u64,
    draws: HashMap<Arc<str>, u64>,
}

fn configuration(random: &mut fastrand::Rng) -> Arc<Plan> {
    let mut text = String::from("listeners: [ { bind: '127.0.0.1:0' } ]\npools:\n");
    let mut names = Vec::new();
    for at in 0..POOLS {
        if random.u32(0..5) == 0 && !(names.is_empty() && at == POOLS - 1) {
            continue;
        }
        let mut endpoints = Vec::new();
        for number in 0..random.usize(1..5) {
            let weight = random.u32(1..4);
            let backup = number > 0 && random.u32(0..6) == 0;
            endpoints.push(format!(
                "{{ address: '10.0.{at}.{number}:80', weight: {weight}, backup: {backup} }}"
            ));
        }
        if random.u32(0..3) == 0 {
            endpoints.push(format!("{{ dns: 'name{}.test:80' }}", random.u32(0..2)));
        }
        let health = match random.u32(0..6) {
            0 => "off".to_owned(),
            1 => "{ every: 1s, timeout: 500ms, down_after: 1, up_after: 1 }".to_owned(),
            2 => "{ every: 20s, fast_every: 5s, timeout: 1s }".to_owned(),
            _ => "{ every: 5s, timeout: 2s }".to_owned(),
        };
        let drain = random.u32(0..12) == 0;
        let _ = writeln!(
            text,
            "  p{at}: {{ cloud: aws, region: us-east-1, endpoints: [ {} ], health: {health}, drain: {drain} }}",
            endpoints.join(", ")
        );
        names.push(format!("p{at}"));
    }
    let members = |random: &mut fastrand::Rng| {
        let mut names = names.clone();
        random.shuffle(&mut names);
        names
    };
    let tiers = members(random).join(", ");
    let weights: Vec<String> = members(random)
        .iter()
        .map(|name| format!("{name}: {}", random.u32(1..100)))
        .collect();
    let fastest = members(random).join(", ");
    let _ = write!(
        text,
        "routes:
  - {{ name: tiers, path: /tiers, to: {{ tiers: [ {tiers} ] }} }}
  - {{ name: split, path: /split, to: {{ split: {{ {} }} }} }}
  - {{ name: fastest, path: /fastest, to: {{ fastest: [ {fastest} ] }} }}
",
        weights.join(", ")
    );
    let checked = check_text("simulated.yaml", text.clone(), &Machine::default());
    checked
        .plan
        .unwrap_or_else(|| panic!("{text}\n{:?}", checked.report.first_error()))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = configuration(&mut random);
        let now = Tick::after(Duration::from_secs(1));
        let core = Core::new(
            plan.clone(),
            Arc::default(),
            Arc::new(Locator::default()),
            Arc::new(Nobody),
            now,
        );
        Self {
            random,
            now,
            core,
            plan,
            probes: BTreeMap::new(),
            questions: BTreeMap::new(),
            serial: 0,
            named: HashMap::new(),
            shadows: HashMap::new(),
            names: HashMap::new(),
            lost: HashMap::new(),
            last_probe: HashMap::new(),
            generation: 0,
            draws: HashMap::new(),
        }
    }

    fn run(&mut self) {
        self.step(EngineEvent::Woken);
        for _ in 0..STEPS {
            match self.random.u32(0..40) {
                0 => self.reload(),
                _ => self.next(),
            }
            self.check();
        }
    }

    /// Goes on until something happens; the engine only looking around is nothing.
    fn next(&mut self) {
        const LOOKS: usize = 100;
        for _ in 0..LOOKS {
            if self.advance() {
                return;
            }
        }
    }

    /// Whatever comes first: a probe or a question that ends, or something that is due. Whether
    /// anything came of it.
    fn advance(&mut self) -> bool {
        let probe = self.probes.keys().next().copied();
        let question = self.questions.keys().next().copied();
        let wake = self.core.wake();
        let first = [probe.map(|p| p.0), question.map(|q| q.0), wake]
            .into_iter()
            .flatten()
            .min();
        let Some(first) = first else {
            return true;
        };
        self.now = self.now.max(first);
        if let Some(key) = probe.filter(|p| p.0 == first) {
            let (endpoint, good) = self.probes.remove(&key).unwrap();
            self.finish_probe(endpoint, key.1, good);
            true
        } else if let Some(key) = question.filter(|q| q.0 == first) {
            let host = self.questions.remove(&key).unwrap();
            self.answer(host, key.1);
            true
        } else {
            self.step(EngineEvent::Woken)
        }
    }

    fn finish_probe(&mut self, key: EndpointKey, serial: u64, good: bool) {
        let pool = self.plan.pools.iter().find(|pool| pool.name == key.pool);
        if let Some(probe) = pool.and_then(|pool| pool.probe.as_ref())
            && let Some(shadow) = self.shadows.get_mut(&key).filter(|s| s.born < serial)
        {
            shadow.probed(good, probe.down_after, probe.up_after);
        }
        let result = if good {
            Ok(())
        } else {
            Err(ProbeFailure::Connect("refused".to_owned()))
        };
        let took = Duration::from_millis(self.random.u64(1..100));
        let outcome = ProbeOutcome { result, took };
        self.step(EngineEvent::ProbeFinished {
            key,
            serial,
            outcome,
        });
    }

    fn answer(&mut self, host: Arc<str>, serial: u64) {
        let answer = if self.random.u32(0..4) == 0 {
            Err("SERVFAIL".to_owned())
        } else {
            let number = host.as_bytes()[4];
            let mut addresses: Vec<IpAddr> = (0..self.random.u8(1..4))
                .map(|_| IpAddr::from([10, 9, number, self.random.u8(0..5)]))
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
            if self.named.get(&host).is_some_and(|born| *born < serial) {
                let before = self.names.insert(host.clone(), addresses.clone());
                for gone in before.into_iter().flatten() {
                    if !addresses.contains(&gone) {
                        self.lost.insert((host.clone(), gone), self.now);
                    }
                }
            }
            Ok(ResolvedName {
                addresses,
                ttl: Duration::from_secs(self.random.u64(0..600)),
            })
        };
        let up = |core: &Core| -> Vec<bool> {
            let views = core.views.iter();
            views.map(|view| view.availability > 0.0).collect()
        };
        let before = up(&self.core);
        self.step(EngineEvent::NameAnswered {
            host,
            serial,
            answer,
        });
        // Whatever a name server says takes no pool down.
        for (at, (before, after)) in before.into_iter().zip(up(&self.core)).enumerate() {
            assert!(!before || after, "{}", self.plan.pools[at].name);
        }
    }

    fn reload(&mut self) {
        self.plan = configuration(&mut self.random);
        let used: Vec<Arc<str>> = self.wanted_names();
        self.names.retain(|host, _| used.contains(host));
        self.named.retain(|host, _| used.contains(host));
        self.step(EngineEvent::PlanAccepted {
            plan: self.plan.clone(),
            material: Arc::new(Material::default()),
            locator: Arc::new(Locator::default()),
        });
    }

    fn wanted_names(&self) -> Vec<Arc<str>> {
        let endpoints = self.plan.pools.iter().flat_map(|pool| &pool.endpoints);
        endpoints
            .filter_map(|endpoint| match endpoint {
                EndpointPlan::Dns { host, .. } => Some(host.clone()),
                EndpointPlan::Address { .. } => None,
            })
            .collect()
    }

    /// The endpoints that there must be now.
    fn wanted(&self) -> Vec<(EndpointKey, Arc<PoolPlan>)> {
        let mut wanted: Vec<(EndpointKey, Arc<PoolPlan>)> = Vec::new();
        for pool in &self.plan.pools {
            for endpoint in &pool.endpoints {
                let addresses: Vec<SocketAddr> = match endpoint {
                    EndpointPlan::Address { address, .. } => vec![*address],
                    EndpointPlan::Dns { host, port, .. } => self
                        .names
                        .get(host)
                        .into_iter()
                        .flatten()
                        .map(|ip| SocketAddr::new(*ip, *port))
                        .collect(),
                };
                for address in addresses {
                    let key = EndpointKey {
                        pool: pool.name.clone(),
                        address,
                    };
                    if !wanted.iter().any(|(other, _)| *other == key) {
                        wanted.push((key, pool.clone()));
                    }
                }
            }
        }
        wanted
    }

    /// Whether anything came of it.
    fn step(&mut self, event: EngineEvent) -> bool {
        let effects = self.core.step(event, self.now);
        let something = !effects.is_empty();
        // The shadow model learns which endpoints there are before their first probe goes out. Which of
        // them stay for a while that their names have no longer is checked apart.
        let wanted = self.wanted();
        let leaving: Vec<&EndpointKey> = self.core.leaving().collect();
        self.shadows.retain(|key, _| {
            wanted.iter().any(|(other, _)| other == key) || leaving.contains(&key)
        });
        for host in self.wanted_names() {
            self.named.entry(host).or_insert(self.serial);
        }
        for (key, pool) in wanted {
            let born = self.serial;
            let shadow = self.shadows.entry(key).or_insert_with(|| Shadow {
                born,
                ..Shadow::default()
            });
            shadow.off = pool.probe.is_none();
            if shadow.off {
                shadow.verdict = Some(true);
                shadow.results.clear();
            }
        }
        for effect in effects {
            match effect {
                Effect::Probe {
                    key, serial, plan, ..
                } => {
                    self.serial = serial;
                    let probe = plan
                        .probe
                        .as_ref()
                        .expect("only those with probes are probed");
                    let good = self.random.u32(0..10) < 7;
                    let took = if self.random.u32(0..4) == 0 {
                        probe.timeout
                    } else {
                        Duration::from_millis(self.random.u64(1..50))
                    };
                    self.last_probe.insert(key.clone(), self.now);
                    self.probes
                        .insert((self.now + took, self.serial), (key, good));
                }
                Effect::Resolve { host, serial, .. } => {
                    self.serial = serial;
                    let took = Duration::from_millis(self.random.u64(1..3_000));
                    self.questions.insert((self.now + took, self.serial), host);
                }
                Effect::Emit(_) => {}
            }
        }
        something
    }

    fn check(&mut self) {
        if !self.core.is_dirty() {
            return;
        }
        let snapshot = self.core.publish(self.now);
        assert!(snapshot.generation >= self.generation, "generations go on");
        self.generation = snapshot.generation;
        self.check_verdicts(&snapshot);
        self.check_leaving(&snapshot);
        self.check_shares(&snapshot);
        self.check_draws(&snapshot);
    }

    /// The core believes what the shadow believes, of exactly the endpoints there are.
    fn check_verdicts(&self, snapshot: &Snapshot) {
        let mut seen = 0;
        for pool in &snapshot.pools {
            for endpoint in &pool.endpoints {
                seen += 1;
                let shadow = &self.shadows[&endpoint.live.key];
                let expected = match shadow.verdict {
                    None => Verdict::Unknown,
                    Some(true) => Verdict::Healthy,
                    Some(false) => Verdict::Unhealthy,
                };
                assert_eq!(endpoint.health.verdict, expected, "{}", endpoint.live.key);
            }
        }
        assert_eq!(seen, self.shadows.len());
    }

    /// Addresses that their names have no longer stay only as long as they serve and are needed.
    fn check_leaving(&self, snapshot: &Snapshot) {
        let longest = snapshot.plan.resolver.max_ttl;
        for pool in &snapshot.pools {
            let stay = || pool.endpoints.iter().filter(|endpoint| !endpoint.leaving);
            let serves = stay().any(|endpoint| endpoint.serves() && endpoint.weight > 0);
            for endpoint in pool.endpoints.iter().filter(|endpoint| endpoint.leaving) {
                let key = &endpoint.live.key;
                let host = endpoint.name.clone().expect("it has a name");
                assert!(endpoint.serves(), "{key} does not serve");
                assert!(
                    !self.names[&host].contains(&key.address.ip()),
                    "{key} is there"
                );
                let lost = self.lost[&(host.clone(), key.address.ip())];
                assert!(
                    self.now.since(lost) <= longest,
                    "{key} has been gone for too long"
                );
                let unknown = stay().any(|other| {
                    other.name.as_ref() == Some(&host) && other.health.verdict == Verdict::Unknown
                });
                assert!(unknown || !serves || pool.plan.drain, "{key} is not needed");
            }
        }
    }

    fn check_shares(&self, snapshot: &Snapshot) {
        for route in &snapshot.plan.routes {
            let tables = snapshot.tables[route.target.index()].as_ref().unwrap();
            for class in tables.iter() {
                let sum: f64 = class.main.entries().iter().map(|entry| entry.share).sum();
                assert!(
                    (sum + class.main.refused - 1.0).abs() < 1e-9,
                    "{}",
                    route.name
                );
                if class.main.basis == Basis::Held {
                    Self::check_held(snapshot, &class.main);
                    continue;
                }
                assert_eq!(class.main.basis, Basis::Health, "nobody is ejected here");
                for entry in class.main.entries() {
                    let pool = &snapshot.pools[entry.pool.index()];
                    assert!(!pool.plan.drain && pool.availability > 0.0);
                    let healthy = pool
                        .endpoints
                        .iter()
                        .any(|e| e.health.verdict == Verdict::Healthy);
                    assert!(healthy, "{} has no healthy endpoint", pool.plan.name);
                }
                let somebody = snapshot.pools.iter().any(|pool| pool.availability > 0.0);
                assert_eq!(class.main.entries().is_empty(), !somebody, "{}", route.name);
                if let Some(rest) = &class.when_all_down {
                    assert!(!somebody);
                    assert_ne!(rest.basis, Basis::Health);
                    assert!(
                        rest.entries()
                            .iter()
                            .all(|entry| { !snapshot.pools[entry.pool.index()].plan.drain })
                    );
                }
            }
        }
    }

    /// What is held is of pools that served, and only where nobody else can.
    fn check_held(snapshot: &Snapshot, table: &Table) {
        assert!(snapshot.suspicion.is_some() && !table.entries().is_empty());
        for entry in table.entries() {
            let pool = &snapshot.pools[entry.pool.index()];
            assert!(!pool.plan.drain && pool.held > 0.0, "{}", pool.plan.name);
        }
        for pool in &snapshot.pools {
            assert!(pool.fell || pool.availability == 0.0, "{}", pool.plan.name);
        }
    }

    /// Sequences of draws go on over every change.
    fn check_draws(&mut self, snapshot: &Snapshot) {
        for route in &*snapshot.routes {
            let position = route.sequence(0).position();
            let before = self.draws.insert(route.name.clone(), position + 1);
            assert!(
                before.is_none_or(|before| before == position),
                "{}",
                route.name
            );
            route.sequence(0).draw();
        }
    }
}

#[test]
fn the_core_believes_what_probes_say_and_forgets_nothing() {
    let chosen = std::env::vars()
        .find(|(name, _)| name == "SEED")
        .map(|(_, value)| value);
    let seeds: Vec<u64> = match chosen {
        Some(seed) => vec![seed.parse().unwrap()],
        None => (0..SEEDS).collect(),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        assert!(run.is_ok(), "failed with SEED={seed}");
    }
}

#[test]
fn nobody_is_forgotten_by_the_probes() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.step(EngineEvent::Woken);
        let start = world.now;
        let mut slowest = HashMap::new();
        while world.now.since(start) < Duration::from_secs(600) {
            let before = world.last_probe.clone();
            world.next();
            for (key, at) in &world.last_probe {
                if let Some(earlier) = before.get(key) {
                    let gap = at.since(*earlier);
                    let slow = slowest.entry(key.clone()).or_insert(gap);
                    *slow = (*slow).max(gap);
                }
            }
        }
        for (key, pool) in world.wanted() {
            let Some(probe) = &pool.probe else {
                continue;
            };
            // Names come and go in this run; what is always there is always probed.
            if key.address.ip().to_string().starts_with("10.9.") {
                continue;
            }
            let bound = probe.every + probe.timeout;
            let slow = slowest.get(&key).copied();
            assert!(
                slow.is_some_and(|gap| gap <= bound),
                "seed {seed}: {key} waited {slow:?}"
            );
        }
    }
}
