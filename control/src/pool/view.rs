//! A pool as a request sees it: who can serve, and how much of its traffic the pool can take.

use std::net::SocketAddr;
use std::sync::Arc;

use portolan_config::plan::PoolPlan;
use smallvec::SmallVec;

use crate::health::outlier::EjectionState;
use crate::health::verdict::Verdict;
use crate::pool::balance::{Criteria, Deficits, Selector};
use crate::pool::endpoint_view::{Ejected, EndpointView};
use crate::steering::{Basis, Sequence};

/// A pool, at one moment.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// What the configuration says about it.
    pub plan: Arc<PoolPlan>,
    /// Every address it has now, in the order written.
    pub endpoints: Vec<EndpointView>,
    /// How much of its traffic it can take: 0 to 1.
    pub availability: f64,
    /// The same if probes alone decided.
    pub probed: f64,
    /// The same if `min_healthy` did not count, either.
    pub partial: f64,
    /// How much of its traffic it may take in a slow start: up to 1.
    pub ramp: f64,
    /// What it was before this instance began to suspect itself; 0 while it does not.
    pub held: f64,
    /// It is one of those that failed together.
    pub fell: bool,
    /// How many endpoints are healthy, of those that count now.
    pub healthy: usize,
    /// How many count now.
    pub counted: usize,
    /// How many are ejected.
    pub ejected: usize,
    /// Whether enough is known to send it traffic or to know that one must not.
    pub judged: bool,
    /// Those that can serve: healthy primaries, or else healthy backups.
    serving: Selector,
    /// Those that serve where nobody else does: of the healthy ones, as few as may be are left out.
    kept: Selector,
    /// Those that served before this instance began to suspect itself.
    before: Selector,
    /// Everybody, as if all were healthy.
    everyone: Selector,
    turns: Arc<Sequence>,
    /// What its endpoints have missed of their shares.
    deficits: Deficits,
}

impl PoolView {
    /// The pool with these endpoints. `resolved`: every name has been answered for at least once.
    /// `turns` lives on when the view is made anew.
    pub fn new(
        plan: Arc<PoolPlan>,
        endpoints: Vec<EndpointView>,
        resolved: bool,
        turns: Arc<Sequence>,
    ) -> Self {
        let ejected = Ejected::of(&plan, &endpoints);
        let sums = Sums::of(&endpoints, &EndpointView::serves);
        let by_probes = Sums::of(&endpoints, &EndpointView::is_healthy);
        let availability = if ejected.too_many {
            0.0
        } else {
            sums.availability(&plan)
        };
        let probed = by_probes.availability(&plan);
        let partial = by_probes.partial(&plan);
        // Of nobody, too: when its names were answered for and lead nowhere, the pool is down, and
        // there is nothing to wait for.
        let known = endpoints
            .iter()
            .all(|endpoint| endpoint.health.verdict != Verdict::Unknown);
        let select = |wanted: &dyn Fn(&EndpointView) -> bool| {
            selector(&plan, &endpoints, &|_, endpoint| wanted(endpoint))
        };
        let backups = sums.backups_serve;
        let serving = select(&|e| e.backup == backups && e.serves());
        let backups = by_probes.backups_serve;
        let kept = selector(&plan, &endpoints, &|at, e| {
            e.backup == backups && e.is_healthy() && !ejected.left_out.contains(&at)
        });
        let kept = if kept.is_empty() {
            select(&|e| e.backup == backups && e.is_healthy())
        } else {
            kept
        };
        let only_backups = endpoints.iter().all(|endpoint| endpoint.backup);
        let everyone = select(&|endpoint| !endpoint.backup || only_backups);
        Self {
            judged: plan.drain || availability > 0.0 || (known && resolved),
            deficits: Deficits::new(endpoints.len(), &plan.balance),
            plan,
            endpoints,
            availability,
            probed,
            partial,
            ramp: 1.0,
            held: 0.0,
            fell: false,
            healthy: sums.healthy,
            counted: sums.counted,
            ejected: ejected.count,
            serving,
            kept,
            before: Selector::default(),
            everyone,
            turns,
        }
    }

    /// The same while it comes back slowly: it takes no more than this part.
    #[must_use]
    pub fn ramped(mut self, part: f64) -> Self {
        self.availability = self.availability.min(part);
        self.ramp = part;
        self
    }

