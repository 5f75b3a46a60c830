//! Overrides: what operators decided while it runs, beside the configuration.
//!
//! Each has an owner, a reason and a lease: it ends by itself. Overrides belong to names (a pool's,
//! an endpoint's address in it, a service's), not to a configuration, so they stay through every
//! reload, also one that takes their subject away and another that brings it back. This file
//! decides, purely; [the task beside it](crate::background::overrides) keeps the file in `state_dir`, the lease's time, and tells the
//! engine; [`weights`] says which weights fit which service; [`audit`] remembers who did what.

pub mod audit;
pub(crate) mod calendar;
pub mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::names::Name;
use portolan_config::scalar::FromScalar as _;
use serde::{Deserialize, Serialize};

use self::calendar::Shift;
use self::weights::{Weights, WeightsOf};
use crate::pool::endpoint::EndpointKey;

/// How long an override holds if nobody says.
pub const USUAL_LEASE: Duration = Duration::from_secs(3600);

/// The longest lease: what is to last longer belongs into the configuration.
pub const LONGEST_LEASE: Duration = Duration::from_secs(30 * 86_400);

/// The longest reason, in characters.
pub(crate) const LONGEST_REASON: usize = 500;

/// What is overridden. There is one kind of override for each kind of subject: pools and endpoints
/// are drained, services have other weights.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A pool as a whole.
    Pool(Name),
    /// One endpoint of a pool.
    Endpoint(EndpointKey),
    /// A service.
    Service(Name),
}

impl Subject {
    /// The pool, if it is about one.
    pub fn pool(&self) -> Option<&Name> {
        match self {
            Self::Pool(pool) => Some(pool),
            Self::Endpoint(key) => Some(&key.pool),
            Self::Service(_) => None,
        }
    }

    /// The endpoint, if it is about one.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        match self {
            Self::Endpoint(key) => Some(key.address),
            Self::Pool(_) | Self::Service(_) => None,
        }
    }

    /// The service, if it is about one.
    pub fn service(&self) -> Option<&Name> {
        match self {
            Self::Service(service) => Some(service),
            Self::Pool(_) | Self::Endpoint(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool(pool) => write!(f, "pool {pool}"),
            Self::Endpoint(key) => write!(f, "endpoint {key}"),
            Self::Service(service) => write!(f, "service {service}"),
        }
    }
}

/// Who overrides, why, and for how long. Times are since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The name of the token, or `local` where no tokens are needed.
    pub by: Arc<str>,
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub since: Duration,
    /// Until when.
    pub until: Duration,
}

impl Lease {
    /// A lease that was kept while the calendar was set back must not last longer than it was to: it
    /// has begun by now, at the latest.
    fn begin_by(&mut self, now: Duration) {
        if self.since > now {
            self.until = now + self.until.saturating_sub(self.since);
            self.since = now;
        }
    }
}

/// Why somebody overrides: there is always a reason, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(Arc<str>);

impl Reason {
    /// Takes what somebody wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("an override needs a reason".to_owned());
        }
        if text.chars().count() > LONGEST_REASON {
            return Err(format!("a reason has at most {LONGEST_REASON} characters"));
        }
        if text.chars().any(char::is_control) {
            return Err("a reason is one line of text".to_owned());
        }
        Ok(Self(text.into()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is decided about a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideDecision {
    /// It gets no new request.
    Drain,
    /// Its split has these weights.
    Weights(Weights),
}

impl OverrideDecision {
    /// The word that users see.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Weights(_) => "weights",
        }
    }

    /// The weights, if it is about them.
    pub fn weights(&self) -> Option<&Weights> {
        match self {
            Self::Drain => None,
            Self::Weights(weights) => Some(weights),
        }
    }
}

/// A decision, and its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// What is decided.
    pub decision: OverrideDecision,
    /// By whom, why, and until when.
    pub lease: Lease,
}

