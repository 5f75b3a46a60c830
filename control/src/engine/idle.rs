//! The engine when nobody asks anything of it, and when a process goes on for another one: by hand, in
//! made-up time.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use portolan_config::plan::Plan;
use portolan_config::{Machine, check_text};

use super::core::{Core, Effect, EngineEvent};
use super::simulation::Nobody;
use crate::clock::Tick;
use crate::counters::TryOutcome;
use crate::engine::handover::Handover;
use crate::engine::resolve::ResolvedName;
use crate::geo::Locator;
use crate::health::exhaustion::Shortage;
use crate::health::outlier::{EjectionState, Source};
use crate::health::verdict::Verdict;
use crate::pool::endpoint::Endpoint;

fn plan(pools: &str) -> Arc<Plan> {
    let text = format!(
        "listeners: [ {{ bind: '127.0.0.1:0' }} ]\npools: {pools}\nroutes: [ {{ to: a }} ]\n"
    );
    let checked = check_text("t.yaml", text.clone(), &Machine::default());
    checked
        .plan
        .unwrap_or_else(|| panic!("{text}\n{:?}", checked.report.first_error()))
}

fn core(plan: Arc<Plan>, now: Tick, handed: Handover) -> Core {
    let (material, locator) = (Arc::default(), Arc::new(Locator::default()));
    Core::going_on(plan, material, locator, Arc::new(Nobody), now, handed)
}

/// An engine in made-up time, with a driver's habits.
struct Engine {
    core: Core,
    now: Tick,
    /// How often it woke.
    wakes: u32,
}

impl Engine {
    fn new(pools: &str) -> Self {
        let now = Tick::after(Duration::from_secs(1));
        let mut engine = Self {
            core: core(plan(pools), now, Handover::default()),
            now,
            wakes: 0,
        };
        engine.core.step(EngineEvent::Woken, now);
        engine.core.publish(now);
        engine
    }

    fn endpoint(&mut self) -> Arc<Endpoint> {
        let snapshot = self.core.publish(self.now);
        snapshot.pools[0].endpoints[0].live.clone()
    }

    fn standing(&mut self) -> EjectionState {
        self.core.publish(self.now).pools[0].endpoints[0].standing
    }

    /// Lets so much time pass.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(wake) = self.core.wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.wakes += 1;
            self.core.step(EngineEvent::Woken, self.now);
        }
        self.now = end;
    }

    /// A try ends; the engine hears of it if it is told.
    fn tried(&mut self, outcome: TryOutcome) {
        let endpoint = self.endpoint();
        let epoch = endpoint.passive.begin();
        endpoint.tried(outcome, epoch, self.now, Source::default);
        endpoint.passive.over(epoch);
        let alarm = self.core.alarm();
        let rung = pin!(alarm.rung())
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready();
        if rung {
            self.wakes += 1;
            self.core.step(EngineEvent::Alarmed, self.now);
        }
    }
}

const UNPROBED: &str = "{ a: { endpoints: [ '10.0.0.1:80', '10.0.0.2:80' ], health: off, \
                        outlier: { consecutive_failures: 3, eject_for: 2s, max_ejected: 50% } } }";

const A_WHILE: Duration = Duration::from_secs(5);
const AN_HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn an_engine_that_nobody_asks_anything_sleeps() {
    let mut engine = Engine::new(UNPROBED);
    engine.pass(A_WHILE);
    engine.wakes = 0;
    engine.pass(AN_HOUR);
    assert_eq!((engine.wakes, engine.core.wake()), (0, None));

    // A request wakes it, once, and it looks until it has compared what came.
    engine.tried(TryOutcome::Answered);
    assert_eq!(engine.wakes, 1);
    assert!(engine.core.wake().is_some());
    engine.tried(TryOutcome::Answered);
    assert_eq!(engine.wakes, 1, "it is awake");
    engine.pass(A_WHILE);
    assert!(engine.wakes > 1 && engine.core.wake().is_none());
    engine.wakes = 0;
    engine.pass(AN_HOUR);
    assert_eq!(engine.wakes, 0);
}

#[test]
fn probes_alone_wake_it_only_when_they_are_due() {
    let mut engine = Engine::new("{ a: { endpoints: [ '10.0.0.1:80' ], health: { every: 60s } } }");
    // The first probe never ends here, so no other one is due.
    engine.pass(A_WHILE);
    assert_eq!(engine.core.wake(), None);
}