    /// The same while this instance suspects itself. What was before: how much it could take, and
    /// who served. `fell`: it is one of those that failed together.
    #[must_use]
    pub fn holding(mut self, availability: f64, served: &[SocketAddr], fell: bool) -> Self {
        self.before = selector(&self.plan, &self.endpoints, &|_, endpoint| {
            served.contains(&endpoint.live.key.address)
        });
        if !self.plan.drain && !self.before.is_empty() {
            self.held = availability;
        }
        self.fell = fell;
        self
    }

    /// The addresses of those that serve, or would if probes alone decided.
    pub fn served_by(&self) -> impl Iterator<Item = SocketAddr> {
        let selector = if self.availability > 0.0 {
            &self.serving
        } else {
            &self.kept
        };
        selector
            .members()
            .map(|at| self.endpoints[at].live.key.address)
    }

    /// The index of the endpoint that gets a request sent here on this basis.
    pub fn pick(&self, basis: Basis, wish: &mut Criteria<'_>) -> Option<usize> {
        self.selector(basis).pick(
            &self.plan.balance,
            &self.endpoints,
            &self.turns,
            &self.deficits,
            wish,
        )
    }

    /// Whether an endpoint, by its index, can get requests sent here on this basis.
    pub fn serves(&self, basis: Basis, endpoint: usize) -> bool {
        self.selector(basis).contains(endpoint)
    }

    /// The index of the endpoint where a client's key is at home, of those that can get requests
    /// sent here on this basis.
    pub fn owner(&self, basis: Basis, key: u64, excluded: &[usize]) -> Option<usize> {
        let selector = self.selector(basis);
        selector.owner(key, &self.endpoints, excluded)
    }

    fn selector(&self, basis: Basis) -> &Selector {
        match basis {
            Basis::Health => &self.serving,
            Basis::Probed | Basis::HealthyEndpoints => &self.kept,
            Basis::Held => &self.before,
            Basis::EveryEndpoint => &self.everyone,
        }
    }

    /// Whether it could serve if every endpoint were healthy.
    pub fn could_serve(&self) -> bool {
        !self.plan.drain && !self.everyone.is_empty()
    }

    /// Requests that its endpoints are answering now.
    pub fn in_flight(&self) -> u64 {
        self.endpoints
            .iter()
            .map(|endpoint| u64::from(endpoint.live.in_flight()))
            .sum()
    }

    /// What lives on when the view is made anew.
    pub fn turns(&self) -> Arc<Sequence> {
        self.turns.clone()
    }
}

/// While somebody gets only a part of its weight, weights are counted in thousandths.
const FINE: f64 = 1000.0;

/// A selector over some of the endpoints, by their weights as they are now.
fn selector(
    plan: &PoolPlan,
    endpoints: &[EndpointView],
    wanted: &dyn Fn(usize, &EndpointView) -> bool,
) -> Selector {
    let members: SmallVec<[(usize, &EndpointView); 16]> = endpoints
        .iter()
        .enumerate()
        .filter(|(at, endpoint)| wanted(*at, endpoint))
        .collect();
    let whole = members.iter().all(|(_, endpoint)| endpoint.part() >= 1.0);
    let weight = |endpoint: &EndpointView| {
        if whole || endpoint.weight == 0 {
            endpoint.weight
        } else {
            (f64::from(endpoint.weight) * endpoint.part() * FINE).max(1.0) as u32
        }
    };
    Selector::new(
        members.iter().map(|(at, endpoint)| (*at, weight(endpoint))),
        &plan.balance,
    )
}

/// The sums that availability is made of.
struct Sums {
    healthy: usize,
    counted: usize,
    /// Healthy ones that are not counted: they leave, and those that come in their place are counted.
    leaving: usize,
    healthy_weight: f64,
    /// The part of their weight that endpoints on trial may be asked.
    tried_weight: f64,
    total_weight: f64,
    /// No primary can serve, so the backups count.
    backups_serve: bool,
}