/// Everything that is overridden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(BTreeMap<Subject, Override>);

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideEvent {
    /// Somebody overrides, or does so again with another lease.
    Set(Subject, Override),
    /// Somebody ends an override before its time.
    Ended {
        /// What is overridden.
        subject: Subject,
        /// Who ends it.
        by: Arc<str>,
        /// Why, if they say.
        reason: Option<Reason>,
    },
    /// What was kept is there again after a start.
    Restored(Overrides),
    /// Time has passed.
    Woken,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverrideChange {
    /// An override began, or is another one than before.
    Set {
        /// What is overridden.
        subject: Subject,
        /// How.
        now: Override,
        /// How it was before.
        before: Option<Override>,
    },
    /// Somebody ended an override.
    Ended {
        /// What was overridden.
        subject: Subject,
        /// How.
        before: Override,
        /// Who ended it.
        by: Arc<str>,
        /// Why, if they said.
        reason: Option<Reason>,
    },
    /// A lease is over.
    LeaseEnded {
        /// What was overridden.
        subject: Subject,
        /// How.
        before: Override,
    },
}

impl OverrideChange {
    /// What it is about.
    pub fn subject(&self) -> &Subject {
        match self {
            Self::Set { subject, .. }
            | Self::Ended { subject, .. }
            | Self::LeaseEnded { subject, .. } => subject,
        }
    }

    /// The word that users see.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Set { now, .. } => now.decision.kind(),
            Self::Ended { before, .. } => match before.decision {
                OverrideDecision::Drain => "undrain",
                OverrideDecision::Weights(_) => "weights_cleared",
            },
            Self::LeaseEnded { .. } => "lease_ended",
        }
    }

    /// Why, if somebody said.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Set { now, .. } => Some(now.lease.reason.as_str()),
            Self::Ended { reason, .. } => reason.as_ref().map(Reason::as_str),
            Self::LeaseEnded { .. } => Some("the lease is over"),
        }
    }
}

impl Overrides {
    /// What becomes of them when `event` happens at `now` (since 1970), and what changed by that.
    #[must_use]
    pub fn step(mut self, event: OverrideEvent, now: Duration) -> (Self, Vec<OverrideChange>) {
        let mut changes = Vec::new();
        match event {
            OverrideEvent::Set(subject, new) => {
                let before = self.0.insert(subject.clone(), new.clone());
                changes.push(OverrideChange::Set {
                    subject,
                    now: new,
                    before,
                });
            }
            OverrideEvent::Ended {
                subject,
                by,
                reason,
            } => {
                if let Some(before) = self.0.remove(&subject) {
                    changes.push(OverrideChange::Ended {
                        subject,
                        before,
                        by,
                        reason,
                    });
                }
            }
            OverrideEvent::Restored(mut kept) => {
                for it in kept.0.values_mut() {
                    it.lease.begin_by(now);
                }
                self.0.extend(kept.0);
            }
            OverrideEvent::Woken => {}
        }
        let over = self.0.extract_if(.., |_, it| it.lease.until <= now);
        changes
            .extend(over.map(|(subject, before)| OverrideChange::LeaseEnded { subject, before }));
        self.check_invariants(now);
        (self, changes)
    }

    /// The same when the calendar was set: what is left of the leases stays. One that is over is ended by
    /// the next step, like every other.
    #[must_use]
    pub(crate) fn moved(mut self, shift: Shift) -> Self {
        for it in self.0.values_mut() {
            it.lease.since = shift.of(it.lease.since);
            it.lease.until = shift.of(it.lease.until);
        }
        self
    }

    /// When the next lease is over, since 1970.
    pub fn wake(&self) -> Option<Duration> {
        self.0.values().map(|it| it.lease.until).min()
    }

    /// How something is overridden.
    pub fn get(&self, subject: &Subject) -> Option<&Override> {
        self.0.get(subject)
    }

