//! Seeded simulation of what requests tell: the engine's core with requests that go where its
//! snapshots say, to endpoints that serve, fail, flap and die, in made-up time.
//!
//! A failure prints its seed; `SEED=123 cargo test -p portolan-control traffic` runs that one, and
//! `SEEDS=5000` runs more of them than usual.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use portolan_config::plan::{Plan, PoolId};
use portolan_config::{Machine, check_text};

use super::core::{Core, Effect, EngineEvent};
use super::simulation::Nobody;
use crate::clock::Tick;
use crate::counters::TryOutcome;
use crate::decision::Decision;
use crate::decision::affinity::ClientAffinity;
use crate::decision::decide::decide;
use crate::geo::{Locator, Whereabouts};
use crate::health::outlier::{EjectionState, Epoch, Source};
use crate::health::verdict::{ProbeFailure, Verdict};
use crate::pool::balance::Criteria;
use crate::pool::dial::ProbeOutcome;
use crate::pool::endpoint::{Endpoint, EndpointKey};
use crate::pool::view::PoolView;
use crate::snapshot::Snapshot;
use crate::steering::Basis;

const SEEDS: u64 = 150;

/// Between two steps.
const STEP: Duration = Duration::from_millis(10);

/// The engine looks around this often; and then it is published.
const NOTICED: Duration = Duration::from_millis(120);

/// What an endpoint does with requests. Only the dead fail probes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behaviour {
    Good,
    /// One answer in twenty takes two seconds.
    Slow,
    Dead,
    Unavailable,
    /// It fails so many of a hundred requests.
    Flaky(u32),
    /// Errors that requests may have caused.
    Errors,
}

/// What the simulation knows of an endpoint.
#[derive(Debug)]
struct Shadow {
    behaviour: Behaviour,
    /// Failures in a row, of tries that began since its standing changed last, or its probes brought it back.
    run: u32,
    /// Failures in all.
    failures: u32,
    standing: EjectionState,
    verdict: Verdict,
    since: Tick,
}

struct Answer {
    endpoint: Arc<Endpoint>,
    epoch: Epoch,
    outcome: TryOutcome,
    began: Tick,
}

struct World {
    random: fastrand::Rng,
    now: Tick,
    core: Core,
    plan: Arc<Plan>,
    snapshot: Arc<Snapshot>,
    shadows: HashMap<EndpointKey, Shadow>,
    probes: BTreeMap<(Tick, u64), (EndpointKey, bool)>,
    answers: BTreeMap<(Tick, u64), Answer>,
    number: u64,
    /// The instance's own network is gone.
    cut: bool,
    /// Requests at each step, at most.
    rate: u32,
}

/// Pools `p0`, `p1` …; all probed if `probed`.
fn configuration(random: &mut fastrand::Rng, probed: bool) -> Arc<Plan> {
    let mut text = String::from("listeners: [ { bind: '127.0.0.1:0' } ]\npools:\n");
    let count = random.usize(2..4);
    for at in 0..count {
        let endpoints: Vec<String> = (0..random.usize(1..6))
            .map(|number| format!("'10.0.{at}.{number}:80'"))
            .collect();
        let health = match random.u32(0..4) {
            0 if !probed => "off",
            1 => "{ http: /, every: 1s, timeout: 500ms, down_after: 2, up_after: 2 }",
            _ => "{ every: 2s, timeout: 1s }",
        };
        let slow_start = ["off", "off", "3s"][random.usize(0..3)];
        let _ = writeln!(
            text,
            "  p{at}: {{ endpoints: [ {} ], health: {health}, slow_start: {slow_start}, balance: random, outlier: {{ consecutive_failures: {}, eject_for: {}ms, max_ejected: {}% }} }}",
            endpoints.join(", "),
            random.u32(1..6),
            random.u32(100..5_000),
            random.u32(0..11) * 10,
        );
    }
    let names: Vec<String> = (0..count).map(|at| format!("p{at}")).collect();
    let target = if random.bool() {
        format!("{{ tiers: [ {} ] }}", names.join(", "))
    } else {
        let weights: Vec<String> = names.iter().map(|name| format!("{name}: 10")).collect();
        format!("{{ split: {{ {} }} }}", weights.join(", "))
    };
    let _ = writeln!(text, "routes: [ {{ name: all, to: {target} }} ]");
    let checked = check_text("simulated.yaml", text.clone(), &Machine::default());
    checked
        .plan
        .unwrap_or_else(|| panic!("{text}\n{:?}", checked.report.first_error()))
}