impl Sums {
    fn of(endpoints: &[EndpointView], serves: &dyn Fn(&EndpointView) -> bool) -> Self {
        let serves = |endpoint: &EndpointView| serves(endpoint) && endpoint.weight > 0;
        let backups_serve = !endpoints.iter().any(|e| !e.backup && serves(e));
        let counts = |e: &&EndpointView| e.weight > 0 && (!e.backup || backups_serve);
        // An endpoint that nothing is known of says nothing about the others, as long as there are
        // others of which something is known.
        let any_verdict = endpoints
            .iter()
            .filter(counts)
            .any(|e| e.health.verdict != Verdict::Unknown);
        // One that leaves is no part of the whole as soon as something is known of those that stay.
        let any_stays = endpoints
            .iter()
            .filter(counts)
            .any(|e| !e.leaving && e.health.verdict != Verdict::Unknown);
        let mut sums = Self {
            healthy: 0,
            counted: 0,
            leaving: 0,
            healthy_weight: 0.0,
            tried_weight: 0.0,
            total_weight: 0.0,
            backups_serve,
        };
        for endpoint in endpoints.iter().filter(counts) {
            if endpoint.health.verdict == Verdict::Unknown && any_verdict {
                continue;
            }
            if endpoint.leaving && any_stays {
                if serves(endpoint) {
                    sums.leaving += 1;
                    sums.healthy_weight += f64::from(endpoint.weight) * endpoint.part();
                }
                continue;
            }
            sums.counted += 1;
            sums.total_weight += f64::from(endpoint.weight);
            if serves(endpoint) {
                sums.healthy += 1;
                let weight = f64::from(endpoint.weight) * endpoint.part();
                match endpoint.standing {
                    EjectionState::HalfOpen { .. } => sums.tried_weight += weight,
                    EjectionState::Free | EjectionState::Ejected { .. } => {
                        sums.healthy_weight += weight;
                    }
                }
            }
        }
        sums
    }

    /// How much of its traffic the pool can take.
    fn availability(&self, plan: &PoolPlan) -> f64 {
        let healthy = self.healthy + self.leaving;
        if healthy > 0 && healthy >= plan.min_healthy.of(self.counted) {
            self.partial(plan)
        } else {
            0.0
        }
    }