    /// Everything that is overridden.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &Override)> {
        self.0.iter()
    }

    /// What is drained, for the engine.
    pub fn drained(&self) -> Drains {
        let drained = self.0.keys().filter(|subject| subject.pool().is_some());
        Drains(drained.cloned().collect())
    }

    /// The weights of services, for the engine.
    pub fn weights(&self) -> WeightsOf {
        let of = |(subject, it): (&Subject, &Override)| {
            Some((subject.service()?.clone(), it.decision.weights()?.clone()))
        };
        self.0.iter().filter_map(of).collect()
    }

    fn check_invariants(&self, now: Duration) {
        debug_assert!(
            self.0.values().all(|it| it.lease.until > now),
            "a lease is over and still there"
        );
        debug_assert!(
            self.wake().is_none_or(|wake| wake > now),
            "nobody would end it"
        );
        debug_assert!(
            self.iter().all(|(subject, it)| subject.service().is_some()
                == it.decision.weights().is_some()),
            "services have weights, and nobody else: {self:?}"
        );
    }
}

/// What is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains(BTreeSet<Subject>);

impl Drains {
    /// Whether a pool is drained as a whole.
    pub fn pool(&self, pool: &Name) -> bool {
        !self.0.is_empty() && self.0.contains(&Subject::Pool(pool.clone()))
    }

    /// Whether a pool, or an endpoint of it, is drained in one and not in the other.
    pub(crate) fn differs_in(&self, other: &Self, pool: &Name) -> bool {
        let mut changed = self.0.symmetric_difference(&other.0);
        changed.any(|subject| subject.pool() == Some(pool))
    }

    /// Whether an endpoint is drained by itself.
    pub fn endpoint(&self, key: &EndpointKey) -> bool {
        !self.0.is_empty() && self.0.contains(&Subject::Endpoint(key.clone()))
    }
}

impl fmt::Display for OverrideChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What no longer holds.
        let over = |decision: &OverrideDecision| match decision {
            OverrideDecision::Drain => "is no longer drained",
            OverrideDecision::Weights(_) => "has the weights of the configuration again",
        };
        match self {
            Self::Set {
                subject,
                now: Override { decision, lease },
                before,
            } => {
                let again = if before.is_some() { " again" } else { "" };
                let seconds = lease.until.saturating_sub(lease.since).as_secs_f64();
                match decision {
                    OverrideDecision::Drain => write!(f, "{subject} is drained{again}")?,
                    OverrideDecision::Weights(weights) => {
                        write!(f, "{subject} has other weights{again}, {weights},")?;
                    }
                }
                write!(
                    f,
                    " for {seconds} s by {}: {}",
                    lease.by,
                    lease.reason.as_str()
                )
            }
            Self::Ended {
                subject,
                before,
                by,
                reason,
            } => {
                write!(f, "{subject} {}: ended by {by}", over(&before.decision))?;
                match reason {
                    Some(reason) => write!(f, ": {}", reason.as_str()),
                    None => Ok(()),
                }
            }
            Self::LeaseEnded { subject, before } => write!(
                f,
                "{subject} {}: the lease of {} is over ({})",
                over(&before.decision),
                before.lease.by,
                before.lease.reason.as_str()
            ),
        }
    }
}

// === As it is kept ===

