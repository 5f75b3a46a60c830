//! Pools of endpoints over thousands of requests, in made-up time: what balancing by weight and by
//! load promises, at every load.
//!
//! Requests come at random times (Poisson). An endpoint has as many workers as it has weight, times
//! a factor; who finds none free waits in line. With workers without end nobody waits, and the
//! time of an answer says nothing about load. The seeds are fixed: a failure is one that can be
//! looked at again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use portolan_config::plan::BalancePlan;

use super::{Criteria, Deficits, Selector};
use crate::clock::Tick;
use crate::pool::endpoint::MEMORY;
use crate::pool::endpoint_view::EndpointView;
use crate::pool::view::tests::endpoints;
use crate::steering::Sequence;

/// How long requests keep a worker busy.
#[derive(Clone, Copy, Debug)]
enum Shape {
    Constant,
    Exponential,
    /// With this deviation of the logarithm: at 1, one in a hundred takes six times the mean.
    Lognormal(f64),
    /// One in two hundred takes thirty times as long as the others.
    Spikes,
}

#[derive(Clone, Debug)]
struct World {
    weights: Vec<u32>,
    balance: BalancePlan,
    /// Requests a second.
    rate: f64,
    /// How long a request keeps a worker busy, on average, in seconds.
    service: f64,
    shape: Shape,
    /// An endpoint has so many workers for each unit of its weight; none is as many as it takes.
    workers: Option<u32>,
    /// The first endpoint takes so many times as long.
    slow: f64,
}

impl World {
    fn new(weights: &[u32], balance: BalancePlan, rate: f64, service: f64, shape: Shape) -> Self {
        Self {
            weights: weights.to_vec(),
            balance,
            rate,
            service,
            shape,
            workers: None,
            slow: 1.0,
        }
    }

    /// With so many workers for each unit of weight, of which so large a part is busy on average.
    fn busy(weights: &[u32], balance: BalancePlan, workers: u32, busy: f64, shape: Shape) -> Self {
        let total: u32 = weights.iter().sum();
        let rate = 100.0;
        let service = busy * f64::from(workers * total) / rate;
        Self {
            workers: Some(workers),
            ..Self::new(weights, balance, rate, service, shape)
        }
    }
}

/// What came of it.
#[derive(Debug)]
struct Outcome {
    /// Each endpoint's share of the requests.
    shares: Vec<f64>,
    /// The time of an answer that one in a hundred exceeds, in service times.
    p99: f64,
    /// The mean.
    mean: f64,
    /// The most requests that an endpoint ever had at once, for its weight.
    most: f64,
}

/// A request's end: when, where, and when it came.
type End = Reverse<(Duration, usize, Duration)>;

struct Run {
    endpoints: Vec<EndpointView>,
    random: fastrand::Rng,
    /// Those that keep a worker busy.
    working: BinaryHeap<End>,
    /// Those in line: when they came, and how long they will take.
    waiting: Vec<VecDeque<(Duration, Duration)>>,
    busy: Vec<u32>,
    /// How long answers took, in seconds.
    times: Vec<f64>,
}

impl Run {
    /// What is over by then is over.
    fn until(&mut self, now: Duration) {
        while let Some(Reverse((end, at, came))) = self.working.peek().copied() {
            if end > now {
                break;
            }
            self.working.pop();
            let live = &self.endpoints[at].live;
            live.end();
            live.observe_answer(end - came, Tick::after(end));
            self.times.push((end - came).as_secs_f64());
            match self.waiting[at].pop_front() {
                Some((came, takes)) => self.working.push(Reverse((end + takes, at, came))),
                None => self.busy[at] -= 1,
            }
        }
    }

    fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.random.f64()).ln()
    }

    fn takes(&mut self, world: &World, at: usize) -> Duration {
        let factor = match world.shape {
            Shape::Constant => 1.0,
            Shape::Exponential => self.exponential(1.0),
            Shape::Lognormal(sigma) => {
                let (one, other) = (1.0 - self.random.f64(), self.random.f64());
                let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
                (sigma * normal - sigma * sigma / 2.0).exp()
            }
            Shape::Spikes if self.random.f64() < 0.005 => 30.0,
            Shape::Spikes => 0.8 + 0.4 * self.random.f64(),
        };
        let slow = if at == 0 { world.slow } else { 1.0 };
        Duration::from_secs_f64(world.service * factor * slow)
    }
}

