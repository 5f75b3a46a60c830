//! What must hold for every target and every state of its pools.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::plan::{Class, ClientClasses, Plan, PoolId, TargetId};
use portolan_config::{Machine, check_text};
use proptest::prelude::*;

use super::{Basis, Conditions, Draw, Latency, Table, evaluate};

/// How many pools the tests have: `p0`, `p1` …
const POOLS: usize = 6;

/// A made-up state of the pools.
#[derive(Clone, Debug)]
struct State {
    plan: Arc<Plan>,
    availability: Vec<f64>,
    latency_ms: Vec<Option<u64>>,
    free: Vec<f64>,
}

impl Conditions for State {
    fn availability(&self, pool: PoolId) -> f64 {
        self.availability[pool.index()]
    }

    fn latency(&self, pool: PoolId) -> Latency {
        Latency {
            probes: self.latency_ms[pool.index()].map(Duration::from_millis),
            traffic: None,
        }
    }

    fn free_capacity(&self, pool: PoolId) -> f64 {
        self.free[pool.index()]
    }

    fn pool_name(&self, pool: PoolId) -> &str {
        self.plan.pools[pool.index()].name.as_str()
    }

    fn service_name(&self, _: TargetId) -> &str {
        "service"
    }
}

/// The plan of a target over the pools, or nothing where the checks refuse it.
fn plan(target: &str) -> Option<Arc<Plan>> {
    let regions = [
        "us-east-1",
        "us-west-2",
        "eu-central-1",
        "eu-west-1",
        "ap-northeast-1",
        "sa-east-1",
    ];
    let mut text = String::from("listeners: [ { bind: '127.0.0.1:0' } ]\npools:\n");
    for (at, region) in regions.iter().enumerate().take(POOLS) {
        let _ = writeln!(
            text,
            "  p{at}: {{ cloud: aws, region: {region}, endpoints: [ '10.0.0.{at}:80' ], capacity: {{ in_flight: 100 }} }}",
        );
    }
    let _ = writeln!(text, "routes: [ {{ to: {target} }} ]");
    check_text("t.yaml", text, &Machine::default()).plan
}

fn plan_of(target: &str) -> Arc<Plan> {
    plan(target).unwrap_or_else(|| panic!("{target}"))
}

fn state(plan: &Arc<Plan>, availability: &[f64]) -> State {
    let mut all = vec![0.0; POOLS];
    all[..availability.len()].copy_from_slice(availability);
    State {
        plan: plan.clone(),
        availability: all,
        latency_ms: vec![None; POOLS],
        free: vec![100.0; POOLS],
    }
}

fn target(plan: &Plan) -> TargetId {
    plan.routes[0].target
}

fn classes(plan: &Plan) -> Vec<Class> {
    let classes = ClientClasses::of(target(plan), &plan.targets, &plan.locations);
    classes.unwrap().classes().to_vec()
}

fn table(state: &State, class: &Class) -> Table {
    Table::new(
        &state.plan.targets,
        target(&state.plan),
        class,
        state,
        Basis::Health,
    )
}

/// The shares of all pools for the only (or first) class, in whole percents.
fn percents(target: &str, availability: &[f64]) -> Vec<f64> {
    let plan = plan_of(target);
    let table = table(&state(&plan, availability), &classes(&plan)[0]);
    (0..availability.len())
        .map(|at| table.share(PoolId::new(at)) * 100.0)
        .collect()
}

fn close(actual: &[f64], expected: &[f64], within: f64) {
    for (a, e) in actual.iter().zip(expected) {
        assert!((a - e).abs() <= within, "{actual:?} is not {expected:?}");
    }
}

// === Examples ===

/// Envoy's published examples of its priority load (overprovisioning 1.4, panic off), which it
/// rounds to whole percents. The availability of a pool is min(1, 1.4 × healthy).
#[test]
fn tiers_degenerate_to_envoys_priorities() {
    let a = |healthy: f64| (1.4 * healthy / 100.0).min(1.0);
    let two = [
        ([100.0, 100.0], [100.0, 0.0]),
        ([72.0, 72.0], [100.0, 0.0]),
        ([71.0, 71.0], [99.0, 1.0]),
        ([50.0, 50.0], [70.0, 30.0]),
        ([25.0, 100.0], [35.0, 65.0]),
        ([25.0, 25.0], [50.0, 50.0]),
        ([0.0, 100.0], [0.0, 100.0]),
    ];
    for (healthy, traffic) in two {
        close(
            &percents("{ tiers: [ p0, p1 ] }", &healthy.map(a)),
            &traffic,
            1.0,
        );
    }
    let three = [
        ([100.0, 100.0, 100.0], [100.0, 0.0, 0.0]),
        ([72.0, 72.0, 100.0], [100.0, 0.0, 0.0]),
        ([71.0, 71.0, 100.0], [99.0, 1.0, 0.0]),
        ([50.0, 50.0, 100.0], [70.0, 30.0, 0.0]),
        ([25.0, 100.0, 100.0], [35.0, 65.0, 0.0]),
        ([25.0, 25.0, 100.0], [35.0, 35.0, 30.0]),
        ([25.0, 25.0, 20.0], [36.0, 36.0, 28.0]),
    ];
    for (healthy, traffic) in three {
        close(
            &percents("{ tiers: [ p0, p1, p2 ] }", &healthy.map(a)),
            &traffic,
            1.0,
        );
    }
}