impl World {
    fn new(seed: u64, probed: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let plan = configuration(&mut random, probed);
        let now = Tick::after(Duration::from_secs(1));
        let mut core = Core::new(
            plan.clone(),
            Arc::default(),
            Arc::new(Locator::default()),
            Arc::new(Nobody),
            now,
        );
        let snapshot = core.publish(now);
        let endpoints = snapshot.pools.iter().flat_map(|pool| &pool.endpoints);
        let shadows = endpoints
            .map(|endpoint| {
                let shadow = Shadow {
                    behaviour: Behaviour::Good,
                    run: 0,
                    failures: 0,
                    standing: EjectionState::Free,
                    verdict: Verdict::Unknown,
                    since: now,
                };
                (endpoint.live.key.clone(), shadow)
            })
            .collect();
        let mut world = Self {
            random,
            now,
            core,
            plan,
            snapshot,
            shadows,
            probes: BTreeMap::new(),
            answers: BTreeMap::new(),
            number: 0,
            cut: false,
            rate: 4,
        };
        world.step(EngineEvent::Woken);
        world
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.now = self.now + STEP;
            while let Some(((at, serial), (key, good))) = self.probes.pop_first() {
                if at > self.now {
                    self.probes.insert((at, serial), (key, good));
                    break;
                }
                self.finish_probe(key, serial, good);
            }
            while let Some(((at, number), answer)) = self.answers.pop_first() {
                if at > self.now {
                    self.answers.insert((at, number), answer);
                    break;
                }
                self.finish(&answer);
            }
            if self.core.wake().is_some_and(|wake| wake <= self.now) {
                self.step(EngineEvent::Woken);
            }
            for _ in 0..self.random.u32(0..=self.rate) {
                self.send();
            }
            self.check();
        }
    }

    fn step(&mut self, event: EngineEvent) {
        let effects = self.core.step(event, self.now);
        for effect in effects {
            if let Effect::Probe { key, serial, .. } = effect {
                let dead = self.shadows[&key].behaviour == Behaviour::Dead;
                let took = Duration::from_millis(self.random.u64(1..50));
                self.probes
                    .insert((self.now + took, serial), (key, !dead && !self.cut));
            }
        }
        if self.core.is_dirty() {
            self.snapshot = self.core.publish(self.now);
            for pool in &self.snapshot.pools {
                for endpoint in &pool.endpoints {
                    let shadow = self.shadows.get_mut(&endpoint.live.key).unwrap();
                    let verdict = endpoint.health.verdict;
                    let before = std::mem::replace(&mut shadow.verdict, verdict);
                    let back = before == Verdict::Unhealthy && verdict == Verdict::Healthy;
                    if shadow.standing != endpoint.standing || back {
                        shadow.standing = endpoint.standing;
                        shadow.since = self.now;
                        shadow.run = 0;
                    }
                }
            }
        }
    }

    fn finish_probe(&mut self, key: EndpointKey, serial: u64, good: bool) {
        let result = if good {
            Ok(())
        } else {
            Err(ProbeFailure::Connect("refused".to_owned()))
        };
        let took = Duration::from_millis(1);
        self.step(EngineEvent::ProbeFinished {
            key,
            serial,
            outcome: ProbeOutcome { result, took },
        });
    }

    fn send(&mut self) {
        let snapshot = self.snapshot.clone();
        let route = &snapshot.plan.routes[0];
        let Decision::Pool { pool, basis, .. } = decide(
            &snapshot,
            route,
            None,
            &Whereabouts::UNKNOWN,
            &ClientAffinity::Free,
        ) else {
            let judged = snapshot.pools.iter().any(|pool| pool.judged);
            assert!(!judged, "there is always somebody to try");
            return;
        };
        let mut wish = Criteria {
            hash: None,
            excluded: &[],
            random: &mut self.random,
            now: self.now,
        };
        let view = &snapshot.pools[pool.index()];
        let at = view
            .pick(basis, &mut wish)
            .expect("a pool with a share has somebody");
        let endpoint = view.endpoints[at].live.clone();
        endpoint.begin();
        let shadow = &self.shadows[&endpoint.key];
        let quick = Duration::from_millis(self.random.u64(1..30));
        let (outcome, took) = match shadow.behaviour {
            _ if self.cut => (TryOutcome::ConnectFailed, quick),
            Behaviour::Dead => (TryOutcome::ConnectFailed, quick),
            Behaviour::Unavailable => (TryOutcome::Unavailable, quick),
            Behaviour::Errors => (TryOutcome::ServerError, quick),
            Behaviour::Flaky(percent) if self.random.u32(0..100) < percent => {
                (TryOutcome::Broken, quick)
            }
            Behaviour::Slow if self.random.u32(0..20) == 0 => {
                (TryOutcome::Answered, Duration::from_secs(2))
            }
            _ => (TryOutcome::Answered, quick),
        };
        self.number += 1;
        let answer = Answer {
            epoch: endpoint.passive.begin(),
            endpoint,
            outcome,
            began: self.now,
        };
        self.answers.insert((self.now + took, self.number), answer);
    }

    fn finish(&mut self, answer: &Answer) {
        let endpoint = &answer.endpoint;
        endpoint.tried(answer.outcome, answer.epoch, self.now, Source::default);
        endpoint.passive.over(answer.epoch);
        endpoint.end();
        let shadow = self.shadows.get_mut(&endpoint.key).unwrap();
        if answer.outcome == TryOutcome::Answered {
            if answer.began >= shadow.since {
                shadow.run = 0;
            }
        } else {
            shadow.failures += 1;
            // Errors are no run, but nobody is spotless with them.
            if answer.outcome == TryOutcome::ServerError {
                shadow.run = 0;
            } else if answer.began > shadow.since {
                shadow.run += 1;
            }
        }
        // The engine is woken when there is something to see, and only then.
        let alarm = self.core.alarm();
        let rung = pin!(alarm.rung())
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready();
        if rung {
            self.step(EngineEvent::Alarmed);
        }
    }

    /// The laws.
    fn check(&self) {
        for pool in &self.snapshot.pools {
            for endpoint in &pool.endpoints {
                let key = &endpoint.live.key;
                self.check_endpoint(pool, key, endpoint.standing);
            }
            self.check_allowance(pool);
        }
        self.check_shares();
    }

    fn check_endpoint(&self, pool: &PoolView, key: &EndpointKey, standing: EjectionState) {
        let shadow = &self.shadows[key];
        let policy = pool.plan.outlier.as_ref().unwrap();
        if shadow.failures == 0 {
            assert_eq!(standing, EjectionState::Free, "{key} never failed anybody");
        }
        // Nothing but this run is known against it, so nothing explains the run.
        if standing == EjectionState::Free && shadow.run == shadow.failures {
            assert!(
                shadow.run < policy.consecutive_failures || self.snapshot.suspicion.is_some(),
                "{key} failed {} in a row and is not ejected",
                shadow.run
            );
        }
        if let EjectionState::Ejected { since, until, .. } = standing {
            let longest = policy.eject_for.max(Duration::from_secs(30));
            assert!(
                until.since(since) <= longest,
                "{key} is ejected for too long"
            );
            assert!(
                self.now <= until + NOTICED || self.snapshot.suspicion.is_some(),
                "{key} was forgotten"
            );
        }
    }

    /// No more of a pool is left out than may be.
    fn check_allowance(&self, pool: &PoolView) {
        let share = pool.plan.outlier.as_ref().unwrap().max_ejected;
        let allowed = ((pool.endpoints.len() as f64 * share) as usize).max(1);
        if pool.availability > 0.0 {
            assert!(pool.ejected <= allowed, "{}", pool.plan.name);
        } else if pool.probed > 0.0 {
            let healthy = pool.healthy + pool.ejected;
            let serve = pool.served_by().count();
            assert!(
                serve > 0 && serve + allowed >= healthy,
                "{}",
                pool.plan.name
            );
        }
    }

    fn check_shares(&self) {
        let tables = self.snapshot.tables[self.plan.routes[0].target.index()]
            .as_ref()
            .unwrap();
        for class in tables.iter() {
            let table = &class.main;
            let sum: f64 = table.entries().iter().map(|entry| entry.share).sum();
            assert!((sum + table.refused - 1.0).abs() < 1e-9);
            let views = || self.snapshot.pools.iter();
            if views().any(|pool| pool.probed > 0.0) {
                assert!(table.refused < 1e-9, "somebody could serve");
            }
            if views().any(|pool| pool.availability > 0.0) && self.snapshot.suspicion.is_none() {
                assert_eq!(table.basis, Basis::Health);
            }
        }
    }

    fn shares(&self) -> (Basis, Vec<(PoolId, f64)>) {
        let tables = self.snapshot.tables[self.plan.routes[0].target.index()]
            .as_ref()
            .unwrap();
        let table = &tables.iter().next().unwrap().main;
        let entries = table.entries().iter();
        (table.basis, entries.map(|e| (e.pool, e.share)).collect())
    }

    /// A little of everything.
    fn misbehave(&mut self) {
        let mut keys: Vec<EndpointKey> = self.shadows.keys().cloned().collect();
        keys.sort();
        for key in keys {
            let behaviour = match self.random.u32(0..16) {
                0..=7 => Behaviour::Good,
                8..=9 => Behaviour::Slow,
                10 => Behaviour::Dead,
                11..=12 => Behaviour::Unavailable,
                13 => Behaviour::Flaky(self.random.u32(1..8)),
                14 => Behaviour::Flaky(self.random.u32(20..80)),
                _ => Behaviour::Errors,
            };
            self.shadows.get_mut(&key).unwrap().behaviour = behaviour;
        }
    }

    fn behave(&mut self) {
        for shadow in self.shadows.values_mut() {
            shadow.behaviour = Behaviour::Good;
        }
    }
}