/// The file in `state_dir`. What another version added is ignored.
#[derive(Debug, Default, Serialize, Deserialize)]
struct StoredOverrides {
    drains: Vec<KeptDrain>,
    #[serde(default)]
    weights: Vec<KeptWeights>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptDrain {
    pool: String,
    endpoint: Option<SocketAddr>,
    #[serde(flatten)]
    lease: KeptLease,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptWeights {
    service: String,
    weights: BTreeMap<String, u64>,
    #[serde(flatten)]
    lease: KeptLease,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptLease {
    by: Arc<str>,
    reason: String,
    /// In milliseconds since 1970.
    since: u64,
    until: u64,
}

impl From<&Lease> for KeptLease {
    fn from(lease: &Lease) -> Self {
        Self {
            by: lease.by.clone(),
            reason: lease.reason.as_str().to_owned(),
            since: lease.since.as_millis() as u64,
            until: lease.until.as_millis() as u64,
        }
    }
}

impl KeptLease {
    fn restore(self) -> Result<Lease, String> {
        Ok(Lease {
            by: self.by,
            reason: Reason::new(&self.reason)?,
            since: Duration::from_millis(self.since),
            until: Duration::from_millis(self.until),
        })
    }
}

impl Overrides {
    /// As text, to be kept.
    pub(crate) fn to_json(&self) -> Result<String, serde_json::Error> {
        let mut kept = StoredOverrides::default();
        for (subject, it) in &self.0 {
            match (subject, &it.decision) {
                (Subject::Service(service), OverrideDecision::Weights(weights)) => {
                    let weights = weights.to_map().into_iter();
                    kept.weights.push(KeptWeights {
                        service: service.to_string(),
                        weights: weights.map(|(name, it)| (name, u64::from(it))).collect(),
                        lease: (&it.lease).into(),
                    });
                }
                (Subject::Service(_), OverrideDecision::Drain) => {}
                (Subject::Pool(pool) | Subject::Endpoint(EndpointKey { pool, .. }), _) => {
                    kept.drains.push(KeptDrain {
                        pool: pool.to_string(),
                        endpoint: subject.endpoint(),
                        lease: (&it.lease).into(),
                    });
                }
            }
        }
        serde_json::to_string_pretty(&kept)
    }

    /// Reads what was kept.
    pub(crate) fn from_json(text: &str) -> Result<Self, String> {
        let kept: StoredOverrides =
            serde_json::from_str(text).map_err(|error| portolan_certs::no_json(&error))?;
        let name = |text: &str| Name::parse(text).map_err(|wrong| wrong.message.into_owned());
        let mut overrides = Self::default();
        for drain in kept.drains {
            let pool = name(&drain.pool)?;
            let subject = match drain.endpoint {
                None => Subject::Pool(pool),
                Some(address) => Subject::Endpoint(EndpointKey { pool, address }),
            };
            let lease = drain.lease.restore()?;
            let decision = OverrideDecision::Drain;
            overrides.0.insert(subject, Override { decision, lease });
        }
        for kept in kept.weights {
            let weights = kept.weights.iter().map(|(name, it)| (name.as_str(), *it));
            let decision = OverrideDecision::Weights(Weights::new(weights)?);
            let lease = kept.lease.restore()?;
            let subject = Subject::Service(name(&kept.service)?);
            overrides.0.insert(subject, Override { decision, lease });
        }
        Ok(overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_800_000_000 + seconds)
    }

    fn pool(name: &str) -> Subject {
        Subject::Pool(Name::parse(name).unwrap())
    }

    fn endpoint(name: &str, address: &str) -> Subject {
        Subject::Endpoint(EndpointKey {
            pool: Name::parse(name).unwrap(),
            address: address.parse().unwrap(),
        })
    }

    fn drain(subject: Subject, lease: Lease) -> OverrideEvent {
        let decision = OverrideDecision::Drain;
        OverrideEvent::Set(subject, Override { decision, lease })
    }

    fn weigh(service: &str, weights: &[(&str, u64)], lease: Lease) -> OverrideEvent {
        let decision = OverrideDecision::Weights(Weights::new(weights.iter().copied()).unwrap());
        let subject = Subject::Service(Name::parse(service).unwrap());
        OverrideEvent::Set(subject, Override { decision, lease })
    }

    fn lease(since: u64, seconds: u64) -> Lease {
        Lease {
            by: "oncall".into(),
            reason: Reason::new("a test").unwrap(),
            since: at(since),
            until: at(since + seconds),
        }
    }

    #[test]
    fn a_drain_ends_with_its_lease() {
        let drained = drain(pool("aws"), lease(0, 60));
        let (overrides, changes) = Overrides::default().step(drained, at(0));
        assert_eq!(changes.len(), 1);
        assert_eq!(overrides.wake(), Some(at(60)));
        assert!(overrides.drained().pool(pool("aws").pool().unwrap()));
        let (overrides, changes) = overrides.step(OverrideEvent::Woken, at(59));
        assert_eq!(changes, []);
        let (overrides, changes) = overrides.step(OverrideEvent::Woken, at(60));
        assert_eq!(
            changes,
            [OverrideChange::LeaseEnded {
                subject: pool("aws"),
                before: Override {
                    decision: OverrideDecision::Drain,
                    lease: lease(0, 60)
                }
            }]
        );
        assert_eq!(overrides, Overrides::default());
        assert_eq!(overrides.wake(), None);
    }

    #[test]
    fn a_lease_lasts_as_long_as_it_was_to_whatever_the_calendar_says() {
        let (overrides, _) =
            Overrides::default().step(drain(pool("aws"), lease(1_000, 60)), at(1_000));
        // Set back and ahead while the process runs: what is left stays.
        for (set, now) in [(-900_i64, 110_u64), (5_000, 6_010)] {
            let moved = overrides.clone().moved(Shift::by(set * 1_000));
            assert_eq!(moved.wake(), Some(at(now + 50)));
            let (moved, _) = moved.step(OverrideEvent::Woken, at(now + 49));
            assert!(moved.get(&pool("aws")).is_some());
            let (moved, changes) = moved.step(OverrideEvent::Woken, at(now + 50));
            assert_eq!(moved, Overrides::default());
            assert_eq!(changes.len(), 1, "it is told");
        }
        // Set back while no process ran: it lasts no longer than it was to.
        let restored = OverrideEvent::Restored(overrides.clone());
        let (restored, _) = Overrides::default().step(restored, at(100));
        assert_eq!(restored.wake(), Some(at(160)));
        // Set back within the lease: it ends when it was to end by the calendar.
        let (restored, _) =
            Overrides::default().step(OverrideEvent::Restored(overrides), at(1_030));
        assert_eq!(restored.wake(), Some(at(1_060)));
    }

    #[test]
    fn a_second_drain_replaces_the_lease_and_the_first_end_is_forgotten() {
        let (overrides, _) = Overrides::default().step(drain(pool("aws"), lease(0, 60)), at(0));
        let (overrides, changes) = overrides.step(drain(pool("aws"), lease(10, 600)), at(10));
        let again = changes[0].to_string();
        assert_eq!(
            again,
            "pool aws is drained again for 600 s by oncall: a test"
        );
        let (overrides, changes) = overrides.step(OverrideEvent::Woken, at(100));
        assert_eq!(changes, []);
        assert!(overrides.get(&pool("aws")).is_some());
    }

    #[test]
    fn a_pool_and_its_endpoints_are_drained_apart() {
        let address = "10.0.0.1:80";
        let key = EndpointKey {
            pool: Name::parse("aws").unwrap(),
            address: address.parse().unwrap(),
        };
        let event = drain(endpoint("aws", address), lease(0, 60));
        let (overrides, _) = Overrides::default().step(event, at(0));
        assert!(overrides.drained().endpoint(&key));
        assert!(!overrides.drained().pool(&key.pool));
        let undrain = |subject| OverrideEvent::Ended {
            subject,
            by: "oncall".into(),
            reason: None,
        };
        let (overrides, changes) = overrides.step(undrain(pool("aws")), at(1));
        assert_eq!(changes, [], "that is not drained");
        let (overrides, changes) = overrides.step(undrain(endpoint("aws", address)), at(1));
        assert_eq!(
            changes[0].to_string(),
            "endpoint aws/10.0.0.1:80 is no longer drained: ended by oncall"
        );
        assert!(!overrides.drained().endpoint(&key));
    }

    #[test]
    fn what_is_kept_comes_back_without_what_is_over() {
        let (overrides, _) = Overrides::default().step(drain(pool("aws"), lease(0, 60)), at(0));
        let event = drain(endpoint("gcp", "[::1]:80"), lease(5, 600));
        let (overrides, _) = overrides.step(event, at(5));
        let weights = weigh("api", &[("aws", 60), ("gcp", 40)], lease(5, 700));
        let (overrides, changes) = overrides.step(weights, at(5));
        assert_eq!(
            changes[0].to_string(),
            "service api has other weights, aws=60 gcp=40, for 700 s by oncall: a test"
        );
        let text = overrides.to_json().unwrap();
        let kept = Overrides::from_json(&text).unwrap();
        assert_eq!(kept, overrides);
        // The machine was off for a while.
        let (restored, changes) = Overrides::default().step(OverrideEvent::Restored(kept), at(100));
        assert_eq!(changes.len(), 1);
        assert!(
            changes[0]
                .to_string()
                .contains("the lease of oncall is over")
        );
        assert_eq!(restored.iter().count(), 2);
        assert_eq!(restored.wake(), Some(at(605)));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"drains":[{"pool":"a b","endpoint":null,"by":"x","reason":"y","since":0,"until":1}]}"#,
            r#"{"drains":[{"pool":"a","endpoint":null,"by":"x","reason":"","since":0,"until":1}]}"#,
            r#"{"drains":[],"weights":[{"service":"a","weights":{"b":0},"by":"x","reason":"y","since":0,"until":1}]}"#,
            r#"{"drains":[{"pool":"a","endpoint":"nowhere","by":"x","reason":"y","since":0,"until":1}]}"#,
        ] {
            assert!(Overrides::from_json(bad).is_err(), "{bad}");
        }
        // Written by another version.
        for other in [
            r#"{"drains":[]}"#,
            r#"{"drains":[{"pool":"a","endpoint":null,"by":"x","reason":"y","since":0,"until":1,"new":1}],"later":{}}"#,
        ] {
            assert!(Overrides::from_json(other).is_ok(), "{other}");
        }
    }

    #[test]
    fn a_reason_is_one_line_of_text() {
        assert_eq!(Reason::new("  rack move ").unwrap().as_str(), "rack move");
        for bad in ["", "  ", "one\ntwo", "bell\u{7}", &"x".repeat(501)] {
            assert!(Reason::new(bad).is_err(), "{bad:?}");
        }
        assert!(Reason::new(&"é".repeat(500)).is_ok());
    }

    /// Whatever happens in whatever order: nothing outlives its lease, nothing ends before it unless
    /// somebody ends it, and what is kept is what there is.
    #[test]
    fn leases_hold_whatever_happens() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let subjects = [
                pool("a"),
                pool("b"),
                endpoint("a", "10.0.0.1:80"),
                endpoint("b", "10.0.0.1:80"),
                Subject::Service(Name::parse("api").unwrap()),
            ];
            let mut overrides = Overrides::default();
            let mut shadow: BTreeMap<Subject, u64> = BTreeMap::new();
            let mut now = 0;
            for step in 0..200 {
                let context = format!("seed {seed}, step {step}");
                now += random.u64(0..20);
                let subject = subjects[random.usize(..subjects.len())].clone();
                let event = match random.u8(..10) {
                    0..4 => {
                        let seconds = random.u64(1..60);
                        shadow.insert(subject.clone(), now + seconds);
                        match &subject {
                            Subject::Service(name) => {
                                weigh(name.as_str(), &[("a", 1)], lease(now, seconds))
                            }
                            _ => drain(subject, lease(now, seconds)),
                        }
                    }
                    4..6 => {
                        shadow.remove(&subject);
                        OverrideEvent::Ended {
                            subject,
                            by: "oncall".into(),
                            reason: None,
                        }
                    }
                    6 => {
                        // A restart.
                        let text = overrides.to_json().unwrap();
                        overrides = Overrides::default();
                        OverrideEvent::Restored(Overrides::from_json(&text).unwrap())
                    }
                    _ => OverrideEvent::Woken,
                };
                let (next, changes) = overrides.step(event, at(now));
                overrides = next;
                shadow.retain(|_, until| *until > now);
                let seen: Vec<&Subject> = overrides.iter().map(|(s, _)| s).collect();
                assert_eq!(seen, shadow.keys().collect::<Vec<_>>(), "{context}");
                for change in changes {
                    if let OverrideChange::LeaseEnded { before, .. } = change {
                        assert!(before.lease.until <= at(now), "{context}");
                    }
                }
                let next = shadow.values().min().map(|until| at(*until));
                assert_eq!(overrides.wake(), next, "{context}");
            }
        }
    }
}
