//! The algebra: what a target can carry, and who carries it.
//!
//! Every target answers with a *load*: how much of one unit of traffic it takes, how much of that
//! it refuses, and which pools carry the rest. What it does not take spills over to whatever stands
//! behind it (the next tier), and only at the very end is what can be carried scaled up to the
//! whole.
//!
//! # Splits
//! Member *i* has the part *c* of the weights and the availability *a*. Its own traffic is *c·a*.
//! What is missing, *c·(1−a)*, goes where its `if_down` says: to the next tier, to nobody (refused),
//! or to its peers. Peers take it in proportion to weight × availability, as far as the best of them
//! could: with all members on `peers`, the split carries as much as its best member can, divided in
//! proportion to weight × availability.
//!
//! # Tiers
//! The first takes what it can, the second what is left as far as it can, and so on; together they
//! take min(1, Σa). With one pool per tier this is Envoy's priority load calculation.

use std::fmt::Write as _;
use std::time::Duration;

use portolan_config::document::IfDown;
use portolan_config::plan::{
    Class, GeoRulePlan, PoolId, ServiceId, SplitMemberPlan, TargetGraph, TargetId, TargetKindPlan,
};
use smallvec::SmallVec;

/// The state of the pools, as steering sees it.
pub trait Conditions {
    /// How much of the traffic a pool can take: 0 to 1.
    fn availability(&self, pool: PoolId) -> f64;

    /// How long a pool takes to answer, as far as it was measured.
    fn latency(&self, pool: PoolId) -> Latency;

    /// How many more requests a pool could take at the same time.
    fn free_capacity(&self, pool: PoolId) -> f64;

    /// A pool's name, for explanations.
    fn pool_name(&self, pool: PoolId) -> &str;

    /// A service's name, for explanations.
    fn service_name(&self, target: TargetId) -> &str;

    /// The weights that an operator gave to the members of a service's split, in their order,
    /// instead of those of the configuration.
    fn weights(&self, _service: ServiceId) -> Option<&[u32]> {
        None
    }
}

/// Measured latency. The two kinds are not comparable: a probe asks for something cheap.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Of probes.
    pub probes: Option<Duration>,
    /// Of requests, to their response's headers.
    pub traffic: Option<Duration>,
}

impl Latency {
    /// The better of both, kind by kind.
    #[must_use]
    fn best(self, other: Self) -> Self {
        let best = |a: Option<Duration>, b: Option<Duration>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            probes: best(self.probes, other.probes),
            traffic: best(self.traffic, other.traffic),
        }
    }
}

/// What becomes of one unit of traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// How much is taken: carried or refused. The rest spills over.
    pub taken: f64,
    /// How much of that is refused.
    pub refused: f64,
    /// Who carries the rest. A pool may stand here several times.
    pub shares: Vec<Share>,
}

/// A part of the traffic that a pool carries.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// The pool.
    pub pool: PoolId,
    /// How much it carries.
    pub part: f64,
    /// How it got there, outermost step first; empty when nobody asked.
    pub why: String,
}

impl Load {
    /// How much is carried.
    pub fn carried(&self) -> f64 {
        self.shares.iter().map(|share| share.part).sum()
    }

    /// The same in another measure.
    fn scale(&mut self, factor: f64) {
        self.taken *= factor;
        self.refused *= factor;
        for share in &mut self.shares {
            share.part *= factor;
        }
    }

    /// Puts a step before every explanation.
    fn step(&mut self, explain: bool, step: &dyn Fn() -> String) {
        if !explain || self.shares.is_empty() {
            return;
        }
        let step = step();
        for share in &mut self.shares {
            share.why = if share.why.is_empty() {
                step.clone()
            } else {
                format!("{step} > {}", share.why)
            };
        }
    }

    /// Adds another load beside this one.
    fn join(&mut self, mut other: Self) {
        self.taken += other.taken;
        self.refused += other.refused;
        self.shares.append(&mut other.shares);
    }
}

/// What a target makes of one unit of traffic of clients of this class, before anything is scaled
/// up. `explain`: say of every share how it came about.
pub fn evaluate(
    graph: &TargetGraph,
    target: TargetId,
    class: &Class,
    conditions: &dyn Conditions,
    explain: bool,
) -> Load {
    Evaluation {
        graph,
        class,
        conditions,
        explain,
    }
    .target(target)
}

/// Less than this is rounding, not traffic.
const NOTHING: f64 = 1e-12;

/// Members of `fastest` within this much of the best are as fast.
const AS_FAST_FACTOR: f64 = 1.1;
const AS_FAST_MARGIN: Duration = Duration::from_millis(5);

struct Evaluation<'a> {
    graph: &'a TargetGraph,
    class: &'a Class,
    conditions: &'a dyn Conditions,
    explain: bool,
}

