//! When a certificate is ordered, and how loudly it is said that it could not be had.
//!
//! A pure state machine: what happened and what time it is go in, what is to be done comes out. It
//! reads no clock and has no chance of its own: `chance` is a number from 0 to 1 (without 1) that
//! whoever drives it draws.
//!
//! # When
//! A certificate that is not there is ordered at once. One that is there is renewed when the
//! authority says so (RFC 9773): at a moment chosen by chance in the window that it names, asked for
//! again as often as it wants to be asked. An authority that says nothing is asked for a new
//! certificate when the policy's share of the lifetime is over, a little sooner by chance, so that
//! instances that know nothing of each other do not all come at once. Whatever anybody says, there is
//! no order within [`Policy::retry_min`] of the last.
//!
//! # After a failure
//! The wait doubles from [`Policy::retry_min`] to [`Policy::retry_max`], a fifth more or less by
//! chance. It is never longer than a tenth of what is left of the certificate: the nearer the end,
//! the more often. It is never shorter than the authority asks for; more than a week is not believed.
//!
//! # How loudly
//! [`Level`] only depends on what is left: a failure with weeks to go is a warning, the last sixth of
//! the lifetime an error, and so is a name that never had a certificate. A level that rises is told
//! when it does, even if nothing else happens then.

use std::time::Duration;

use super::moment::Moment;

#[cfg(test)]
mod simulation;

/// By chance, the time until a certificate is renewed is shorter by up to this share: a twentieth of
/// the lifetime where two thirds are waited for.
const SPREAD: f64 = 0.075;

/// The last share of a lifetime, in which a certificate that is not renewed is an emergency.
const URGENT: f64 = 1.0 / 6.0;

/// Whatever an authority says, a certificate is renewed before this last share of its lifetime.
const LATEST: f64 = 0.05;

/// The longest wait that an authority may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(7 * 86_400);

/// How often an authority is asked when to renew, at most and at least (RFC 9773, section 4.3.3).
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(86_400));

/// When and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// The share of the lifetime after which a certificate is renewed, from 0 to 1.
    pub renew_after: f64,
    /// The wait after the first failure.
    pub retry_min: Duration,
    /// The longest wait after a failure.
    pub retry_max: Duration,
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From here.
    pub from: Moment,
    /// Until here.
    pub until: Moment,
}

impl Validity {
    fn lifetime(&self) -> Duration {
        self.until.since(self.from)
    }

    /// When this share of it is over.
    fn at(&self, share: f64) -> Moment {
        self.from + self.lifetime().mul_f64(share.clamp(0.0, 1.0))
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RenewalEvent {
    /// Time passed.
    Woken,
    /// A certificate was there already, or another process has put it there.
    Found(Validity),
    /// An order ended with a certificate.
    Issued(Validity),
    /// An order ended without one.
    Failed {
        /// The authority wants to be left alone until then.
        not_before: Option<Moment>,
    },
    /// The authority said when to renew.
    Advised {
        /// Between these two.
        window: (Moment, Moment),
        /// When it wants to be asked again.
        again: Moment,
    },
    /// The authority did not say when to renew.
    NotAdvised,
    /// The issuer's settings changed: what failed may work now.
    Changed,
}

/// Something to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Order a certificate, and say how it ended.
    Order {
        /// Tell the authority which certificate it replaces. Not after a failure: some refuse it.
        replacing: bool,
    },
    /// Ask the authority when to renew.
    AskWhen,
    /// Tell operators: it is this bad now.
    Tell(Level),
}

/// How bad it is that a certificate is not renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Not at all.
    #[default]
    Fine,
    /// An order failed, and there is time.
    Failing,
    /// There is little time left, or there never was a certificate.
    Urgent,
    /// The certificate is not valid any more.
    Expired,
}

impl Level {
    /// As status and metrics call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Failing => "failing",
            Self::Urgent => "urgent",
            Self::Expired => "expired",
        }
    }
}

/// What is known of one certificate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Renewal {
    held: Option<Validity>,
    /// How much of the spread this certificate comes earlier, from 0 to 1.
    earlier: f64,
    /// The authority's window, and the moment chosen in it.
    advised: Option<((Moment, Moment), Moment)>,
    /// When the authority is asked for its window.
    ask: Option<Moment>,
    ordering: bool,
    asking: bool,
    /// Orders that failed since the last that did not.
    failures: u32,
    /// Not before this, after a failure.
    retry: Option<Moment>,
    /// Not before this, because the authority asked for it.
    left_alone: Option<Moment>,
    told: Level,
}