#[test]
fn a_split_gives_a_dead_members_share_to_its_peers() {
    let split = "{ split: { p0: 60, p1: 30, p2: 10 } }";
    close(
        &percents(split, &[1.0, 1.0, 1.0]),
        &[60.0, 30.0, 10.0],
        1e-9,
    );
    close(&percents(split, &[0.0, 1.0, 1.0]), &[0.0, 75.0, 25.0], 1e-9);
    close(
        &percents(split, &[0.5, 1.0, 1.0]),
        &[300.0 / 7.0, 300.0 / 7.0, 100.0 / 7.0],
        1e-9,
    );
}

#[test]
fn if_down_next_spills_to_the_next_tier_and_shed_refuses() {
    let next = "{ tiers: [ { split: [ { to: p0, weight: 70, if_down: next }, { to: p1, weight: 30, if_down: next } ] }, p2 ] }";
    close(&percents(next, &[1.0, 1.0, 1.0]), &[70.0, 30.0, 0.0], 1e-9);
    close(&percents(next, &[0.0, 1.0, 1.0]), &[0.0, 30.0, 70.0], 1e-9);
    close(&percents(next, &[0.5, 1.0, 1.0]), &[35.0, 30.0, 35.0], 1e-9);

    let shed = "{ tiers: [ { split: [ { to: p0, weight: 70, if_down: shed }, { to: p1, weight: 30 } ] }, p2 ] }";
    close(&percents(shed, &[0.0, 1.0, 1.0]), &[0.0, 30.0, 0.0], 1e-9);
    let plan = plan_of(shed);
    let refused = table(&state(&plan, &[0.0, 1.0, 1.0]), &classes(&plan)[0]).refused;
    assert!((refused - 0.7).abs() < 1e-9);
}

#[test]
fn one_member_on_peers_among_others_leaves_its_share_to_all() {
    let mixed = "{ tiers: [ { split: [ { to: p0, weight: 50 }, { to: p1, weight: 50, if_down: next } ] }, p2 ] }";
    close(&percents(mixed, &[0.0, 1.0, 1.0]), &[0.0, 100.0, 0.0], 1e-9);
    close(&percents(mixed, &[1.0, 0.0, 1.0]), &[50.0, 0.0, 50.0], 1e-9);
}

#[test]
fn fastest_shares_evenly_among_those_as_fast_and_keeps_the_rest_behind() {
    let plan = plan_of("{ fastest: [ p0, p1, p2, p3 ] }");
    let class = &classes(&plan)[0];
    let mut state = state(&plan, &[1.0, 1.0, 1.0, 1.0]);
    state.latency_ms = vec![Some(100), Some(109), Some(150), None, None, None];
    let share = |state: &State, at| table(state, class).share(PoolId::new(at)) * 100.0;
    close(
        &[share(&state, 0), share(&state, 1), share(&state, 2)],
        &[50.0, 50.0, 0.0],
        1e-9,
    );
    // The fast ones die: the next by latency, and the unmeasured one last.
    state.availability[0] = 0.0;
    state.availability[1] = 0.0;
    close(&[share(&state, 2), share(&state, 3)], &[100.0, 0.0], 1e-9);
    state.availability[2] = 0.0;
    close(&[share(&state, 3)], &[100.0], 1e-9);
    // 5 ms count as the same, however fast the best is.
    state.availability = vec![1.0; POOLS];
    state.latency_ms = vec![Some(1), Some(5), Some(7), Some(60), None, None];
    close(
        &[share(&state, 0), share(&state, 1), share(&state, 2)],
        &[50.0, 50.0, 0.0],
        1e-9,
    );
}

