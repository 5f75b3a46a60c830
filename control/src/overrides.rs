//! Overrides: what operators decided while it runs, beside the configuration.
//!
//! Each has an owner, a reason and a lease: it ends by itself. Overrides belong to names (a pool's,
//! an endpoint's address in it), not to a configuration, so they stay through every reload, also
//! one that takes their pool away and another that brings it back. This file decides, purely;
//! [`keeper`] keeps the file in `state_dir`, the lease's time, and tells the engine; [`audit`]
//! remembers who did what.

pub mod audit;
pub mod keeper;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::leaf::Leaf as _;
use portolan_config::names::Name;
use serde::{Deserialize, Serialize};

use crate::endpoint::EndpointKey;

/// How long an override holds if nobody says.
pub const USUAL_LEASE: Duration = Duration::from_secs(3600);

/// The longest lease: what is to last longer belongs into the configuration.
pub const LONGEST_LEASE: Duration = Duration::from_secs(30 * 86_400);

/// The longest reason, in characters.
const LONGEST_REASON: usize = 500;

/// A pool, or one endpoint of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// The pool.
    pub pool: Name,
    /// The endpoint; none for the pool as a whole.
    pub endpoint: Option<SocketAddr>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.endpoint {
            None => write!(f, "pool {}", self.pool),
            Some(address) => write!(f, "endpoint {}/{address}", self.pool),
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

/// Everything that is overridden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    drains: BTreeMap<Subject, Lease>,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody drains, or drains again with another lease.
    Drained(Subject, Lease),
    /// Somebody ends a drain before its time.
    Undrained {
        /// What is drained.
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
pub enum Change {
    /// A drain began, or has another lease than before.
    Drained {
        /// What is drained.
        subject: Subject,
        /// Its lease.
        lease: Lease,
        /// The lease it had.
        before: Option<Lease>,
    },
    /// Somebody ended a drain.
    Undrained {
        /// What was drained.
        subject: Subject,
        /// The lease it had.
        before: Lease,
        /// Who ended it.
        by: Arc<str>,
        /// Why, if they said.
        reason: Option<Reason>,
    },
    /// A lease is over.
    LeaseEnded {
        /// What was drained.
        subject: Subject,
        /// The lease it had.
        before: Lease,
    },
}

impl Overrides {
    /// What becomes of them when `event` happens at `now` (since 1970), and what changed by that.
    #[must_use]
    pub fn step(mut self, event: Event, now: Duration) -> (Self, Vec<Change>) {
        let mut changes = Vec::new();
        match event {
            Event::Drained(subject, lease) => {
                let before = self.drains.insert(subject.clone(), lease.clone());
                changes.push(Change::Drained {
                    subject,
                    lease,
                    before,
                });
            }
            Event::Undrained {
                subject,
                by,
                reason,
            } => {
                if let Some(before) = self.drains.remove(&subject) {
                    changes.push(Change::Undrained {
                        subject,
                        before,
                        by,
                        reason,
                    });
                }
            }
            Event::Restored(kept) => self.drains.extend(kept.drains),
            Event::Woken => {}
        }
        let over: Vec<Subject> = self
            .drains
            .iter()
            .filter(|(_, lease)| lease.until <= now)
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in over {
            if let Some(before) = self.drains.remove(&subject) {
                changes.push(Change::LeaseEnded { subject, before });
            }
        }
        self.check_invariants(now);
        (self, changes)
    }

    /// When the next lease is over, since 1970.
    pub fn wake(&self) -> Option<Duration> {
        self.drains.values().map(|lease| lease.until).min()
    }

    /// The lease of a drain.
    pub fn drain(&self, subject: &Subject) -> Option<&Lease> {
        self.drains.get(subject)
    }

    /// Every drain.
    pub fn drains(&self) -> impl Iterator<Item = (&Subject, &Lease)> {
        self.drains.iter()
    }

    /// What is drained, for the engine.
    pub fn drained(&self) -> Drains {
        Drains(self.drains.keys().cloned().collect())
    }

    fn check_invariants(&self, now: Duration) {
        debug_assert!(
            self.drains.values().all(|lease| lease.until > now),
            "a lease is over and still there"
        );
        debug_assert!(
            self.wake().is_none_or(|wake| wake > now),
            "nobody would end it"
        );
    }
}

/// What is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains(BTreeSet<Subject>);

impl Drains {
    /// Whether a pool is drained as a whole.
    pub fn pool(&self, pool: &Name) -> bool {
        !self.0.is_empty()
            && self.0.contains(&Subject {
                pool: pool.clone(),
                endpoint: None,
            })
    }

    /// Whether an endpoint is drained by itself.
    pub fn endpoint(&self, key: &EndpointKey) -> bool {
        !self.0.is_empty()
            && self.0.contains(&Subject {
                pool: key.pool.clone(),
                endpoint: Some(key.address),
            })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drained {
                subject,
                lease,
                before,
            } => {
                let again = if before.is_some() { " again" } else { "" };
                let seconds = lease.until.saturating_sub(lease.since).as_secs_f64();
                write!(
                    f,
                    "{subject} is drained{again} for {seconds} s by {}: {}",
                    lease.by,
                    lease.reason.as_str()
                )
            }
            Self::Undrained {
                subject,
                by,
                reason,
                ..
            } => {
                write!(f, "{subject} is no longer drained: ended by {by}")?;
                match reason {
                    Some(reason) => write!(f, ": {}", reason.as_str()),
                    None => Ok(()),
                }
            }
            Self::LeaseEnded { subject, before } => write!(
                f,
                "{subject} is no longer drained: the lease of {} is over ({})",
                before.by,
                before.reason.as_str()
            ),
        }
    }
}

// === As it is kept ===

/// The file in `state_dir`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    drains: Vec<KeptDrain>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptDrain {
    pool: String,
    endpoint: Option<SocketAddr>,
    by: Arc<str>,
    reason: String,
    /// In milliseconds since 1970.
    since: u64,
    until: u64,
}