    /// The same if `min_healthy` did not count.
    fn partial(&self, plan: &PoolPlan) -> f64 {
        if plan.drain || self.total_weight == 0.0 {
            0.0
        } else {
            // Who is on trial carries no more than its part, however much others could.
            let carried = plan.overprovision * self.healthy_weight + self.tried_weight;
            (carried / self.total_weight).min(1.0)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::Tick;
    use crate::health::outlier::EjectionReason;
    use crate::health::outlier::fault::EndpointFault;
    use crate::health::verdict::Health;
    use crate::pool::dial::Dial;
    use crate::pool::endpoint::Endpoint;
    use crate::pool::endpoint::EndpointKey;
    use portolan_config::{Machine, check_text};

    /// Healthy endpoints with these weights.
    pub(crate) fn endpoints(weights: &[u32]) -> Vec<EndpointView> {
        let plan = plan("");
        weights
            .iter()
            .enumerate()
            .map(|(at, weight)| endpoint(&plan, at, *weight, false, Verdict::Healthy))
            .collect()
    }

    fn endpoint(
        plan: &PoolPlan,
        at: usize,
        weight: u32,
        backup: bool,
        verdict: Verdict,
    ) -> EndpointView {
        let mut health = Health::unknown(Tick::ZERO);
        health.verdict = verdict;
        EndpointView {
            live: Arc::new(Endpoint::new(EndpointKey {
                pool: plan.name.clone(),
                address: format!("10.0.0.{}:80", at + 1).parse().unwrap(),
            })),
            dial: Dial::new(()),
            weight,
            drained: None,
            backup,
            name: None,
            health,
            standing: EjectionState::Free,
            ramp: 1.0,
            leaving: false,
        }
    }

    fn plan(extra: &str) -> Arc<PoolPlan> {
        let text = format!(
            "listeners: [ {{ bind: '127.0.0.1:0' }} ]
pools: {{ p: {{ endpoints: [ '10.0.0.1:80' ], {extra} }} }}
routes: [ {{ to: p }} ]"
        );
        let checked = check_text("t.yaml", text, &Machine::default());
        checked.plan.unwrap().pools[0].clone()
    }

    /// A pool of endpoints told as letters: healthy, unhealthy (`-`), unknown (`?`), ejected (`x`), on
    /// trial (`t`), and healthy and leaving (`l`); capitals and `=` are the same for backups.
    fn pool(extra: &str, letters: &str) -> PoolView {
        let plan = plan(extra);
        let endpoints = letters
            .chars()
            .enumerate()
            .map(|(at, letter)| {
                let (verdict, backup) = match letter {
                    'h' | 'x' | 't' | 'l' => (Verdict::Healthy, false),
                    '-' => (Verdict::Unhealthy, false),
                    '?' => (Verdict::Unknown, false),
                    'H' | 'X' => (Verdict::Healthy, true),
                    '=' => (Verdict::Unhealthy, true),
                    other => panic!("{other}"),
                };
                let mut endpoint = endpoint(&plan, at, 1, backup, verdict);
                endpoint.leaving = letter == 'l';
                let since = Tick::after(std::time::Duration::from_secs(at as u64));
                let (until, reason) = (since, EjectionReason::Run(3, EndpointFault::Connect));
                endpoint.standing = match letter.to_ascii_lowercase() {
                    'x' => EjectionState::Ejected {
                        since,
                        until,
                        reason,
                    },
                    't' => EjectionState::HalfOpen {
                        since,
                        until,
                        reason,
                    },
                    _ => EjectionState::Free,
                };
                endpoint
            })
            .collect();
        PoolView::new(plan, endpoints, true, Arc::default())
    }

    fn close(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() < 1e-9,
            "{actual} is not {expected}"
        );
    }

    #[test]
    fn availability_is_overprovisioned_health() {
        close(pool("", "hhhh").availability, 1.0);
        close(pool("", "hhh-").availability, 1.0);
        close(pool("", "hh--").availability, 0.7);
        close(pool("", "h---").availability, 0.35);
        close(pool("", "----").availability, 0.0);
        close(pool("overprovision: 1.0", "hh--").availability, 0.5);
    }

    #[test]
    fn those_that_leave_help_and_are_not_missed() {
        close(pool("", "l??").availability, 1.0);
        close(pool("", "l-").availability, 1.0);
        close(pool("", "l----").availability, 0.35);
        close(pool("", "lh-?").availability, 1.0);
        let many = pool("min_healthy: 100%", "llh-");
        close(many.availability, 1.0);
        assert_eq!((many.healthy, many.counted), (1, 2));
        close(pool("min_healthy: 100%", "lh--").availability, 0.0);
        close(pool("min_healthy: 100%", "l-").availability, 1.0);
        // They serve like the others.
        let mut served: Vec<_> = pool("", "lh?").served_by().collect();
        served.sort_unstable();
        assert_eq!(served.len(), 2);
    }

    #[test]
    fn unknown_endpoints_say_nothing_about_the_others() {
        close(pool("", "h???").availability, 1.0);
        close(pool("", "h-??").availability, 0.7);
        close(pool("", "????").availability, 0.0);
    }

    #[test]
    fn fewer_than_min_healthy_is_down() {
        let pool_down = pool("min_healthy: 50%", "h---");
        close(pool_down.availability, 0.0);
        close(pool_down.partial, 0.35);
        close(pool("min_healthy: 50%", "hh--").availability, 0.7);
    }

    #[test]
    fn backups_count_only_when_no_primary_can_serve() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut pick = |pool: &PoolView, basis| {
            let mut wish = Criteria {
                hash: None,
                excluded: &[],
                random: &mut random,
                now: Tick::ZERO,
            };
            pool.pick(basis, &mut wish)
        };
        let primary = pool("", "h-H");
        close(primary.availability, 0.7);
        assert_eq!(pick(&primary, Basis::Health), Some(0));
        let backup = pool("", "--H");
        close(backup.availability, 1.4 / 3.0);
        assert_eq!(pick(&backup, Basis::Health), Some(2));
        let nobody = pool("", "-=");
        close(nobody.availability, 0.0);
        assert_eq!(pick(&nobody, Basis::Health), None);
        assert_eq!(pick(&nobody, Basis::EveryEndpoint), Some(0));
        assert_eq!(pick(&pool("", "="), Basis::EveryEndpoint), Some(0));
    }

    #[test]
    fn drained_takes_nothing_and_is_judged() {
        let drained = pool("drain: true", "hh");
        close(drained.availability, 0.0);
        assert!(drained.judged && !drained.could_serve());
    }

    #[test]
    fn judged_when_it_can_serve_or_all_have_a_verdict() {
        assert!(pool("", "h?").judged);
        assert!(!pool("", "-?").judged);
        assert!(pool("", "--").judged);
        assert!(!pool("", "??").judged);
        assert!(pool("", "").judged, "names that lead nowhere");
        let unanswered = PoolView::new(plan(""), Vec::new(), false, Arc::default());
        assert!(!unanswered.judged);
    }