/// So many requests.
fn run(world: &World, requests: usize) -> Outcome {
    let count = world.weights.len();
    let selector = Selector::new(world.weights.iter().copied().enumerate(), &world.balance);
    let (turns, deficits) = (Sequence::default(), Deficits::new(count, &world.balance));
    let mut chance = fastrand::Rng::with_seed(1);
    let mut run = Run {
        endpoints: endpoints(&world.weights),
        random: fastrand::Rng::with_seed(2),
        working: BinaryHeap::new(),
        waiting: vec![VecDeque::new(); count],
        busy: vec![0; count],
        times: Vec::with_capacity(requests),
    };
    let mut counts = vec![0; count];
    let mut most = 0.0f64;
    let mut now = Duration::ZERO;
    for request in 0..requests {
        now += Duration::from_secs_f64(run.exponential(1.0 / world.rate));
        run.until(now);
        let mut wish = Criteria {
            hash: None,
            excluded: &[],
            random: &mut chance,
            now: Tick::after(now),
        };
        let at = selector
            .pick(&world.balance, &run.endpoints, &turns, &deficits, &mut wish)
            .unwrap();
        // The beginning is not counted: everybody was idle.
        counts[at] += usize::from(request >= requests / 10);
        let live = run.endpoints[at].live.clone();
        live.begin();
        most = most.max(f64::from(live.in_flight()) / f64::from(world.weights[at]));
        let takes = run.takes(world, at);
        let workers = world.workers.map(|workers| workers * world.weights[at]);
        if workers.is_none_or(|workers| run.busy[at] < workers) {
            run.busy[at] += 1;
            run.working.push(Reverse((now + takes, at, now)));
        } else {
            run.waiting[at].push_back((now, takes));
        }
    }
    run.times.sort_by(f64::total_cmp);
    let total: usize = counts.iter().sum();
    let sum: f64 = run.times.iter().sum();
    Outcome {
        shares: counts
            .iter()
            .map(|count| *count as f64 / total as f64)
            .collect(),
        p99: run.times[run.times.len() * 99 / 100] / world.service,
        mean: sum / run.times.len() as f64 / world.service,
        most,
    }
}

/// The largest difference between a share and its weight, in points.
fn off(world: &World, outcome: &Outcome) -> f64 {
    let total: u32 = world.weights.iter().sum();
    let shares = outcome.shares.iter().zip(&world.weights);
    shares
        .map(|(share, weight)| (share - f64::from(*weight) / f64::from(total)).abs() * 100.0)
        .fold(0.0, f64::max)
}