impl Overrides {
    /// As text, to be kept.
    fn to_json(&self) -> Result<String, serde_json::Error> {
        let drains = self.drains.iter().map(|(subject, lease)| KeptDrain {
            pool: subject.pool.to_string(),
            endpoint: subject.endpoint,
            by: lease.by.clone(),
            reason: lease.reason.as_str().to_owned(),
            since: lease.since.as_millis() as u64,
            until: lease.until.as_millis() as u64,
        });
        serde_json::to_string_pretty(&Kept {
            drains: drains.collect(),
        })
    }

    /// Reads what was kept.
    fn from_json(text: &str) -> Result<Self, String> {
        let kept: Kept = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let drains = kept.drains.into_iter().map(|drain| {
            let subject = Subject {
                pool: Name::parse(&drain.pool).map_err(|error| error.message.into_owned())?,
                endpoint: drain.endpoint,
            };
            let lease = Lease {
                by: drain.by,
                reason: Reason::new(&drain.reason)?,
                since: Duration::from_millis(drain.since),
                until: Duration::from_millis(drain.until),
            };
            Ok((subject, lease))
        });
        Ok(Self {
            drains: drains.collect::<Result<_, String>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(1_800_000_000 + seconds)
    }

    fn pool(name: &str) -> Subject {
        Subject {
            pool: Name::parse(name).unwrap(),
            endpoint: None,
        }
    }

    fn endpoint(name: &str, address: &str) -> Subject {
        Subject {
            endpoint: Some(address.parse().unwrap()),
            ..pool(name)
        }
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
        let drained = Event::Drained(pool("aws"), lease(0, 60));
        let (overrides, changes) = Overrides::default().step(drained, at(0));
        assert_eq!(changes.len(), 1);
        assert_eq!(overrides.wake(), Some(at(60)));
        assert!(overrides.drained().pool(&pool("aws").pool));
        let (overrides, changes) = overrides.step(Event::Woken, at(59));
        assert_eq!(changes, []);
        let (overrides, changes) = overrides.step(Event::Woken, at(60));
        assert_eq!(
            changes,
            [Change::LeaseEnded {
                subject: pool("aws"),
                before: lease(0, 60)
            }]
        );
        assert_eq!(overrides, Overrides::default());
        assert_eq!(overrides.wake(), None);
    }

    #[test]
    fn a_second_drain_replaces_the_lease_and_the_first_end_is_forgotten() {
        let (overrides, _) =
            Overrides::default().step(Event::Drained(pool("aws"), lease(0, 60)), at(0));
        let (overrides, changes) =
            overrides.step(Event::Drained(pool("aws"), lease(10, 600)), at(10));
        let again = changes[0].to_string();
        assert_eq!(
            again,
            "pool aws is drained again for 600 s by oncall: a test"
        );
        let (overrides, changes) = overrides.step(Event::Woken, at(100));
        assert_eq!(changes, []);
        assert!(overrides.drain(&pool("aws")).is_some());
    }

    #[test]
    fn a_pool_and_its_endpoints_are_drained_apart() {
        let address = "10.0.0.1:80";
        let key = EndpointKey {
            pool: pool("aws").pool,
            address: address.parse().unwrap(),
        };
        let event = Event::Drained(endpoint("aws", address), lease(0, 60));
        let (overrides, _) = Overrides::default().step(event, at(0));
        assert!(overrides.drained().endpoint(&key));
        assert!(!overrides.drained().pool(&key.pool));
        let undrain = |subject| Event::Undrained {
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
        let (overrides, _) =
            Overrides::default().step(Event::Drained(pool("aws"), lease(0, 60)), at(0));
        let event = Event::Drained(endpoint("gcp", "[::1]:80"), lease(5, 600));
        let (overrides, _) = overrides.step(event, at(5));
        let text = overrides.to_json().unwrap();
        let kept = Overrides::from_json(&text).unwrap();
        assert_eq!(kept, overrides);
        // The machine was off for a while.
        let (restored, changes) = Overrides::default().step(Event::Restored(kept), at(100));
        assert_eq!(changes.len(), 1);
        assert!(
            changes[0]
                .to_string()
                .contains("the lease of oncall is over")
        );
        assert_eq!(restored.drains().count(), 1);
        assert_eq!(restored.wake(), Some(at(605)));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"drains":[{"pool":"a b","endpoint":null,"by":"x","reason":"y","since":0,"until":1}]}"#,
            r#"{"drains":[{"pool":"a","endpoint":null,"by":"x","reason":"","since":0,"until":1}]}"#,
            r#"{"drains":[{"pool":"a","endpoint":"nowhere","by":"x","reason":"y","since":0,"until":1}]}"#,
        ] {
            assert!(Overrides::from_json(bad).is_err(), "{bad}");
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
                        Event::Drained(subject, lease(now, seconds))
                    }
                    4..6 => {
                        shadow.remove(&subject);
                        Event::Undrained {
                            subject,
                            by: "oncall".into(),
                            reason: None,
                        }
                    }
                    6 => {
                        // A restart.
                        let text = overrides.to_json().unwrap();
                        overrides = Overrides::default();
                        Event::Restored(Overrides::from_json(&text).unwrap())
                    }
                    _ => Event::Woken,
                };
                let (next, changes) = overrides.step(event, at(now));
                overrides = next;
                shadow.retain(|_, until| *until > now);
                let seen: Vec<&Subject> = overrides.drains().map(|(s, _)| s).collect();
                assert_eq!(seen, shadow.keys().collect::<Vec<_>>(), "{context}");
                for change in changes {
                    if let Change::LeaseEnded { before, .. } = change {
                        assert!(before.until <= at(now), "{context}");
                    }
                }
                let next = shadow.values().min().map(|until| at(*until));
                assert_eq!(overrides.wake(), next, "{context}");
            }
        }
    }
}