    /// Who gets requests on this basis.
    fn picked(pool: &PoolView, basis: Basis) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut seen: Vec<usize> = (0..500)
            .filter_map(|_| {
                pool.pick(
                    basis,
                    &mut Criteria {
                        hash: None,
                        excluded: &[],
                        random: &mut random,
                        now: Tick::ZERO,
                    },
                )
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn ejected_endpoints_count_as_not_healthy() {
        let one = pool("", "hhxh");
        close(one.availability, 1.0);
        assert_eq!(picked(&one, Basis::Health), [0, 1, 3]);
        close(pool("", "hxxh").availability, 0.7);
        assert_eq!((one.healthy, one.counted, one.ejected), (3, 4, 1));
        assert_eq!(one.endpoints[2].state(), "ejected");
        let backed = pool("", "xH");
        close(backed.availability, 0.7);
        assert_eq!(picked(&backed, Basis::Health), [1]);
    }

    #[test]
    fn with_more_ejected_than_allowed_the_pool_is_down_and_serves_where_nobody_else_does() {
        let most = pool("", "xhxx");
        close(most.availability, 0.0);
        close(most.probed, 1.0);
        // Two of four may be left out: those that failed first.
        assert_eq!(picked(&most, Basis::Probed), [1, 3]);
        // One may always be ejected, and then probes decide.
        let alone = pool("", "x");
        close(alone.availability, 0.0);
        close(alone.probed, 1.0);
        assert_eq!(picked(&alone, Basis::Probed), [0]);
        assert_eq!(picked(&pool("", "x-"), Basis::Probed), [0]);
        let strict = pool("outlier: { max_ejected: 0% }", "xxhh");
        close(strict.availability, 0.0);
        assert_eq!(picked(&strict, Basis::Probed), [1, 2, 3]);
        close(
            pool("outlier: { max_ejected: 100% }", "xxxh").availability,
            0.35,
        );
    }

    #[test]
    fn one_on_trial_gets_a_trickle() {
        let pool_back = pool("", "t");
        close(pool_back.availability, 0.05);
        // Of 21 requests one, however little there is to do.
        for balance in ["least_requests", "fastest", "random", "round_robin"] {
            let peers = pool(&format!("balance: {balance}"), "ht");
            let hits = hits(&peers, 1);
            assert!(
                (400..550).contains(&hits),
                "{balance}: {hits} is not 1 in 21"
            );
        }
    }

    #[test]
    fn one_that_starts_slowly_gets_its_part_however_little_there_is_to_do() {
        for (ramp, expected) in [(0.1, 909), (0.55, 3_548), (0.955, 4_885)] {
            let mut peers = pool("", "hh");
            peers.endpoints[1].ramp = ramp;
            let slow = PoolView::new(peers.plan, peers.endpoints, true, Arc::default());
            let hits = hits(&slow, 1);
            assert!(
                hits.abs_diff(expected) < 10,
                "{ramp}: {hits} for {expected}"
            );
        }
    }

    /// How many of 10,000 requests, one at a time, an endpoint gets.
    fn hits(pool: &PoolView, endpoint: usize) -> usize {
        let mut random = fastrand::Rng::with_seed(1);
        let requests = (0..10_000).filter(|_| {
            let mut wish = Criteria {
                hash: None,
                excluded: &[],
                random: &mut random,
                now: Tick::ZERO,
            };
            pool.pick(Basis::Health, &mut wish) == Some(endpoint)
        });
        requests.count()
    }

    #[test]
    fn a_pool_that_comes_back_takes_no_more_than_its_ramp() {
        close(pool("", "hh").ramped(0.1).availability, 0.1);
        close(pool("", "h---").ramped(0.5).availability, 0.35);
        let held = pool("", "--").holding(0.7, &["10.0.0.2:80".parse().unwrap()], true);
        close(held.held, 0.7);
        assert_eq!(picked(&held, Basis::Held), [1]);
        let gone = pool("", "--").holding(0.7, &["10.9.9.9:80".parse().unwrap()], true);
        close(gone.held, 0.0);
        let drained =
            pool("drain: true", "--").holding(0.7, &["10.0.0.2:80".parse().unwrap()], true);
        close(drained.held, 0.0);
    }
}
