//! A pool as a request sees it: who can serve, and how much of its traffic the pool can take.

use std::sync::Arc;

use portolan_config::plan::PoolPlan;

use crate::balance::{Selector, Wish};
use crate::dial::Dial;
use crate::endpoint::Endpoint;
use crate::health::{Health, Verdict};
use crate::steering::{Basis, Sequence};

/// An endpoint of a pool, at one moment.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Its counts and averages, which live on.
    pub live: Arc<Endpoint>,
    /// What is prepared for connections to it.
    pub dial: Dial,
    /// How much of the pool's traffic it gets.
    pub weight: u32,
    /// Serves only when no other can.
    pub backup: bool,
    /// The name it was found under, if it was.
    pub name: Option<Arc<str>>,
    /// Its health.
    pub health: Health,
}

/// A pool, at one moment.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// What the configuration says about it.
    pub plan: Arc<PoolPlan>,
    /// Every address it has now, in the order written.
    pub endpoints: Vec<EndpointView>,
    /// How much of its traffic it can take: 0 to 1.
    pub availability: f64,
    /// The same if `min_healthy` did not count.
    pub partial: f64,
    /// How many endpoints are healthy, of those that count now.
    pub healthy: usize,
    /// How many count now.
    pub counted: usize,
    /// Whether enough is known to send it traffic or to know that one must not.
    pub judged: bool,
    /// Those that can serve: healthy primaries, or else healthy backups.
    serving: Selector,
    /// Everybody, as if all were healthy.
    everyone: Selector,
    turns: Arc<Sequence>,
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
        let sums = Sums::of(&endpoints);
        let enough = sums.healthy > 0 && sums.healthy >= plan.min_healthy.of(sums.counted);
        let partial = if plan.drain || sums.total_weight == 0 {
            0.0
        } else {
            (plan.overprovision * sums.healthy_weight as f64 / sums.total_weight as f64).min(1.0)
        };
        let availability = if enough { partial } else { 0.0 };
        // Of nobody, too: when its names were answered for and lead nowhere, the pool is down, and
        // there is nothing to wait for.
        let known = endpoints
            .iter()
            .all(|endpoint| endpoint.health.verdict != Verdict::Unknown);
        let select = |wanted: &dyn Fn(&EndpointView) -> bool| {
            let members = endpoints
                .iter()
                .enumerate()
                .filter(|(_, endpoint)| wanted(endpoint));
            Selector::new(
                members.map(|(at, endpoint)| (at, endpoint.weight)),
                &plan.balance,
            )
        };
        let backups = sums.backups_serve;
        let serving = select(&|e| e.backup == backups && e.health.verdict == Verdict::Healthy);
        let only_backups = endpoints.iter().all(|endpoint| endpoint.backup);
        let everyone = select(&|endpoint| !endpoint.backup || only_backups);
        Self {
            judged: plan.drain || availability > 0.0 || (known && resolved),
            plan,
            endpoints,
            availability,
            partial,
            healthy: sums.healthy,
            counted: sums.counted,
            serving,
            everyone,
            turns,
        }
    }

    /// The index of the endpoint that gets a request sent here on this basis.
    pub fn pick(&self, basis: Basis, wish: &mut Wish<'_>) -> Option<usize> {
        let selector = match basis {
            Basis::Health | Basis::HealthyEndpoints => &self.serving,
            Basis::EveryEndpoint => &self.everyone,
        };
        selector.pick(&self.plan.balance, &self.endpoints, &self.turns, wish)
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

/// The sums that availability is made of.
struct Sums {
    healthy: usize,
    counted: usize,
    healthy_weight: u64,
    total_weight: u64,
    /// No primary can serve, so the backups count.
    backups_serve: bool,
}

impl Sums {
    fn of(endpoints: &[EndpointView]) -> Self {
        let serves = |endpoint: &EndpointView| {
            endpoint.health.verdict == Verdict::Healthy && endpoint.weight > 0
        };
        let backups_serve = !endpoints.iter().any(|e| !e.backup && serves(e));
        let counts = |e: &&EndpointView| e.weight > 0 && (!e.backup || backups_serve);
        // An endpoint that nothing is known of says nothing about the others, as long as there are
        // others of which something is known.
        let any_verdict = endpoints
            .iter()
            .filter(counts)
            .any(|e| e.health.verdict != Verdict::Unknown);
        let mut sums = Self {
            healthy: 0,
            counted: 0,
            healthy_weight: 0,
            total_weight: 0,
            backups_serve,
        };
        for endpoint in endpoints.iter().filter(counts) {
            if endpoint.health.verdict == Verdict::Unknown && any_verdict {
                continue;
            }
            sums.counted += 1;
            sums.total_weight += u64::from(endpoint.weight);
            if serves(endpoint) {
                sums.healthy += 1;
                sums.healthy_weight += u64::from(endpoint.weight);
            }
        }
        sums
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::clock::Tick;
    use crate::endpoint::EndpointKey;
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
            backup,
            name: None,
            health,
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

    /// A pool of endpoints told as letters: healthy, unhealthy (`-`), unknown (`?`); capitals and
    /// `=` and `!` are the same for backups.
    fn pool(extra: &str, letters: &str) -> PoolView {
        let plan = plan(extra);
        let endpoints = letters
            .chars()
            .enumerate()
            .map(|(at, letter)| {
                let (verdict, backup) = match letter {
                    'h' => (Verdict::Healthy, false),
                    '-' => (Verdict::Unhealthy, false),
                    '?' => (Verdict::Unknown, false),
                    'H' => (Verdict::Healthy, true),
                    '=' => (Verdict::Unhealthy, true),
                    other => panic!("{other}"),
                };
                endpoint(&plan, at, 1, backup, verdict)
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
            let mut wish = Wish {
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
}