fn for_every_seed(of: u64, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let chosen = |wanted: &str| -> Option<u64> {
        let (_, value) = std::env::vars().find(|(name, _)| name == wanted)?;
        Some(value.parse().unwrap())
    };
    let seeds = match chosen("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..chosen("SEEDS").unwrap_or(of),
    };
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "failed with SEED={seed}");
    }
}

#[test]
fn the_laws_of_ejection_hold_and_all_is_well_in_the_end() {
    for_every_seed(SEEDS, |seed| {
        let mut world = World::new(seed, false);
        world.rate = world.random.u32(0..8);
        world.run(5);
        for _ in 0..8 {
            world.misbehave();
            let seconds = world.random.u64(1..10);
            world.run(seconds);
        }
        world.behave();
        // The longest ejection, a trial as long that nobody asks anything, and a slow start.
        world.rate = 4;
        world.run(70);
        for pool in &world.snapshot.pools {
            for endpoint in &pool.endpoints {
                assert_eq!(endpoint.state(), "healthy", "{}", endpoint.live.key);
                assert!(
                    (endpoint.part() - 1.0).abs() < 1e-9,
                    "{}",
                    endpoint.live.key
                );
            }
            assert!((pool.availability - 1.0).abs() < 1e-9, "{}", pool.plan.name);
        }
        assert_eq!(world.shares().0, Basis::Health);
    });
}

