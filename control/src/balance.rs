//! Pool → endpoint: who of a pool gets the next request.
//!
//! A [`Selector`] is made once per change of a pool and looked into by every request. What moves in
//! between (requests in flight, latency) is read from the endpoints themselves.

use portolan_config::plan::BalancePlan;
use smallvec::SmallVec;

use crate::affinity::bid;
use crate::clock::Tick;
use crate::endpoint::Endpoint;
use crate::pool::EndpointView;
use crate::steering::{Draw, Sequence};

/// A candidate may have this much more than its share of the requests in flight before a hashed
/// request goes elsewhere (Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded
/// Loads").
const LOAD_BOUND: f64 = 1.25;

/// Turns are planned ahead as long as a round is no longer than this.
const LONGEST_ROUND: u64 = 1024;

/// Endpoints to choose from.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// Index into the pool's endpoints, weight, and the sum of weights up to and with it.
    members: Vec<Member>,
    total: u64,
    /// For `round_robin`: the members of one round, in turn.
    round: Box<[u16]>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    endpoint: u16,
    weight: u32,
    upto: u64,
}

/// What a choice depends on besides the pool.
#[derive(Debug)]
pub struct Wish<'a> {
    /// A hash of the request's property, for `hash`.
    pub hash: Option<u64>,
    /// Endpoints (by index) that must not be chosen: they just failed.
    pub excluded: &'a [usize],
    /// Chance, from outside.
    pub random: &'a mut fastrand::Rng,
    /// Now.
    pub now: Tick,
}