impl Renewal {
    /// What becomes of it when `event` happens at `now`.
    #[must_use]
    pub fn step(
        mut self,
        policy: &Policy,
        event: RenewalEvent,
        now: Moment,
        chance: f64,
    ) -> (Self, Vec<Effect>) {
        match event {
            RenewalEvent::Woken => {}
            RenewalEvent::Found(validity) => self.take(validity, now, chance),
            RenewalEvent::Issued(validity) => {
                self.ordering = false;
                self.take(validity, now, chance);
                self.left_alone = Some(now + policy.retry_min);
            }
            RenewalEvent::Failed { not_before } => self.fail(policy, not_before, now, chance),
            RenewalEvent::Advised { window, again } => {
                self.asking = false;
                self.ask = Some(again.clamp(now + ASK_AGAIN.0, now + ASK_AGAIN.1));
                if self.advised.is_none_or(|(known, _)| known != window) {
                    let (start, end) = window;
                    self.advised = Some((window, start + end.since(start).mul_f64(chance)));
                }
            }
            RenewalEvent::NotAdvised => {
                self.asking = false;
                self.ask = Some(now + ASK_AGAIN.1);
            }
            RenewalEvent::Changed => self.retry = None,
        }
        let effects = self.settle(policy, now);
        (self, effects)
    }

    /// When it wants to be woken if nothing happens.
    pub fn wake(&self, policy: &Policy) -> Option<Moment> {
        let order = (!self.ordering).then(|| self.order_at(policy));
        let ask = self.ask.filter(|_| !self.asking && !self.ordering);
        let louder = self.held.and_then(|held| match self.told {
            _ if self.failures == 0 => None,
            Level::Fine | Level::Failing => Some(held.at(1.0 - URGENT)),
            Level::Urgent => Some(held.until),
            Level::Expired => None,
        });
        [order, ask, louder].into_iter().flatten().min()
    }

    /// The certificate's validity, if there is one.
    pub fn held(&self) -> Option<Validity> {
        self.held
    }

    /// When the next order is due.
    pub fn order_at(&self, policy: &Policy) -> Moment {
        let due = self.held.map_or(Moment::default(), |held| {
            let latest = held.at(1.0 - LATEST);
            match self.advised {
                Some((_, chosen)) => chosen.min(latest),
                None => held.at(policy.renew_after * (1.0 - SPREAD * self.earlier)),
            }
        });
        let not_before = self.retry.max(self.left_alone);
        not_before.map_or(due, |not_before| not_before.max(due))
    }

    /// Whether an order is under way.
    pub fn is_ordering(&self) -> bool {
        self.ordering
    }

    /// Orders that failed since the last that did not.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How bad it is.
    pub fn level(&self, now: Moment) -> Level {
        match self.held {
            Some(held) if now >= held.until => Level::Expired,
            _ if self.failures == 0 => Level::Fine,
            Some(held) if now < held.at(1.0 - URGENT) => Level::Failing,
            _ => Level::Urgent,
        }
    }

    /// There is a certificate, newly made or newly seen.
    fn take(&mut self, validity: Validity, now: Moment, chance: f64) {
        self.held = Some(validity);
        self.earlier = chance;
        self.advised = None;
        self.ask = Some(now);
        self.failures = 0;
        self.retry = None;
        self.left_alone = None;
        self.told = Level::Fine;
    }

    fn fail(&mut self, policy: &Policy, not_before: Option<Moment>, now: Moment, chance: f64) {
        self.ordering = false;
        self.failures = self.failures.saturating_add(1);
        let doubled = policy
            .retry_min
            .saturating_mul(1 << (self.failures - 1).min(20))
            .min(policy.retry_max)
            .mul_f64(0.8 + 0.4 * chance);
        let left = self.held.map(|held| held.until.since(now));
        let wait = match left.filter(|left| !left.is_zero()) {
            Some(left) => doubled.min((left / 10).max(policy.retry_min)),
            None => doubled,
        };
        self.retry = Some(now + wait);
        self.left_alone = not_before.map(|moment| moment.min(now + LONGEST_WAIT));
    }

    /// What is due now.
    fn settle(&mut self, policy: &Policy, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        let level = self.level(now);
        if level > self.told {
            effects.push(Effect::Tell(level));
        }
        self.told = level;
        if !self.ordering && now >= self.order_at(policy) {
            self.ordering = true;
            effects.push(Effect::Order {
                replacing: self.held.is_some() && self.failures == 0,
            });
        }
        if self.held.is_some()
            && !self.ordering
            && !self.asking
            && self.ask.is_some_and(|ask| now >= ask)
        {
            self.asking = true;
            effects.push(Effect::AskWhen);
        }
        effects
    }
}
