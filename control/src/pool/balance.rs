//! Pool → endpoint: who of a pool gets the next request.
//!
//! A [`Selector`] is made once per change of a pool and looked into by every request. What moves in
//! between (requests in flight, latency) is read from the endpoints themselves.
//!
//! # Weight and load
//!
//! `least_requests` and `fastest` answer two questions that are often confused. The weights say which
//! *share* of the requests an endpoint gets; the load says whom the *next* request had better avoid.
//! To divide the load by the weight and take the smaller of two answers only the second one: of two
//! endpoints that are idle, the heavier one would always win, and the lighter one would starve
//! whenever there is little to do.
//!
//! So a request is first *nominated* for an endpoint, by weight alone, from a sequence that spreads
//! evenly: the shares of nominations are exact. Another endpoint is drawn by weight, and gets the
//! request if the first one is clearly more loaded ([`Load::exceeds`]): the power of two choices
//! (Mitzenmacher 2001). What an endpoint misses like this is its [deficit](Deficits) (as in deficit
//! round robin, Shreedhar and Varghese 1995): it is made up for with one of the next requests that
//! find it no more loaded than the endpoint they were nominated for. Endpoints that are only busy for a
//! moment have their requests later and so keep their shares; those that are slower for good do
//! not, for what is owed is bounded. The laws are in `simulation.rs`.

mod deficits;
mod load;
#[cfg(test)]
mod simulation;

use portolan_config::plan::BalancePlan;
use smallvec::SmallVec;

use self::load::Load;
use crate::clock::Tick;
use crate::pool::endpoint::Endpoint;
use crate::pool::endpoint_view::EndpointView;
use crate::pool::rendezvous::score;
use crate::steering::{Draw, Sequence};

pub use self::deficits::Deficits;

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

impl Member {
    fn index(&self) -> usize {
        usize::from(self.endpoint)
    }
}