#[test]
fn least_loaded_follows_free_capacity() {
    let plan = plan_of("{ least_loaded: [ p0, p1 ] }");
    let class = &classes(&plan)[0];
    let mut state = state(&plan, &[1.0, 1.0]);
    state.free = vec![75.0, 25.0, 0.0, 0.0, 0.0, 0.0];
    assert!((table(&state, class).share(PoolId::new(0)) - 0.75).abs() < 1e-9);
    state.free = vec![0.0; POOLS];
    assert!((table(&state, class).share(PoolId::new(0)) - 0.5).abs() < 1e-9);
    state.free = vec![0.0, 10.0, 0.0, 0.0, 0.0, 0.0];
    state.availability = vec![1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert!((table(&state, class).share(PoolId::new(0)) - 1.0).abs() < 1e-9);
}

#[test]
fn explanations_lead_from_the_target_to_the_pool() {
    let plan = plan_of("{ tiers: [ { split: { p0: 70, p1: 30 } }, p2 ] }");
    let table = table(&state(&plan, &[0.5, 0.5, 1.0]), &classes(&plan)[0]);
    let why: Vec<&str> = table.entries().iter().map(|entry| &*entry.why).collect();
    assert_eq!(
        why,
        [
            "tier 1 of 2 > split 70 of 100 > pool p0",
            "tier 1 of 2 > split 30 of 100 > pool p1",
            "tier 2 of 2 (earlier ones carry 50%) > pool p2",
        ]
    );
}

// === Laws ===

/// A random target, as text. `leaf` makes the leaves: any pool, or each pool once.
fn targets() -> impl Strategy<Value = String> {
    let leaf = (0..POOLS).prop_map(|at| format!("p{at}"));
    leaf.prop_recursive(3, 24, 4, |inner| {
        let list = || prop::collection::vec(inner.clone(), 1..4);
        let member = (
            inner.clone(),
            1..100u32,
            prop::sample::select(vec!["peers", "next", "shed"]),
        )
            .prop_map(|(to, weight, if_down)| {
                format!("{{ to: {to}, weight: {weight}, if_down: {if_down} }}")
            });
        let join = |kind: &'static str| {
            move |members: Vec<String>| format!("{{ {kind}: [ {} ] }}", members.join(", "))
        };
        prop_oneof![
            prop::collection::vec(member, 1..4).prop_map(join("split")),
            list().prop_map(join("tiers")),
            list().prop_map(join("nearest")),
            list().prop_map(join("fastest")),
            list().prop_map(join("least_loaded")),
            (inner.clone(), inner.clone()).prop_map(|(eu, rest)| format!(
                "{{ geo: [ {{ clients: {{ continents: [ EU ] }}, to: {eu} }}, {{ to: {rest} }} ] }}"
            )),
        ]
    })
}

fn availabilities() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(
        prop_oneof![Just(0.0), Just(1.0), 0.0..1.0f64],
        POOLS..=POOLS,
    )
}

fn states() -> impl Strategy<Value = (Vec<f64>, Vec<Option<u64>>, Vec<f64>)> {
    (
        availabilities(),
        prop::collection::vec(prop::option::of(1..300u64), POOLS..=POOLS),
        prop::collection::vec(prop_oneof![Just(0.0), 0.0..100.0f64], POOLS..=POOLS),
    )
}