#[test]
fn when_the_own_network_is_cut_the_distribution_is_held_and_let_go() {
    for_every_seed(SEEDS, |seed| {
        let mut world = World::new(seed, true);
        world.run(5);
        if world.random.bool() {
            // Not everything was well before.
            let at = world.random.usize(0..world.shadows.len());
            let mut keys: Vec<EndpointKey> = world.shadows.keys().cloned().collect();
            keys.sort();
            world.shadows.get_mut(&keys[at]).unwrap().behaviour = Behaviour::Dead;
        }
        // Longer than pools may have fallen before the cut and still count as fallen with it.
        world.run(30);
        let before = world.shares();
        let up = world.snapshot.pools.iter().filter(|pool| pool.probed > 0.0);
        let together = up.count() >= 2;

        world.cut = true;
        // The slowest probes need 2 s + 1 s + 2 × 2 s.
        world.run(8);
        assert_eq!(world.snapshot.suspicion.is_some(), together);
        if together {
            assert_eq!(world.shares(), (Basis::Held, before.1.clone()));
            for _ in 0..world.random.u64(1..30) {
                world.run(1);
                assert_eq!(world.shares(), (Basis::Held, before.1.clone()));
            }
        }

        world.cut = false;
        world.run(30);
        assert_eq!(world.snapshot.suspicion, None);
        assert_eq!(world.shares(), before);
        for pool in &world.snapshot.pools {
            if together {
                assert_eq!(pool.ejected, 0, "{}", pool.plan.name);
            }
        }
    });
}

#[test]
fn an_endpoint_that_is_only_slow_sometimes_is_left_alone() {
    for_every_seed(50, |seed| {
        let mut world = World::new(seed, true);
        for shadow in world.shadows.values_mut() {
            shadow.behaviour = Behaviour::Slow;
        }
        world.rate = 20;
        world.run(60);
        let free = |shadow: &Shadow| shadow.standing == EjectionState::Free;
        assert!(world.shadows.values().all(free));
    });
}
