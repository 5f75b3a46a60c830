//! Names whose addresses change, in the engine: by hand, in made-up time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_config::{Machine, check_text};

use super::core::{Core, Effect, EngineEvent};
use super::simulation::Nobody;
use crate::clock::Tick;
use crate::engine::handover::Handover;
use crate::engine::resolve::ResolvedName;
use crate::geo::Locator;
use crate::health::verdict::ProbeFailure;
use crate::pool::dial::ProbeOutcome;
use crate::pool::endpoint::EndpointKey;
use crate::pool::view::PoolView;

/// An engine, with probes and questions that are answered when the test says so.
struct Engine {
    core: Core,
    now: Tick,
    probes: BTreeMap<EndpointKey, u64>,
    question: Option<u64>,
}

impl Engine {
    /// A pool `a` of one name, with these keys, and another one as its spare.
    fn new(rest: &str) -> Self {
        Self::going_on(
            rest,
            Tick::after(Duration::from_secs(1)),
            Handover::default(),
        )
    }

    fn going_on(rest: &str, now: Tick, handed: Handover) -> Self {
        let text = format!(
            "listeners: [ {{ bind: '127.0.0.1:0' }} ]
pools:
  a: {{ endpoints: [ {{ dns: 'api.test:80' }} ], {rest} }}
  b: {{ endpoints: [ '10.1.0.1:80' ], health: off }}
routes: [ {{ to: {{ tiers: [ a, b ] }} }} ]
"
        );
        let checked = check_text("t.yaml", text, &Machine::default());
        let plan = checked
            .plan
            .unwrap_or_else(|| panic!("{:?}", checked.report.first_error()));
        let (material, locator) = (Arc::default(), Arc::new(Locator::default()));
        let core = Core::going_on(plan, material, locator, Arc::new(Nobody), now, handed);
        let mut engine = Self {
            core,
            now,
            probes: BTreeMap::new(),
            question: None,
        };
        engine.step(EngineEvent::Woken);
        engine
    }

    fn step(&mut self, event: EngineEvent) {
        for effect in self.core.step(event, self.now) {
            match effect {
                Effect::Probe { key, serial, .. } => {
                    self.probes.insert(key, serial);
                }
                Effect::Resolve { serial, .. } => self.question = Some(serial),
                Effect::Emit(_) => {}
            }
        }
    }

    /// The name leads to these addresses: the last numbers of them.
    fn named(&mut self, last: &[u8]) {
        while self.question.is_none() {
            let wake = self.core.wake().expect("the name is asked for again");
            self.now = self.now.max(wake);
            self.step(EngineEvent::Woken);
        }
        let addresses = last.iter().map(|last| IpAddr::from([10, 0, 0, *last]));
        let answer = ResolvedName {
            addresses: addresses.collect(),
            ttl: Duration::from_secs(1),
        };
        let serial = self.question.take().unwrap();
        self.step(EngineEvent::NameAnswered {
            host: "api.test".into(),
            serial,
            answer: Ok(answer),
        });
    }

    /// The next probe of an address is over.
    fn probed(&mut self, last: u8, good: bool) {
        let key = EndpointKey {
            pool: self.core.plan.pools[0].name.clone(),
            address: SocketAddr::from(([10, 0, 0, last], 80)),
        };
        while !self.probes.contains_key(&key) {
            let wake = self.core.wake().expect("it is probed");
            self.now = self.now.max(wake);
            self.step(EngineEvent::Woken);
        }
        let serial = self.probes.remove(&key).unwrap();
        let result = match good {
            true => Ok(()),
            false => Err(ProbeFailure::Connect("refused".to_owned())),
        };
        let took = Duration::from_millis(1);
        let outcome = ProbeOutcome { result, took };
        self.step(EngineEvent::ProbeFinished {
            key,
            serial,
            outcome,
        });
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(wake) = self.core.wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.step(EngineEvent::Woken);
        }
        self.now = end;
    }

    fn view(&mut self) -> Arc<PoolView> {
        self.core.publish(self.now).pools[0].clone()
    }

    /// The last numbers of the addresses that there are, those that leave below 0.
    fn addresses(&mut self) -> Vec<i16> {
        let view = self.view();
        let endpoints = view.endpoints.iter().map(|endpoint| {
            let IpAddr::V4(ip) = endpoint.live.key.address.ip() else {
                panic!("{}", endpoint.live.key);
            };
            let last = i16::from(ip.octets()[3]);
            if endpoint.leaving { -last } else { last }
        });
        endpoints.collect()
    }

    #[track_caller]
    fn assert(&mut self, addresses: &[i16], availability: f64) {
        assert_eq!(self.addresses(), addresses);
        let actual = self.view().availability;
        assert!((actual - availability).abs() < 1e-9, "{actual}");
    }
}

const PROBED: &str = "health: { every: 5s, timeout: 2s, down_after: 2, up_after: 2 }";