/// The pools a target can lead to for a class.
fn reachable(plan: &Arc<Plan>, class: &Class) -> Vec<PoolId> {
    let all = state(plan, &[1e-3; POOLS]);
    let load = evaluate(&plan.targets, target(plan), class, &all, false);
    // With tiny availabilities everything spills through every tier.
    let mut pools: Vec<PoolId> = load.shares.iter().map(|share| share.pool).collect();
    pools.sort_unstable();
    pools.dedup();
    pools
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn shares_and_refused_are_the_whole_and_nobody_dead_gets_anything(
        text in targets(), (availability, latency_ms, free) in states()
    ) {
        let Some(plan) = plan(&text) else { return Ok(()); };
        let state = State { plan: plan.clone(), availability, latency_ms, free };
        for class in classes(&plan) {
            let load = evaluate(&plan.targets, target(&plan), &class, &state, false);
            prop_assert!(load.taken <= 1.0 + 1e-9, "{text}: takes {}", load.taken);
            prop_assert!((load.carried() + load.refused - load.taken).abs() < 1e-9);
            let table = table(&state, &class);
            let sum: f64 = table.entries().iter().map(|entry| entry.share).sum();
            prop_assert!((sum + table.refused - 1.0).abs() < 1e-9, "{text}: {sum} + {}", table.refused);
            for entry in table.entries() {
                prop_assert!(state.availability(entry.pool) > 0.0, "{text}: dead {:?}", entry.pool);
                prop_assert!(entry.share > 0.0);
            }
            // What is refused is refused on purpose, or because nobody at all can serve.
            if !text.contains("shed") {
                let anybody = reachable(&plan, &class).iter().any(|pool| state.availability(*pool) > 0.0);
                prop_assert_eq!(table.refused < 0.5, anybody, "{}: {}", text, table.refused);
            }
        }
    }

    #[test]
    fn the_same_input_gives_the_same_answer(text in targets(), (availability, latency_ms, free) in states()) {
        let Some(plan) = plan(&text) else { return Ok(()); };
        let state = State { plan: plan.clone(), availability, latency_ms, free };
        for class in classes(&plan) {
            prop_assert_eq!(table(&state, &class), table(&state.clone(), &class));
        }
    }

    #[test]
    fn a_node_around_a_single_member_changes_nothing(
        text in targets(), (availability, latency_ms, free) in states()
    ) {
        let Some(bare) = plan(&text) else { return Ok(()); };
        let shares = |plan: &Arc<Plan>| {
            let state = State {
                plan: plan.clone(),
                availability: availability.clone(),
                latency_ms: latency_ms.clone(),
                free: free.clone(),
            };
            classes(plan).iter().map(|class| {
                let table = table(&state, class);
                (0..POOLS).map(|at| table.share(PoolId::new(at))).collect::<Vec<f64>>()
            }).collect::<Vec<_>>()
        };
        let bare = shares(&bare);
        for wrapped in [
            format!("{{ tiers: [ {text} ] }}"),
            format!("{{ split: [ {{ to: {text}, weight: 7 }} ] }}"),
            format!("{{ nearest: [ {text} ] }}"),
            format!("{{ fastest: [ {text} ] }}"),
            format!("{{ least_loaded: [ {text} ] }}"),
            format!("{{ geo: [ {{ to: {text} }} ] }}"),
        ] {
            let plan = plan(&wrapped).expect("a sound target stays sound inside another");
            for (a, b) in bare.iter().flatten().zip(shares(&plan).iter().flatten()) {
                prop_assert!((a - b).abs() < 1e-9, "{wrapped}: {a} is not {b}");
            }
        }
    }

    #[test]
    fn more_health_is_never_less_traffic_where_each_pool_stands_once(
        shape in 0..6usize,
        weights in prop::collection::vec(1..100u32, POOLS..=POOLS),
        words in prop::collection::vec(prop::sample::select(vec!["peers", "next", "shed"]), POOLS..=POOLS),
        (availability, latency_ms, free) in states(),
        which in 0..POOLS,
        more in 0.0..1.0f64,
    ) {
        let member = |at: usize| format!(
            "{{ to: p{at}, weight: {}, if_down: {} }}", weights[at], words[at]
        );
        let text = match shape {
            0 => format!("{{ split: [ {}, {}, {} ] }}", member(0), member(1), member(2)),
            1 => format!("{{ tiers: [ {{ split: [ {}, {} ] }}, {{ split: [ {}, {} ] }}, p4 ] }}",
                member(0), member(1), member(2), member(3)),
            2 => "{ tiers: [ { nearest: [ p0, p1 ] }, { split: { p2: 50, p3: 50 } }, p4 ] }".to_owned(),
            3 => "{ nearest: [ p0, { tiers: [ p1, p2 ] }, { split: { p3: 1, p4: 3 } } ] }".to_owned(),
            4 => "{ least_loaded: [ p0, p1, { tiers: [ p2, p3 ] } ] }".to_owned(),
            _ => "{ split: { p0: 10, p1: 20, p2: 30, p3: 40 } }".to_owned(),
        };
        let plan = plan_of(&text);
        let before = State { plan: plan.clone(), availability, latency_ms, free };
        let mut after = before.clone();
        after.availability[which] += (1.0 - after.availability[which]) * more;
        let pool = PoolId::new(which);
        for class in classes(&plan) {
            let (then, now) = (table(&before, &class), table(&after, &class));
            prop_assert!(
                now.share(pool) >= then.share(pool) - 1e-9,
                "{text}: p{which} had {} and has {}", then.share(pool), now.share(pool)
            );
        }
    }

    #[test]
    fn draws_fall_as_the_shares_say(text in targets(), (availability, latency_ms, free) in states()) {
        let Some(plan) = plan(&text) else { return Ok(()); };
        let state = State { plan: plan.clone(), availability, latency_ms, free };
        const DRAWS: u64 = 2_000;
        for class in classes(&plan) {
            let table = table(&state, &class);
            let mut counts = [0u32; POOLS];
            let mut refused = 0u32;
            for n in 0..DRAWS {
                match table.pick(Draw::nth(n)) {
                    Some(entry) => counts[entry.pool.index()] += 1,
                    None => refused += 1,
                }
            }
            for entry in table.entries() {
                let seen = f64::from(counts[entry.pool.index()]) / DRAWS as f64;
                prop_assert!((seen - entry.share).abs() < 0.01, "{text}: {seen} for {}", entry.share);
            }
            prop_assert!((f64::from(refused) / DRAWS as f64 - table.refused).abs() < 0.01);
        }
    }
}