impl Evaluation<'_> {
    fn target(&self, id: TargetId) -> Load {
        match &self.graph.node(id).kind {
            TargetKindPlan::Pool(pool) => self.pool(*pool),
            TargetKindPlan::Service(service, to) => {
                let weights = self.conditions.weights(*service);
                let mut load = match weights {
                    Some(weights) => self.reweighted(*to, weights),
                    None => self.target(*to),
                };
                load.step(self.explain, &|| {
                    let overridden = if weights.is_some() {
                        " (weights overridden)"
                    } else {
                        ""
                    };
                    let name = self.conditions.service_name(id);
                    format!("service {name}{overridden}")
                });
                load
            }
            TargetKindPlan::Split(members) => self.split(members, |at| members[at].weight),
            TargetKindPlan::Tiers(members) => self.ordered_tiers(members, None),
            TargetKindPlan::Nearest(members) => self.nearest(id, members),
            TargetKindPlan::Fastest(members) => self.fastest(members),
            TargetKindPlan::LeastLoaded(members) => self.least_loaded(members),
            TargetKindPlan::Geo(rules) => self.geo(id, rules),
        }
    }

    /// A service's target with other weights in its split: it is the split, or begins with it.
    fn reweighted(&self, id: TargetId, weights: &[u32]) -> Load {
        match &self.graph.node(id).kind {
            TargetKindPlan::Split(members) if members.len() == weights.len() => {
                self.split(members, |at| weights[at])
            }
            TargetKindPlan::Tiers(members) => self.ordered_tiers(members, Some(weights)),
            _ => self.target(id),
        }
    }

    /// Tiers as written; the weights are for the split that the first one begins with.
    fn ordered_tiers(&self, members: &[TargetId], weights: Option<&[u32]>) -> Load {
        let count = members.len();
        let loads = members
            .iter()
            .enumerate()
            .map(|(at, member)| match weights {
                Some(weights) if at == 0 => self.reweighted(*member, weights),
                _ => self.target(*member),
            });
        self.tier_loads(loads, &|at| format!("tier {} of {count}", at + 1))
    }

    fn pool(&self, pool: PoolId) -> Load {
        let part = self.conditions.availability(pool).clamp(0.0, 1.0);
        if part < NOTHING {
            return Load::default();
        }
        let why = if self.explain {
            format!("pool {}", self.conditions.pool_name(pool))
        } else {
            String::new()
        };
        Load {
            taken: part,
            refused: 0.0,
            shares: vec![Share { pool, part, why }],
        }
    }

    fn geo(&self, id: TargetId, rules: &[GeoRulePlan]) -> Load {
        let at = self.class.rule(id);
        let mut load = self.target(rules[at].to);
        load.step(self.explain, &|| match &rules[at].clients {
            Some(set) => format!("rule {} ({})", at + 1, set.words),
            None => format!("rule {} (everybody else)", at + 1),
        });
        load
    }

    fn nearest(&self, id: TargetId, members: &[TargetId]) -> Load {
        match self.class.order(id) {
            Some(order) => {
                let ordered = order.iter().map(|at| members[usize::from(*at)]);
                self.tiers(ordered, &|at| format!("nearest no. {}", at + 1))
            }
            None => self.tiers(members.iter().copied(), &|at| {
                format!("nearest no. {}", at + 1)
            }),
        }
    }

    fn tiers(
        &self,
        members: impl Iterator<Item = TargetId>,
        words: &dyn Fn(usize) -> String,
    ) -> Load {
        self.tier_loads(members.map(|member| self.target(member)), words)
    }

    /// Tiers of loads that are known already. `words` names a tier.
    fn tier_loads(
        &self,
        loads: impl Iterator<Item = Load>,
        words: &dyn Fn(usize) -> String,
    ) -> Load {
        let mut total = Load::default();
        for (at, mut load) in loads.enumerate() {
            let left = 1.0 - total.taken;
            if left < NOTHING {
                break;
            }
            if load.taken < NOTHING {
                continue;
            }
            if load.taken > left {
                load.scale(left / load.taken);
            }
            load.step(self.explain, &|| {
                let mut step = words(at);
                if total.taken > NOTHING {
                    let _ = write!(step, " (earlier ones carry {:.0}%)", total.taken * 100.0);
                }
                step
            });
            total.join(load);
        }
        total
    }

    /// A split whose members have these weights. Who has none counts for nothing.
    fn split(&self, members: &[SplitMemberPlan], weight: impl Fn(usize) -> u32) -> Load {
        let members: SmallVec<[(&SplitMemberPlan, u32); 8]> = members
            .iter()
            .enumerate()
            .map(|(at, member)| (member, weight(at)))
            .filter(|(_, weight)| *weight > 0)
            .collect();
        let weights: f64 = members.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let loads: SmallVec<[Load; 8]> = members
            .iter()
            .map(|(member, _)| self.target(member.to))
            .collect();
        let parts: SmallVec<[f64; 8]> = members
            .iter()
            .map(|(_, weight)| f64::from(*weight) / weights)
            .collect();
        let best = loads.iter().map(|load| load.taken).fold(0.0, f64::max);

        // What members carry of their own traffic, and what those on `peers` leave to the others.
        let own: f64 = parts
            .iter()
            .zip(&loads)
            .map(|(part, load)| part * load.taken)
            .sum();
        let left_to_peers: f64 = members
            .iter()
            .zip(&parts)
            .zip(&loads)
            .filter(|(((member, _), _), _)| member.if_down == IfDown::Peers)
            .map(|((_, part), load)| part * (best - load.taken))
            .sum();
        let lift = if own > NOTHING {
            1.0 + left_to_peers / own
        } else {
            0.0
        };

        let mut total = Load::default();
        for (((member, weight), part), mut load) in members.iter().zip(&parts).zip(loads) {
            if member.if_down == IfDown::Shed {
                let shed = part * (1.0 - load.taken);
                total.taken += shed;
                total.refused += shed;
            }
            load.scale(part * lift);
            load.step(self.explain, &|| {
                format!("split {weight} of {}", weights as u64)
            });
            total.join(load);
        }
        total
    }

    fn fastest(&self, members: &[TargetId]) -> Load {
        let mut loads: Vec<Load> = members.iter().map(|member| self.target(*member)).collect();
        let serves: Vec<bool> = loads.iter().map(|load| load.taken > NOTHING).collect();
        let measured: Vec<Latency> = members.iter().map(|member| self.latency(*member)).collect();
        // Like is compared with like: traffic only if every member that can serve has some.
        let by_traffic = measured
            .iter()
            .zip(&serves)
            .all(|(latency, serves)| latency.traffic.is_some() || !serves);
        let of = |at: usize| {
            if by_traffic {
                measured[at].traffic
            } else {
                measured[at].probes
            }
        };
        for (at, load) in loads.iter_mut().enumerate() {
            load.step(self.explain, &|| match of(at) {
                Some(latency) => format!("{:.1} ms", latency.as_secs_f64() * 1000.0),
                None => "not measured".to_owned(),
            });
        }
        let mut order: Vec<usize> = (0..members.len()).collect();
        order.sort_by_key(|at| of(*at).unwrap_or(Duration::MAX));
        // The best that can serve: a dead member's latency says nothing.
        let best = order
            .iter()
            .filter(|at| serves[**at])
            .find_map(|at| of(*at));
        let limit = best.map(|best| best.mul_f64(AS_FAST_FACTOR).max(best + AS_FAST_MARGIN));
        let as_fast = |at: usize| {
            of(at)
                .zip(limit)
                .is_some_and(|(latency, limit)| latency <= limit)
        };
        let mut first = Vec::new();
        let mut rest = Vec::new();
        for at in order {
            let load = std::mem::take(&mut loads[at]);
            if as_fast(at) {
                first.push(load);
            } else {
                rest.push(load);
            }
        }
        let equal = vec![1.0; first.len()];
        let tiers = std::iter::once(proportional(first, &equal)).chain(rest);
        self.tier_loads(tiers, &|at| format!("fastest, tier {}", at + 1))
    }

    fn least_loaded(&self, members: &[TargetId]) -> Load {
        let free: Vec<f64> = members
            .iter()
            .map(|member| {
                let pools = &self.graph.node(*member).weighted;
                pools
                    .iter()
                    .map(|pool| self.conditions.free_capacity(*pool).max(0.0))
                    .sum()
            })
            .collect();
        let loads: Vec<Load> = members
            .iter()
            .zip(&free)
            .map(|(member, free)| {
                let mut load = self.target(*member);
                load.step(self.explain, &|| format!("least loaded ({free:.0} free)"));
                load
            })
            .collect();
        let can_serve = free
            .iter()
            .zip(&loads)
            .any(|(free, load)| *free > 0.0 && load.taken > NOTHING);
        if can_serve {
            proportional(loads, &free)
        } else {
            // All are full: sharing the rest evenly is the least bad.
            proportional(loads, &vec![1.0; members.len()])
        }
    }

    fn latency(&self, target: TargetId) -> Latency {
        self.graph
            .node(target)
            .weighted
            .iter()
            .filter(|pool| self.conditions.availability(**pool) > NOTHING)
            .map(|pool| self.conditions.latency(*pool))
            .fold(Latency::default(), Latency::best)
    }
}

/// A split in which members leave what they cannot carry to their peers.
fn proportional(mut loads: Vec<Load>, weights: &[f64]) -> Load {
    let best = loads
        .iter()
        .zip(weights)
        .filter(|(_, weight)| **weight > 0.0)
        .map(|(load, _)| load.taken)
        .fold(0.0, f64::max);
    let sum: f64 = loads
        .iter()
        .zip(weights)
        .map(|(load, weight)| load.taken * weight)
        .sum();
    let mut total = Load::default();
    if sum < NOTHING {
        return total;
    }
    for (load, weight) in loads.iter_mut().zip(weights) {
        load.scale(weight * best / sum);
        if *weight > 0.0 {
            total.join(std::mem::take(load));
        }
    }
    total
}