fn serving(rest: &str, addresses: &[u8]) -> Engine {
    let mut engine = Engine::new(&format!("{PROBED}{rest}"));
    engine.named(addresses);
    for address in addresses {
        engine.probed(*address, true);
    }
    let all: Vec<i16> = addresses.iter().map(|last| i16::from(*last)).collect();
    engine.assert(&all, 1.0);
    engine
}

#[test]
fn old_addresses_serve_until_every_new_one_has_a_verdict() {
    let mut engine = serving("", &[1, 2]);
    engine.named(&[3, 4]);
    engine.assert(&[3, 4, -1, -2], 1.0);
    engine.probed(3, true);
    engine.assert(&[3, 4, -1, -2], 1.0);
    engine.probed(4, true);
    engine.assert(&[3, 4], 1.0);
}

#[test]
fn an_old_address_stays_as_long_as_nobody_else_can_serve() {
    let mut engine = serving("", &[1, 2]);
    engine.named(&[3]);
    engine.probed(3, false);
    engine.assert(&[3, -1, -2], 1.0);
    // It is probed like any other, and goes when it cannot serve, either.
    engine.probed(2, false);
    engine.probed(2, false);
    engine.assert(&[3, -1], 1.0);
    // Not for ever: the name server has said that it is gone.
    engine.pass(Duration::from_secs(290));
    engine.assert(&[3, -1], 1.0);
    engine.pass(Duration::from_secs(11));
    engine.assert(&[3], 0.0);

    let mut engine = serving("", &[1]);
    engine.named(&[2]);
    engine.probed(2, false);
    engine.probed(2, true);
    engine.assert(&[2, -1], 1.0);
    engine.probed(2, true);
    engine.assert(&[2], 1.0);
}

#[test]
fn an_address_that_is_taken_out_goes_at_once_when_others_serve() {
    let mut engine = serving("", &[1, 2, 3]);
    engine.named(&[1, 3]);
    engine.assert(&[1, 3], 1.0);
    // One that did not serve has nothing to stay for.
    engine.probed(1, false);
    engine.probed(1, false);
    engine.assert(&[1, 3], 0.7);
    engine.named(&[3, 4]);
    engine.assert(&[3, 4], 1.0);
    // An address that comes back was never away.
    let mut engine = serving("", &[1]);
    engine.named(&[2]);
    engine.assert(&[2, -1], 1.0);
    engine.named(&[1]);
    engine.assert(&[1], 1.0);
    // Nor is one let go of that never answered while its turn lasts.
    let mut engine = serving("", &[1]);
    engine.named(&[2]);
    engine.named(&[3]);
    engine.assert(&[3, -1], 1.0);
    engine.probed(3, true);
    engine.assert(&[3], 1.0);
}

#[test]
fn new_addresses_that_start_slowly_are_helped_by_the_old_ones() {
    let mut engine = serving(", slow_start: 20s, min_healthy: 2", &[1, 2]);
    engine.pass(Duration::from_secs(30));
    engine.named(&[3, 4]);
    engine.probed(3, true);
    engine.assert(&[3, 4, -1, -2], 1.0);
    engine.probed(4, true);
    // Both are healthy and get a tenth of their shares: without the others, the spare would be asked.
    engine.assert(&[3, 4, -1, -2], 1.0);
    let part = |engine: &mut Engine, at: usize| engine.view().endpoints[at].part();
    assert!(part(&mut engine, 0) < 0.2 && part(&mut engine, 2) == 1.0);
    for _ in 0..30 {
        engine.pass(Duration::from_secs(1));
        assert!((engine.view().availability - 1.0).abs() < 1e-9);
    }
    engine.assert(&[3, 4], 1.0);
    assert_eq!(part(&mut engine, 0), 1.0);
}

#[test]
fn a_pool_that_wants_several_keeps_them_while_new_ones_are_unknown() {
    let mut engine = serving(", min_healthy: 3", &[1, 2, 3]);
    engine.named(&[3, 4, 5]);
    engine.assert(&[3, 4, 5, -1, -2], 1.0);
    engine.probed(4, true);
    engine.assert(&[3, 4, 5, -1, -2], 1.0);
    engine.probed(5, true);
    engine.assert(&[3, 4, 5], 1.0);
}

#[test]
fn without_probes_there_is_nothing_to_wait_for() {
    let mut engine = Engine::new("health: off");
    engine.named(&[1]);
    engine.assert(&[1], 1.0);
    engine.named(&[2]);
    engine.assert(&[2], 1.0);
}

#[test]
fn a_process_that_takes_over_has_the_old_addresses_as_well() {
    let mut engine = serving("", &[1]);
    engine.named(&[2]);
    engine.probed(2, false);
    engine.assert(&[2, -1], 1.0);
    let handed = Handover::from_json(engine.core.hand_over().to_json());
    let mut next = Engine::going_on(PROBED, engine.now, handed);
    assert!(next.view().availability > 0.0);
    next.named(&[2]);
    next.assert(&[2, -1], 1.0);
    next.probed(2, true);
    next.probed(2, true);
    next.assert(&[2], 1.0);
}
