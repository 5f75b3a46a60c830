//! The engine when a part of it panics: it goes on with what it knew, or says that it cannot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portolan_certs::UpstreamIdentity;
use portolan_config::names::Name;
use portolan_config::plan::{PoolPlan, ResolverPlan};
use portolan_config::scalar::FromScalar as _;
use portolan_config::{Machine, check_text};

use super::{Beginning, Engine};
use crate::clock::Clock;
use crate::engine::handover::Handover;
use crate::engine::resolve::{Resolve, ResolvedName, Resolving};
use crate::events::journal::Journal;
use crate::geo::Locator;
use crate::health::verdict::{ProbeFailure, Verdict};
use crate::overrides::{
    Lease, Override, OverrideDecision, OverrideEvent, Overrides, Reason, Subject,
};
use crate::pool::dial::{Dial, Dialer, ProbeOutcome, Probing};
use crate::pool::endpoint::EndpointKey;
use crate::supervisor::Supervisor;
use crate::telemetry::totals::Totals;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Probes that panic so many times, before they begin and under way, and then succeed; names as well.
#[derive(Debug, Default)]
struct Wild {
    at_once: AtomicU32,
    under_way: AtomicU32,
    names: AtomicU32,
    /// Probes and questions that ended well.
    done: AtomicU32,
}

/// Panics, if it is to.
fn perhaps(times: &AtomicU32) {
    let one_less = |times: u32| times.checked_sub(1);
    let left = times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    assert!(left.is_err(), "on purpose");
}

impl Dialer for Arc<Wild> {
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
        perhaps(&self.at_once);
        let this = self.clone();
        Box::pin(async move {
            perhaps(&this.under_way);
            this.done.fetch_add(1, Ordering::Relaxed);
            ProbeOutcome {
                result: Ok(()),
                took: Duration::from_millis(1),
            }
        })
    }
}

impl Resolve for Arc<Wild> {
    fn resolve<'a>(&'a self, _: &'a str, _: &'a ResolverPlan) -> Resolving<'a> {
        Box::pin(async {
            perhaps(&self.names);
            Ok(ResolvedName {
                addresses: vec![[10, 9, 9, 9].into()],
                ttl: Duration::from_secs(1),
            })
        })
    }
}

struct World {
    engine: Engine,
    wild: Arc<Wild>,
    journal: Arc<Journal>,
    totals: Arc<Totals>,
    supervisor: Supervisor,
}

fn begin(pools: &str, wild: Wild) -> World {
    let text = format!(
        "listeners: [ {{ bind: '127.0.0.1:0' }} ]\npools: {pools}\nroutes: [ {{ to: a }} ]\n"
    );
    let checked = check_text("t.yaml", text, &Machine::default());
    let clock = Clock::start();
    let journal = Journal::new(clock);
    let totals: Arc<Totals> = Arc::default();
    let supervisor = Supervisor::new(journal.clone(), totals.clone(), clock);
    let wild = Arc::new(wild);
    let engine = Engine::start(Beginning {
        plan: checked.plan.unwrap(),
        material: Arc::default(),
        locator: Arc::new(Locator::default()),
        dialer: Arc::new(wild.clone()),
        resolver: Arc::new(wild.clone()),
        clock,
        journal: journal.clone(),
        handed: Handover::default(),
        supervisor: supervisor.clone(),
    });
    World {
        engine,
        wild,
        journal,
        totals,
        supervisor,
    }
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("it was never so that {what}"));
}

impl World {
    fn failures(&self) -> u64 {
        self.totals
            .task_failures
            .get()
            .get("engine")
            .copied()
            .unwrap_or(0)
    }

    async fn accept_the_same(&self) -> Result<u64, super::Stopped> {
        let snapshot = self.engine.published().load_full();
        let (plan, locator) = (snapshot.plan.clone(), snapshot.locator.clone());
        self.engine.accept(plan, Arc::default(), locator).await
    }
}