/// Equal and unequal, few and many; a slow start at a tenth and a trial at a twentieth, in thousandths.
fn pools() -> Vec<Vec<u32>> {
    vec![
        vec![1, 1],
        vec![10, 9],
        vec![2, 1],
        vec![4, 2, 1],
        vec![100, 1],
        vec![1_000, 100],
        vec![1_000, 1_000, 1_000, 50],
        vec![1; 4],
        vec![1; 16],
        vec![8, 4, 4, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
}

/// From one request in ten seconds to 2,000 a second, and from next to nothing in flight to two
/// thousand requests.
const LOADS: [(f64, f64); 9] = [
    (0.1, 0.01),
    (0.1, 5.0),
    (1.0, 0.5),
    (10.0, 0.1),
    (10.0, 0.4),
    (100.0, 0.03),
    (100.0, 0.5),
    (2_000.0, 0.005),
    (2_000.0, 1.0),
];

/// Shares are by weight where endpoints are equally fast: within two points, and nobody starves. So
/// many requests at least, over so long a time at least.
#[track_caller]
fn shares_are_by_weight(balance: &BalancePlan, shapes: &[Shape], requests: usize, span: Duration) {
    for weights in pools() {
        for (rate, service) in LOADS {
            let requests = requests.max((rate * span.as_secs_f64()) as usize);
            for shape in shapes {
                let world = World::new(&weights, balance.clone(), rate, service, *shape);
                let outcome = run(&world, requests);
                assert!(off(&world, &outcome) < 2.0, "{world:?}: {outcome:?}");
                let total: u32 = weights.iter().sum();
                for (share, weight) in outcome.shares.iter().zip(&weights) {
                    let starves = *share < f64::from(*weight) / f64::from(total) / 2.0;
                    assert!(!starves, "{world:?}: {outcome:?}");
                }
            }
        }
    }
}

#[test]
fn least_requests_keeps_shares_at_every_load() {
    let balance = BalancePlan::LeastRequests;
    let shapes = [
        Shape::Constant,
        Shape::Exponential,
        Shape::Lognormal(1.0),
        Shape::Spikes,
    ];
    shares_are_by_weight(&balance, &shapes, 8_000, Duration::ZERO);
}

#[test]
fn fastest_keeps_shares_among_equals_at_every_load() {
    let balance = BalancePlan::Fastest;
    let shapes = [Shape::Constant, Shape::Exponential, Shape::Lognormal(0.5)];
    // A first answer that happened to be slow is believed for as long as averages last.
    shares_are_by_weight(&balance, &shapes, 20_000, 3 * MEMORY);
}

#[test]
fn shares_are_by_weight_while_requests_wait_in_line() {
    for weights in pools() {
        if weights.iter().sum::<u32>() > 200 {
            // Thousands of workers hardly ever have a line.
            continue;
        }
        for busy in [0.05, 0.3, 0.6, 0.9] {
            for shape in [Shape::Constant, Shape::Exponential, Shape::Lognormal(0.5)] {
                let balance = BalancePlan::LeastRequests;
                let world = World::busy(&weights, balance, 1, busy, shape);
                let outcome = run(&world, 20_000);
                assert!(off(&world, &outcome) < 2.0, "{world:?}: {outcome:?}");
            }
        }
    }
}

#[test]
fn who_is_slow_under_load_gets_far_less_than_its_weight() {
    for balance in [BalancePlan::LeastRequests, BalancePlan::Fastest] {
        for weights in [&[1, 1][..], &[4, 2, 1], &[1, 1, 1, 1], &[10, 9]] {
            // Two requests in flight, were all of them fast, and twenty.
            for service in [0.02, 0.2] {
                let world = World {
                    slow: 10.0,
                    ..World::new(weights, balance.clone(), 100.0, service, Shape::Exponential)
                };
                let outcome = run(&world, 20_000);
                let total: u32 = weights.iter().sum();
                let asked = f64::from(weights[0]) / f64::from(total);
                assert!(outcome.shares[0] < asked / 2.0, "{world:?}: {outcome:?}");
                let chance = run(
                    &World {
                        balance: BalancePlan::Random,
                        ..world.clone()
                    },
                    20_000,
                );
                assert!(
                    outcome.most < chance.most,
                    "{world:?}: {outcome:?} {chance:?}"
                );
                assert!(
                    outcome.p99 < chance.p99,
                    "{world:?}: {outcome:?} {chance:?}"
                );
            }
        }
    }
}

#[test]
fn fastest_sends_next_to_nothing_to_who_is_slower_at_any_load() {
    for weights in [&[1, 1][..], &[4, 2, 1], &[1, 1, 1, 1], &[10, 9]] {
        for (rate, service) in [(1.0, 0.01), (100.0, 0.005), (100.0, 0.02), (1_000.0, 0.02)] {
            let balance = BalancePlan::Fastest;
            let world = World {
                slow: 10.0,
                ..World::new(weights, balance, rate, service, Shape::Exponential)
            };
            let outcome = run(&world, 20_000);
            assert!(outcome.shares[0] < 0.08, "{world:?}: {outcome:?}");
            assert!(outcome.shares[0] > 0.0, "somebody looks: {world:?}");
        }
    }
}

/// What makes a load balancer worth its name: lines are short.
#[test]
fn requests_wait_far_less_than_by_chance() {
    for balance in [BalancePlan::LeastRequests, BalancePlan::Fastest] {
        for weights in [&[1, 1][..], &[4, 2, 1], &[1; 4], &[1; 16]] {
            for busy in [0.6, 0.8, 0.9] {
                for shape in [Shape::Exponential, Shape::Lognormal(1.0)] {
                    let world = World::busy(weights, balance.clone(), 1, busy, shape);
                    let outcome = run(&world, 30_000);
                    let random = World {
                        balance: BalancePlan::Random,
                        ..world.clone()
                    };
                    let chance = run(&random, 30_000);
                    // How long they wait before somebody works on them.
                    let (waits, by_chance) = (outcome.mean - 1.0, chance.mean - 1.0);
                    let ratio = waits / by_chance;
                    assert!(ratio < 0.65, "{world:?}: {waits} of {by_chance}");
                    assert!(
                        outcome.p99 < chance.p99,
                        "{world:?}: {outcome:?} {chance:?}"
                    );
                }
            }
        }
    }
}