impl Selector {
    /// A selector over these endpoints, given by index and weight. Weight 0 is nobody.
    pub fn new(members: impl Iterator<Item = (usize, u32)>, balance: &BalancePlan) -> Self {
        let mut total = 0;
        let members: Vec<Member> = members
            .filter(|(_, weight)| *weight > 0)
            .map(|(endpoint, weight)| {
                total += u64::from(weight);
                Member {
                    endpoint: endpoint as u16,
                    weight,
                    upto: total,
                }
            })
            .collect();
        let round = if *balance == BalancePlan::RoundRobin {
            smooth_round(&members)
        } else {
            Box::default()
        };
        Self {
            members,
            total,
            round,
        }
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Its members, by index, in the order of their indices.
    pub fn members(&self) -> impl Iterator<Item = usize> {
        self.members
            .iter()
            .map(|member| usize::from(member.endpoint))
    }

    /// The sum of the weights.
    pub fn weight(&self) -> u64 {
        self.total
    }

    /// The index of the endpoint that gets the request; `None` if nobody is left.
    pub fn pick(
        &self,
        balance: &BalancePlan,
        endpoints: &[EndpointView],
        turns: &Sequence,
        wish: &mut Wish<'_>,
    ) -> Option<usize> {
        if !wish.excluded.is_empty() {
            return self.without(wish.excluded).pick(
                balance,
                endpoints,
                turns,
                &mut Wish {
                    hash: wish.hash,
                    excluded: &[],
                    random: &mut *wish.random,
                    now: wish.now,
                },
            );
        }
        let chosen = match self.members.as_slice() {
            [] => return None,
            [only] => only,
            members => match (balance, wish.hash) {
                (BalancePlan::LeastRequests, _) => {
                    let (a, b) = self.two(wish.random);
                    lighter(a, b, |m| f64::from(live(endpoints, m).in_flight()) + 1.0)
                }
                (BalancePlan::Fastest, _) => {
                    let (a, b) = self.two(wish.random);
                    lighter(a, b, |m| live(endpoints, m).cost(wish.now))
                }
                (BalancePlan::RoundRobin, _) => self.in_turn(turns),
                (BalancePlan::Hash(_), Some(hash)) => self.hashed(hash, members, endpoints),
                (BalancePlan::Random | BalancePlan::Hash(_), _) => self.random(wish.random),
            },
        };
        Some(usize::from(chosen.endpoint))
    }

    /// Whether an endpoint, by its index, is among them.
    pub fn contains(&self, endpoint: usize) -> bool {
        self.members
            .iter()
            .any(|member| usize::from(member.endpoint) == endpoint)
    }

    /// The index of the endpoint where a key is at home, whatever load it has: of those that are
    /// not excluded, the one that bids most for it.
    pub fn home(&self, key: u64, endpoints: &[EndpointView], excluded: &[usize]) -> Option<usize> {
        let offers = self
            .members
            .iter()
            .filter(|member| !excluded.contains(&usize::from(member.endpoint)))
            .map(|member| {
                let seed = live(endpoints, member).seed;
                (bid(key, seed, f64::from(member.weight)), member.endpoint)
            });
        offers
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, endpoint)| usize::from(endpoint))
    }

    /// The same without some members.
    fn without(&self, excluded: &[usize]) -> Self {
        let rest = self
            .members
            .iter()
            .filter(|member| !excluded.contains(&usize::from(member.endpoint)));
        Self::new(
            rest.map(|member| (usize::from(member.endpoint), member.weight)),
            // Turns are for the whole pool; among the rest, chance is fair enough.
            &BalancePlan::Random,
        )
    }

    fn at(&self, point: u64) -> &Member {
        let at = self.members.partition_point(|member| member.upto <= point);
        &self.members[at.min(self.members.len() - 1)]
    }

    fn random(&self, random: &mut fastrand::Rng) -> &Member {
        self.at(random.u64(0..self.total))
    }

    /// Two different members, each drawn by weight.
    fn two(&self, random: &mut fastrand::Rng) -> (&Member, &Member) {
        let first = self.random(random);
        let others = self.total - u64::from(first.weight);
        let mut point = random.u64(0..others);
        // Step over the first one.
        if point >= first.upto - u64::from(first.weight) {
            point += u64::from(first.weight);
        }
        (first, self.at(point))
    }

    fn in_turn(&self, turns: &Sequence) -> &Member {
        if self.round.is_empty() {
            // Weights that make rounds too long are spread evenly without a plan.
            let Draw(draw) = turns.draw();
            let point = (u128::from(draw) * u128::from(self.total)) >> 64;
            return self.at(point as u64);
        }
        let turn = turns.turn() % self.round.len() as u64;
        &self.members[usize::from(self.round[turn as usize])]
    }

    /// Weighted rendezvous hashing: every endpoint bids for the request, the highest bid whose
    /// endpoint is not overloaded wins. An endpoint that comes or goes moves only its own requests.
    fn hashed<'a>(
        &'a self,
        hash: u64,
        members: &'a [Member],
        endpoints: &[EndpointView],
    ) -> &'a Member {
        let in_flight: u64 = members
            .iter()
            .map(|m| u64::from(live(endpoints, m).in_flight()))
            .sum();
        let per_weight = LOAD_BOUND * (in_flight + 1) as f64 / self.total as f64;
        let mut best: Option<(f64, &Member)> = None;
        let mut best_of_all: Option<(f64, &Member)> = None;
        for member in members {
            let endpoint = live(endpoints, member);
            let bid = bid(hash, endpoint.seed, f64::from(member.weight));
            if best_of_all.is_none_or(|(highest, _)| bid > highest) {
                best_of_all = Some((bid, member));
            }
            let room = (per_weight * f64::from(member.weight)).ceil();
            if f64::from(endpoint.in_flight()) < room
                && best.is_none_or(|(highest, _)| bid > highest)
            {
                best = Some((bid, member));
            }
        }
        best.or(best_of_all)
            .map_or(&members[0], |(_, member)| member)
    }
}

fn live<'a>(endpoints: &'a [EndpointView], member: &Member) -> &'a Endpoint {
    &endpoints[usize::from(member.endpoint)].live
}