#[test]
fn a_sleeping_engine_ejects_and_frees_as_an_awake_one_does() {
    let mut engine = Engine::new(UNPROBED);
    engine.pass(AN_HOUR);
    for _ in 0..3 {
        engine.tried(TryOutcome::ConnectFailed);
    }
    let EjectionState::Ejected { since, until, .. } = engine.standing() else {
        panic!("{:?}", engine.standing());
    };
    assert_eq!((since, until), (engine.now, since + Duration::from_secs(2)));
    engine.pass(Duration::from_millis(2_050));
    assert!(matches!(engine.standing(), EjectionState::HalfOpen { .. }));
    engine.tried(TryOutcome::Answered);
    assert_eq!(engine.standing(), EjectionState::Free);
    engine.pass(A_WHILE);
    assert_eq!(engine.core.wake(), None, "and sleeps again");
    // Nobody asks it anything on its trial.
    for _ in 0..3 {
        engine.tried(TryOutcome::ConnectFailed);
    }
    engine.pass(AN_HOUR);
    assert_eq!(
        (engine.standing(), engine.core.wake()),
        (EjectionState::Free, None)
    );
}

#[test]
fn a_slow_start_keeps_it_awake_until_it_is_over() {
    let pools = "{ a: { endpoints: [ '10.0.0.1:80' ], slow_start: 3s, \
                  health: { every: 1h, fast_every: 1h, timeout: 1s, up_after: 1, down_after: 1 } } }";
    let mut engine = Engine::new(pools);
    let probe = |engine: &mut Engine, good: bool| {
        let key = engine.endpoint().key.clone();
        engine.core.probe_now(&key);
        let effects = engine.core.step(EngineEvent::Woken, engine.now);
        let mut serials = effects.iter().filter_map(|effect| match effect {
            Effect::Probe { serial, .. } => Some(*serial),
            _ => None,
        });
        let serial = serials.next().unwrap_or(1);
        let result = if good {
            Ok(())
        } else {
            Err(crate::health::verdict::ProbeFailure::Connect(
                "refused".to_owned(),
            ))
        };
        let took = Duration::from_millis(1);
        let outcome = crate::pool::dial::ProbeOutcome { result, took };
        let event = EngineEvent::ProbeFinished {
            key,
            serial,
            outcome,
        };
        engine.core.step(event, engine.now);
    };
    probe(&mut engine, true);
    engine.pass(A_WHILE);
    probe(&mut engine, false);
    engine.pass(A_WHILE);
    probe(&mut engine, true);
    let ramp = |engine: &mut Engine| engine.core.publish(engine.now).pools[0].endpoints[0].ramp;
    assert!(ramp(&mut engine) < 1.0);
    engine.pass(A_WHILE);
    assert_eq!(ramp(&mut engine), 1.0);
    // Only the next probe, in an hour, is due.
    let wake = engine.core.wake().unwrap();
    assert!(
        wake.since(engine.now) > Duration::from_secs(1_800),
        "{wake}"
    );
}