/// What a choice depends on besides the pool.
#[derive(Debug)]
pub struct Criteria<'a> {
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
        self.members.iter().map(Member::index)
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
        deficits: &Deficits,
        wish: &mut Criteria<'_>,
    ) -> Option<usize> {
        if wish.excluded.is_empty() {
            return self.choose(balance, endpoints, Some(turns), deficits, wish);
        }
        // Turns are for the whole pool. The turn after that of an endpoint that was passed over would
        // often be the same one's; among the rest, chance is fair enough.
        self.without(wish.excluded)
            .choose(balance, endpoints, None, deficits, wish)
    }

    /// The same among all members; without turns, by chance.
    fn choose(
        &self,
        balance: &BalancePlan,
        endpoints: &[EndpointView],
        turns: Option<&Sequence>,
        deficits: &Deficits,
        wish: &mut Criteria<'_>,
    ) -> Option<usize> {
        let chosen = match self.members.as_slice() {
            [] => return None,
            [only] => only,
            members => match (balance, wish.hash) {
                (BalancePlan::LeastRequests | BalancePlan::Fastest, _) => {
                    let first = self.nominated(turns, wish.random);
                    let second = self.another(first, wish.random);
                    let fastest = *balance == BalancePlan::Fastest;
                    let now = fastest.then_some(wish.now);
                    let load = |m: &Member| Load::of(live(endpoints, m), m.weight, now);
                    if deficits.gives_way(first.index(), load(first), second.index(), load(second))
                    {
                        second
                    } else {
                        first
                    }
                }
                (BalancePlan::RoundRobin, _) => match turns {
                    Some(turns) => self.in_turn(turns),
                    None => self.random(wish.random),
                },
                (BalancePlan::Hash(_), Some(hash)) => self.hashed(hash, members, endpoints),
                (BalancePlan::Random | BalancePlan::Hash(_), _) => self.random(wish.random),
            },
        };
        Some(chosen.index())
    }

    /// Whether an endpoint, by its index, is among them.
    pub fn contains(&self, endpoint: usize) -> bool {
        self.members.iter().any(|member| member.index() == endpoint)
    }

    /// The index of the endpoint where a key is at home, whatever load it has: of those that are
    /// not excluded, the one that bids most for it.
    pub fn owner(&self, key: u64, endpoints: &[EndpointView], excluded: &[usize]) -> Option<usize> {
        let offers = self
            .members
            .iter()
            .filter(|member| !excluded.contains(&member.index()))
            .map(|member| {
                let seed = live(endpoints, member).seed;
                (score(key, seed, f64::from(member.weight)), member.endpoint)
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
            .filter(|member| !excluded.contains(&member.index()));
        Self::new(
            rest.map(|member| (member.index(), member.weight)),
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

    /// The member whose turn it is, by weight.
    fn nominated(&self, turns: Option<&Sequence>, random: &mut fastrand::Rng) -> &Member {
        match turns {
            Some(turns) => self.spread(turns),
            None => self.random(random),
        }
    }

    /// A member other than this one, drawn by weight. There are two at least.
    fn another(&self, first: &Member, random: &mut fastrand::Rng) -> &Member {
        let others = self.total - u64::from(first.weight);
        let mut point = random.u64(0..others);
        // Step over the first one.
        if point >= first.upto - u64::from(first.weight) {
            point += u64::from(first.weight);
        }
        self.at(point)
    }

    /// Turns that are spread evenly without a plan.
    fn spread(&self, turns: &Sequence) -> &Member {
        let Draw(draw) = turns.draw();
        let point = (u128::from(draw) * u128::from(self.total)) >> 64;
        self.at(point as u64)
    }

    fn in_turn(&self, turns: &Sequence) -> &Member {
        if self.round.is_empty() {
            // Weights that make rounds too long.
            return self.spread(turns);
        }
        let turn = turns.turn() % self.round.len() as u64;
        &self.members[usize::from(self.round[turn as usize])]
    }

    /// Weighted rendezvous hashing: every endpoint bids for the request, the highest score whose
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
            let score = score(hash, endpoint.seed, f64::from(member.weight));
            if best_of_all.is_none_or(|(highest, _)| score > highest) {
                best_of_all = Some((score, member));
            }
            let room = (per_weight * f64::from(member.weight)).ceil();
            if f64::from(endpoint.in_flight()) < room
                && best.is_none_or(|(highest, _)| score > highest)
            {
                best = Some((score, member));
            }
        }
        best.or(best_of_all)
            .map_or(&members[0], |(_, member)| member)
    }
}

fn live<'a>(endpoints: &'a [EndpointView], member: &Member) -> &'a Endpoint {
    &endpoints[member.index()].live
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
    use std::time::Duration;

    use crate::pool::view::tests::endpoints;
    use portolan_config::plan::HashProperty;

    /// A pool of endpoints with these weights, and what a choice depends on.
    struct Bench {
        balance: BalancePlan,
        endpoints: Vec<EndpointView>,
        selector: Selector,
        turns: Sequence,
        deficits: Deficits,
        random: fastrand::Rng,
        now: Tick,
    }

    impl Bench {
        fn new(weights: &[u32], balance: BalancePlan) -> Self {
            Self {
                endpoints: endpoints(weights),
                selector: Selector::new(weights.iter().copied().enumerate(), &balance),
                turns: Sequence::default(),
                deficits: Deficits::new(weights.len(), &balance),
                random: fastrand::Rng::with_seed(7),
                now: Tick::ZERO,
                balance,
            }
        }

        fn pick(&mut self) -> Option<usize> {
            self.pick_with(None, &[])
        }

        fn pick_with(&mut self, hash: Option<u64>, excluded: &[usize]) -> Option<usize> {
            let mut wish = Criteria {
                hash,
                excluded,
                random: &mut self.random,
                now: self.now,
            };
            self.selector.pick(
                &self.balance,
                &self.endpoints,
                &self.turns,
                &self.deficits,
                &mut wish,
            )
        }

        /// How often each is picked, one request at a time; each takes so long there.
        fn counts(&mut self, requests: usize, milliseconds: &[u64]) -> Vec<usize> {
            let mut counts = vec![0; self.endpoints.len()];
            for _ in 0..requests {
                let picked = self.pick().unwrap();
                counts[picked] += 1;
                let live = &self.endpoints[picked].live;
                live.begin();
                let took = Duration::from_millis(milliseconds[picked]);
                self.now = self.now + took;
                live.observe_answer(took, self.now);
                live.end();
            }
            counts
        }

        fn busy(&self, endpoint: usize, requests: u32) {
            for _ in 0..requests {
                self.endpoints[endpoint].live.begin();
            }
        }

        fn idle(&self, endpoint: usize, requests: u32) {
            for _ in 0..requests {
                self.endpoints[endpoint].live.end();
            }
        }
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
        for balance in [BalancePlan::Random, BalancePlan::RoundRobin] {
            let seen = Bench::new(&[3, 1, 0, 4], balance).counts(16_000, &[1; 4]);
            about(&seen, &[0.375, 0.125, 0.0, 0.5], 0.02);
        }
        let mut hashing = Bench::new(&[3, 1, 0, 4], BalancePlan::Hash(HashProperty::Path));
        let mut seen = [0; 4];
        for n in 0..16_000 {
            seen[hashing.pick_with(Some(n * 0x9E37_79B9), &[]).unwrap()] += 1;
        }
        about(&seen, &[0.375, 0.125, 0.0, 0.5], 0.02);
        let mut only = Bench::new(&[0, 5], BalancePlan::LeastRequests);
        assert_eq!(only.counts(10, &[1; 2]), [0, 10]);
    }

    #[test]
    fn one_request_at_a_time_goes_by_weight() {
        for balance in [BalancePlan::LeastRequests, BalancePlan::Fastest] {
            for weights in [
                &[10, 9][..],
                &[1, 1],
                &[4, 2, 1],
                &[100, 1],
                &[1_000, 1_000, 1_000, 50],
                &[1; 16],
            ] {
                let mut bench = Bench::new(weights, balance.clone());
                let seen = bench.counts(2_000, &[7; 16]);
                let total: u32 = weights.iter().sum();
                for (seen, weight) in seen.iter().zip(weights) {
                    let expected = 2_000.0 * f64::from(*weight) / f64::from(total);
                    // Draws that spread evenly are off by a few, never by a few in a hundred.
                    let off = (*seen as f64 - expected).abs();
                    assert!(off <= 6.0, "{balance:?} {weights:?}: {seen} for {expected}");
                }
            }
        }
    }

    #[test]
    fn turns_are_smooth() {
        let mut bench = Bench::new(&[5, 1, 1], BalancePlan::RoundRobin);
        let round: Vec<usize> = (0..7).map(|_| bench.pick().unwrap()).collect();
        assert_eq!(round, [0, 0, 1, 0, 2, 0, 0]);
        // Too long a round is spread without a plan, and still exact.
        let mut long = Bench::new(&[1_000_000, 999_999, 7], BalancePlan::RoundRobin);
        about(&long.counts(1_000, &[1; 3]), &[0.5, 0.5, 0.0], 0.01);
    }

    #[test]
    fn the_less_busy_of_two_is_taken() {
        let mut bench = Bench::new(&[1, 1], BalancePlan::LeastRequests);
        bench.busy(0, 10);
        for _ in 0..100 {
            assert_eq!(bench.pick(), Some(1));
        }
        // Thirty times the weight bears thirty times the load.
        let mut heavy = Bench::new(&[30, 1], BalancePlan::LeastRequests);
        heavy.busy(0, 10);
        heavy.busy(1, 1);
        for _ in 0..100 {
            assert_eq!(heavy.pick(), Some(0));
        }
        heavy.busy(0, 90);
        for _ in 0..100 {
            assert_eq!(heavy.pick(), Some(1), "a hundred are too many");
        }
    }

    #[test]
    fn what_a_busy_endpoint_misses_it_gets_once_it_is_idle_and_no_more_than_so_much() {
        let mut bench = Bench::new(&[1, 1], BalancePlan::LeastRequests);
        bench.busy(0, 1);
        for _ in 0..20 {
            assert_eq!(bench.pick(), Some(1), "one by one, all are answered there");
        }
        bench.idle(0, 1);
        let seen = bench.counts(40, &[1; 2]);
        assert!((29..=31).contains(&seen[0]), "its half, and ten: {seen:?}");
        // After however long a time.
        bench.busy(0, 1);
        for _ in 0..100_000 {
            assert_eq!(bench.pick(), Some(1));
        }
        bench.idle(0, 1);
        let seen = bench.counts(1_000, &[1; 2]);
        assert!((500..=535).contains(&seen[0]), "{seen:?}");
        about(&bench.counts(1_000, &[1; 2]), &[0.5, 0.5], 0.005);
    }

    #[test]
    fn the_faster_of_two_is_taken() {
        for (milliseconds, faster) in [([1_000, 100], 1), ([100, 1_000], 0)] {
            let mut bench = Bench::new(&[1, 1], BalancePlan::Fastest);
            let first = bench.counts(4, &milliseconds);
            assert!(first.iter().all(|seen| *seen > 0), "both are tried");
            let seen = bench.counts(50, &milliseconds);
            assert_eq!(seen[faster], 50, "{seen:?}");
        }
        // A little slower is not slower.
        let mut alike = Bench::new(&[1, 1], BalancePlan::Fastest);
        about(&alike.counts(1_000, &[10, 12]), &[0.5, 0.5], 0.005);
        // Who was slow is tried again now and then, and comes back when it is as fast as before.
        let mut bench = Bench::new(&[1, 1], BalancePlan::Fastest);
        bench.counts(4, &[1_000, 100]);
        let seen = bench.counts(5_000, &[1_000, 100]);
        assert!((1..100).contains(&seen[0]), "{seen:?}");
        bench.counts(500, &[100, 100]);
        about(&bench.counts(1_000, &[100, 100]), &[0.5, 0.5], 0.05);
    }

    #[test]
    fn hashed_requests_stay_unless_their_endpoint_goes_or_is_overloaded() {
        let balance = BalancePlan::Hash(HashProperty::ClientIp);
        let mut all = Bench::new(&[1; 10], balance.clone());
        let mut fewer = Bench::new(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 0], balance);
        for hash in 0..2_000u64 {
            let hash = Some(hash.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let before = all.pick_with(hash, &[]);
            if before != Some(9) {
                assert_eq!(
                    fewer.pick_with(hash, &[]),
                    before,
                    "only those of the one that went move"
                );
            }
        }
        let home = all.pick_with(Some(42), &[]);
        all.busy(home.unwrap(), 100);
        assert_ne!(all.pick_with(Some(42), &[]), home, "it has all the load");
    }

    #[test]
    fn those_that_failed_are_left_out_and_the_others_have_their_shares() {
        for balance in [
            BalancePlan::LeastRequests,
            BalancePlan::RoundRobin,
            BalancePlan::Random,
            BalancePlan::Fastest,
        ] {
            let mut bench = Bench::new(&[1, 1, 1], balance.clone());
            assert_eq!(bench.pick_with(None, &[0, 2]), Some(1));
            assert_eq!(bench.pick_with(None, &[0, 1, 2]), None);
            // As when an endpoint of which nothing good is known is passed over for long.
            let mut seen = [0; 3];
            for _ in 0..6_000 {
                let first = bench.pick().unwrap();
                let taken = match first {
                    0 => bench.pick_with(None, &[0]).unwrap(),
                    other => other,
                };
                seen[taken] += 1;
            }
            about(&seen, &[0.0, 0.5, 0.5], 0.03);
        }
    }
}