/// The one of two that costs less for its weight.
fn lighter<'a>(a: &'a Member, b: &'a Member, cost: impl Fn(&Member) -> f64) -> &'a Member {
    if cost(b) * f64::from(a.weight) < cost(a) * f64::from(b.weight) {
        b
    } else {
        a
    }
}

/// One round of turns in which nobody comes twice in a row if it can be helped (nginx's smooth
/// weighted round robin). Empty if a round would be too long.
fn smooth_round(members: &[Member]) -> Box<[u16]> {
    let common = members
        .iter()
        .fold(0, |a, member| gcd(a, member.weight))
        .max(1);
    let weights: SmallVec<[i64; 16]> = members
        .iter()
        .map(|member| i64::from(member.weight / common))
        .collect();
    let total: i64 = weights.iter().sum();
    if total as u64 > LONGEST_ROUND {
        return Box::default();
    }
    let mut credit: SmallVec<[i64; 16]> = SmallVec::from_elem(0, weights.len());
    (0..total)
        .filter_map(|_| {
            for (credit, weight) in credit.iter_mut().zip(&weights) {
                *credit += weight;
            }
            // The first of equals, so that turns come in the order written.
            let (next, _) = credit
                .iter()
                .enumerate()
                .max_by_key(|(at, c)| (**c, std::cmp::Reverse(*at)))?;
            credit[next] -= total;
            Some(next as u16)
        })
        .collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::tests::endpoints;
    use portolan_config::plan::HashProperty;

    fn counts(weights: &[u32], balance: &BalancePlan, draws: usize, hash: bool) -> Vec<usize> {
        let endpoints = endpoints(weights);
        let selector = Selector::new(weights.iter().copied().enumerate(), balance);
        let turns = Sequence::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; weights.len()];
        for n in 0..draws {
            let mut wish = Wish {
                hash: hash.then_some(n as u64 * 0x9E37_79B9),
                excluded: &[],
                random: &mut random,
                now: Tick::ZERO,
            };
            counts[selector
                .pick(balance, &endpoints, &turns, &mut wish)
                .unwrap()] += 1;
        }
        counts
    }

    fn about(counts: &[usize], shares: &[f64], within: f64) {
        let total: usize = counts.iter().sum();
        for (count, share) in counts.iter().zip(shares) {
            let seen = *count as f64 / total as f64;
            assert!((seen - share).abs() < within, "{counts:?} for {shares:?}");
        }
    }

    #[test]
    fn weights_are_kept_and_zero_is_nobody() {
        let balances = [
            BalancePlan::Random,
            BalancePlan::RoundRobin,
            BalancePlan::Hash(HashProperty::Path),
        ];
        for balance in balances {
            let seen = counts(&[3, 1, 0, 4], &balance, 16_000, true);
            about(&seen, &[0.375, 0.125, 0.0, 0.5], 0.02);
        }
        assert_eq!(
            counts(&[0, 5], &BalancePlan::LeastRequests, 10, false),
            [0, 10]
        );
    }

    #[test]
    fn turns_are_smooth() {
        let endpoints = endpoints(&[5, 1, 1]);
        let balance = BalancePlan::RoundRobin;
        let selector = Selector::new([(0, 5), (1, 1), (2, 1)].into_iter(), &balance);
        let turns = Sequence::default();
        let mut random = fastrand::Rng::with_seed(7);
        let round: Vec<usize> = (0..7)
            .map(|_| {
                let mut wish = Wish {
                    hash: None,
                    excluded: &[],
                    random: &mut random,
                    now: Tick::ZERO,
                };
                selector
                    .pick(&balance, &endpoints, &turns, &mut wish)
                    .unwrap()
            })
            .collect();
        assert_eq!(round, [0, 0, 1, 0, 2, 0, 0]);
        // Too long a round is spread without a plan, and still exact.
        about(
            &counts(&[1_000_000, 999_999, 7], &balance, 1_000, false),
            &[0.5, 0.5, 0.0],
            0.01,
        );
    }

    #[test]
    fn the_less_busy_of_two_is_taken() {
        let endpoints = endpoints(&[1, 1]);
        for _ in 0..10 {
            endpoints[0].live.begin();
        }
        let balance = BalancePlan::LeastRequests;
        let selector = Selector::new([(0, 1), (1, 1)].into_iter(), &balance);
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..100 {
            let mut wish = Wish {
                hash: None,
                excluded: &[],
                random: &mut random,
                now: Tick::ZERO,
            };
            let picked = selector.pick(&balance, &endpoints, &Sequence::default(), &mut wish);
            assert_eq!(picked, Some(1));
        }
        // Three times the weight bears three times the load.
        let heavy = Selector::new([(0, 30), (1, 1)].into_iter(), &balance);
        endpoints[1].live.begin();
        let mut wish = Wish {
            hash: None,
            excluded: &[],
            random: &mut random,
            now: Tick::ZERO,
        };
        let picked = heavy.pick(&balance, &endpoints, &Sequence::default(), &mut wish);
        assert_eq!(picked, Some(0), "11/30 is less than 2/1");
    }

    #[test]
    fn the_faster_of_two_is_taken() {
        let endpoints = endpoints(&[1, 1]);
        let second = std::time::Duration::from_secs(1);
        endpoints[0].live.observe_answer(second, Tick::ZERO);
        endpoints[1].live.observe_answer(second / 10, Tick::ZERO);
        let balance = BalancePlan::Fastest;
        let selector = Selector::new([(0, 1), (1, 1)].into_iter(), &balance);
        let mut random = fastrand::Rng::with_seed(7);
        let mut wish = Wish {
            hash: None,
            excluded: &[],
            random: &mut random,
            now: Tick::ZERO,
        };
        assert_eq!(
            selector.pick(&balance, &endpoints, &Sequence::default(), &mut wish),
            Some(1)
        );
    }

    #[test]
    fn hashed_requests_stay_unless_their_endpoint_goes_or_is_overloaded() {
        let endpoints = endpoints(&[1; 10]);
        let balance = BalancePlan::Hash(HashProperty::ClientIp);
        let all = Selector::new((0..10).map(|at| (at, 1)), &balance);
        let fewer = Selector::new((0..9).map(|at| (at, 1)), &balance);
        let mut random = fastrand::Rng::with_seed(7);
        let mut pick = |selector: &Selector, hash| {
            let mut wish = Wish {
                hash: Some(hash),
                excluded: &[],
                random: &mut random,
                now: Tick::ZERO,
            };
            selector
                .pick(&balance, &endpoints, &Sequence::default(), &mut wish)
                .unwrap()
        };
        for hash in 0..2_000u64 {
            let hash = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let before = pick(&all, hash);
            if before != 9 {
                assert_eq!(
                    pick(&fewer, hash),
                    before,
                    "only those of the one that went move"
                );
            }
        }
        let home = pick(&all, 42);
        for _ in 0..100 {
            endpoints[home].live.begin();
        }
        assert_ne!(pick(&all, 42), home, "it has all the load");
    }

    #[test]
    fn those_that_failed_are_left_out() {
        let endpoints = endpoints(&[1, 1, 1]);
        let mut random = fastrand::Rng::with_seed(7);
        for balance in [
            BalancePlan::LeastRequests,
            BalancePlan::RoundRobin,
            BalancePlan::Random,
        ] {
            let selector = Selector::new((0..3).map(|at| (at, 1)), &balance);
            let mut pick = |excluded: &[usize]| {
                let mut wish = Wish {
                    hash: None,
                    excluded,
                    random: &mut random,
                    now: Tick::ZERO,
                };
                selector.pick(&balance, &endpoints, &Sequence::default(), &mut wish)
            };
            assert_eq!(pick(&[0, 2]), Some(1));
            assert_eq!(pick(&[0, 1, 2]), None);
        }
    }
}