#[test]
fn a_core_goes_on_with_what_another_one_knew() {
    let pools = "{ a: { endpoints: [ '10.0.0.1:80', '10.0.0.2:80', { dns: 'api.test:80' } ], \
                  outlier: { consecutive_failures: 3, eject_for: 2s, max_ejected: 50% } } }";
    let mut engine = Engine::new(pools);
    let effects = {
        // The first step has asked already: its probes are 1 and 2, its question is 3, in some order.
        let snapshot = engine.core.publish(engine.now);
        assert!(!snapshot.judged());
        (1..=3).collect::<Vec<u64>>()
    };
    let keys: Vec<_> = {
        let snapshot = engine.core.publish(engine.now);
        let endpoints = snapshot.pools[0].endpoints.iter();
        endpoints
            .map(|endpoint| endpoint.live.key.clone())
            .collect()
    };
    for serial in effects {
        let took = Duration::from_millis(7);
        for (at, key) in keys.iter().enumerate() {
            let result = if at == 0 {
                Ok(())
            } else {
                Err(crate::health::verdict::ProbeFailure::Connect(
                    "refused".to_owned(),
                ))
            };
            let outcome = crate::pool::dial::ProbeOutcome { result, took };
            let key = key.clone();
            let event = EngineEvent::ProbeFinished {
                key,
                serial,
                outcome,
            };
            engine.core.step(event, engine.now);
        }
        let answer = Ok(ResolvedName {
            addresses: vec!["10.0.0.9".parse().unwrap()],
            ttl: Duration::from_secs(60),
        });
        let event = EngineEvent::NameAnswered {
            host: "api.test".into(),
            serial,
            answer,
        };
        engine.core.step(event, engine.now);
    }
    for _ in 0..3 {
        engine.tried(TryOutcome::ConnectFailed);
    }
    let before = engine.core.publish(engine.now);
    assert!(matches!(engine.standing(), EjectionState::Ejected { .. }));

    let letter = engine.core.hand_over().to_json();
    let handed = Handover::from_json(letter);
    let later = engine.now + Duration::from_millis(300);
    let mut next = core(plan(pools), later, handed);
    let after = next.publish(later);
    assert_eq!(
        after.pools[0].endpoints.len(),
        3,
        "the name's address is known"
    );
    for (old, new) in before.pools[0]
        .endpoints
        .iter()
        .zip(&after.pools[0].endpoints)
    {
        assert_eq!(old.live.key, new.live.key);
        assert_eq!(old.health.verdict, new.health.verdict);
        assert_eq!(old.because(), new.because());
        assert_eq!(old.live.probe_latency(), new.live.probe_latency());
        // Milliseconds are what is handed over.
        let until = |standing: &EjectionState| match standing {
            EjectionState::Ejected { until, .. } => until.since_start().as_millis(),
            _ => 0,
        };
        assert_eq!(until(&old.standing), until(&new.standing));
    }
    let verdicts: Vec<Verdict> = after.pools[0]
        .endpoints
        .iter()
        .map(|endpoint| endpoint.health.verdict)
        .collect();
    assert_eq!(
        verdicts[..2],
        [Verdict::Healthy, Verdict::Unhealthy],
        "{verdicts:?}"
    );
    // And it finds out itself at once.
    let effects = next.step(EngineEvent::Woken, later);
    let probes = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::Probe { .. }));
    assert_eq!(probes.count(), 3);
    // Whose trial comes when the other one's would have.
    next.step(EngineEvent::Woken, later + Duration::from_secs(2));
    let standing = next.publish(later).pools[0].endpoints[0].standing;
    assert!(
        matches!(standing, EjectionState::HalfOpen { .. }),
        "{standing:?}"
    );
}

#[test]
fn a_probe_that_could_not_go_out_says_nothing_and_is_repeated_soon() {
    let health = "health: { every: 60s, fast_every: 2s, timeout: 1s, down_after: 1, up_after: 1 }";
    let pools = format!("{{ a: {{ endpoints: [ '10.0.0.1:80' ], {health} }} }}");
    let now = Tick::after(Duration::from_secs(1));
    let mut core = core(plan(&pools), now, Handover::default());
    let effects = core.step(EngineEvent::Woken, now);
    let mut serial = effects.iter().find_map(probe).unwrap();
    let key = core.publish(now).pools[0].endpoints[0].live.key.clone();
    let verdict = |core: &mut Core| core.publish(now).pools[0].endpoints[0].health.verdict;
    let mut finish = |core: &mut Core, result, at: Tick| {
        let took = Duration::from_millis(1);
        let outcome = crate::pool::dial::ProbeOutcome { result, took };
        let key = key.clone();
        core.step(
            EngineEvent::ProbeFinished {
                key,
                serial,
                outcome,
            },
            at,
        );
        // The core has other things to do meanwhile.
        for _ in 0..1_000 {
            let wake = core.wake().expect("it is probed again");
            if let Some(next) = core.step(EngineEvent::Woken, wake).iter().find_map(probe) {
                serial = next;
                return wake;
            }
        }
        panic!("it is not probed again");
    };
    let short = || Err(crate::health::verdict::ProbeFailure::Edge(Shortage::Files));
    // Nothing is known, and stays unknown.
    let next = finish(&mut core, short(), now);
    assert_eq!(
        (next, verdict(&mut core)),
        (now + Duration::from_secs(2), Verdict::Unknown)
    );
    // What was known stays, too, however often.
    let mut at = finish(&mut core, Ok(()), next);
    assert_eq!(verdict(&mut core), Verdict::Healthy);
    assert!(at.since(next) > Duration::from_secs(50));
    for _ in 0..5 {
        let next = finish(&mut core, short(), at);
        assert_eq!(next, at + Duration::from_secs(2));
        at = next;
    }
    assert_eq!(verdict(&mut core), Verdict::Healthy);
    finish(
        &mut core,
        Err(crate::health::verdict::ProbeFailure::Broken(
            "cut".to_owned(),
        )),
        at,
    );
    assert_eq!(verdict(&mut core), Verdict::Unhealthy);
}

fn probe(effect: &Effect) -> Option<u64> {
    match effect {
        Effect::Probe { serial, .. } => Some(*serial),
        _ => None,
    }
}