const POOL: &str = "{ a: { endpoints: [ '10.0.0.1:80', '10.0.0.2:80' ], \
                    health: { http: /, every: 200ms, timeout: 100ms } } }";

#[tokio::test]
async fn it_goes_on_with_what_it_knew() {
    let world = begin(POOL, Wild::default());
    assert!(world.engine.wait_until_judged(PATIENCE).await);
    let subject = Subject::Endpoint(EndpointKey {
        pool: Name::parse("a").unwrap(),
        address: "10.0.0.2:80".parse().unwrap(),
    });
    let drain = Override {
        decision: OverrideDecision::Drain,
        lease: Lease {
            by: "somebody".into(),
            reason: Reason::new("maintenance").unwrap(),
            since: Duration::ZERO,
            until: Duration::from_secs(60),
        },
    };
    let (drained, _) =
        Overrides::default().step(OverrideEvent::Set(subject, drain), Duration::from_secs(1));
    world.engine.override_by(&drained).await.unwrap();
    let before = world.engine.published().load_full();
    assert!(before.pools[0].endpoints[1].drained.is_some());
    let counts = before.pool_stats[0].clone();

    world.wild.at_once.store(1, Ordering::Relaxed);
    until("the engine fails", || world.failures() == 1).await;
    let done = world.wild.done.load(Ordering::Relaxed);
    until("endpoints are probed again", || {
        world.wild.done.load(Ordering::Relaxed) > done + 4
    })
    .await;
    let after = world.engine.published().load_full();
    assert!(after.generation > before.generation);
    for endpoint in &after.pools[0].endpoints {
        assert_eq!(endpoint.health.verdict, Verdict::Healthy);
    }
    assert!(after.pools[0].endpoints[1].drained.is_some());
    assert!(Arc::ptr_eq(&after.pool_stats[0], &counts), "counts stay");
    // And it still follows orders.
    let generation = world.accept_the_same().await.unwrap();
    assert!(generation > after.generation);
    let kinds: Vec<String> = world
        .journal
        .recent()
        .iter()
        .map(|it| it.kind.clone())
        .collect();
    assert_eq!(
        kinds.iter().filter(|kind| *kind == "task_failed").count(),
        1
    );
    // Nobody heard that an endpoint came or went.
    let judged = kinds.iter().filter(|kind| *kind == "endpoint_up").count();
    assert_eq!(judged, 2, "{kinds:?}");
}

#[tokio::test]
async fn probes_and_questions_that_panic_are_made_again() {
    let wild = Wild {
        under_way: AtomicU32::new(3),
        names: AtomicU32::new(1),
        ..Wild::default()
    };
    let pools = "{ a: { endpoints: [ '10.0.0.1:80', { dns: 'a.example:80' } ], \
                 health: { http: /, every: 200ms, timeout: 100ms } } }";
    let world = begin(pools, wild);
    let healthy = || {
        let snapshot = world.engine.published().load();
        let endpoints = &snapshot.pools[0].endpoints;
        endpoints.len() == 2
            && endpoints
                .iter()
                .all(|it| it.health.verdict == Verdict::Healthy)
    };
    until("both endpoints are healthy", healthy).await;
    assert_eq!(world.failures(), 0);
    assert!(ProbeFailure::Own.to_string().contains("fault of Portolan"));
}

#[tokio::test]
async fn it_says_when_it_cannot_go_on() {
    let world = begin(POOL, Wild::default());
    assert!(world.engine.wait_until_judged(PATIENCE).await);
    world.wild.at_once.store(u32::MAX, Ordering::Relaxed);
    let given_up = tokio::time::timeout(PATIENCE, world.supervisor.given_up()).await;
    assert_eq!(given_up, Ok("engine"));
    assert_eq!(world.failures(), 6);
    assert!(world.accept_the_same().await.is_err());
    // Requests still go by the last snapshot.
    assert_eq!(world.engine.published().load().pools.len(), 1);
}
