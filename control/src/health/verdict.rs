//! Is an endpoint healthy? The verdict of its probes.
//!
//! # States
//! An endpoint begins `Unknown` and takes no traffic. Its first probe decides alone; afterwards
//! `down_after` failures in a row make a healthy endpoint unhealthy, and `up_after` successes in a
//! row make an unhealthy one healthy. A result of the other kind starts the count again.
//!
//! # Pace
//! Probes go out every `every`, less up to a tenth so that those of many endpoints spread. While
//! the verdict may be about to change (it is unknown, or the last result contradicts it) they go
//! out every `fast_every`; to an endpoint that seems to be back, four times as often: nothing but the
//! clouds' traffic is waiting for them.
//!
//! # Nothing said
//! A probe for which this instance had no descriptor or no local port says nothing: the verdict stays as
//! it is, and the next one goes out soon.
//!
//! # Without probes
//! With `health: off` an endpoint is healthy at once. Switching probes on later keeps that verdict
//! until they say otherwise.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::plan::ProbePlan;

use crate::clock::Tick;
use crate::health::exhaustion::Shortage;

/// What is believed of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Nothing yet.
    Unknown,
    /// It serves.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl Verdict {
    /// The word that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// The verdict of a word; none is known by it.
    pub fn from_word(word: &str) -> Option<Self> {
        let all = [Self::Unknown, Self::Healthy, Self::Unhealthy];
        all.into_iter().find(|verdict| verdict.as_str() == word)
    }
}

/// Why a verdict is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerdictReason {
    /// No probe has answered yet.
    NotProbedYet,
    /// Probes are switched off.
    ProbesOff,
    /// The process before this one said so.
    HandedOver(Arc<str>),
    /// The first probe succeeded.
    FirstProbeSucceeded,
    /// The first probe failed.
    FirstProbeFailed(ProbeFailure),
    /// So many probes in a row succeeded.
    Successes(u32),
    /// So many probes in a row failed, the last one like this.
    Failures(u32, ProbeFailure),
}

impl fmt::Display for VerdictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotProbedYet => f.write_str("not probed yet"),
            Self::ProbesOff => f.write_str("probes are off"),
            Self::HandedOver(why) => f.write_str(why),
            Self::FirstProbeSucceeded => f.write_str("the first probe succeeded"),
            Self::FirstProbeFailed(failure) => write!(f, "the first probe failed: {failure}"),
            Self::Successes(count) => write!(f, "{count} probes in a row succeeded"),
            Self::Failures(count, failure) => {
                write!(f, "{count} probes in a row failed, the last: {failure}")
            }
        }
    }
}

/// How a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFailure {
    /// No connection: refused, unreachable, TLS.
    Connect(String),
    /// No way leads to it, or nothing is there.
    Unreachable(String),
    /// It took longer than `timeout`.
    Timeout(Duration),
    /// The connection broke, or the answer was cut short.
    Broken(String),
    /// The answer was not what was expected.
    Unexpected(String),
    /// This instance could not connect, to whomever: that says nothing about the endpoint.
    Edge(Shortage),
    /// The probe itself failed, by a fault of Portolan's own: that says nothing about the endpoint.
    Own,
}

impl ProbeFailure {
    /// Whether nothing was heard of the endpoint. A refused connection, a broken one and an answer that
    /// is not as expected come from somebody: perhaps from an endpoint that finishes its requests
    /// before it stops.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Timeout(_) | Self::Unreachable(_))
    }
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(what) | Self::Unreachable(what) => write!(f, "cannot connect: {what}"),
            Self::Timeout(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Broken(what) => write!(f, "broken answer: {what}"),
            Self::Unexpected(what) => write!(f, "unexpected answer: {what}"),
            Self::Edge(shortage) => write!(f, "not probed: {shortage}"),
            Self::Own => f.write_str("not probed: the probe has failed, by a fault of Portolan's"),
        }
    }
}

/// What happens to an endpoint's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeEvent {
    /// A probe was answered as expected.
    ProbeSucceeded,
    /// A probe was not.
    ProbeFailed(ProbeFailure),
    /// The configuration says not to probe.
    ProbesSwitchedOff,
}

/// An endpoint's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is believed.
    pub verdict: Verdict,
    /// Why.
    pub because: VerdictReason,
    /// Since when it is believed.
    pub since: Tick,
    /// Results in a row that contradict the verdict.
    against: u32,
}

impl Health {
    /// Nothing is known.
    pub fn unknown(now: Tick) -> Self {
        Self {
            verdict: Verdict::Unknown,
            because: VerdictReason::NotProbedYet,
            since: now,
            against: 0,
        }
    }

    /// What the process before this one believed.
    pub fn handed_over(verdict: Verdict, because: Arc<str>, since: Tick, against: u32) -> Self {
        Self {
            verdict,
            because: VerdictReason::HandedOver(because),
            since,
            against: if verdict == Verdict::Unknown {
                0
            } else {
                against
            },
        }
    }

    /// Results in a row that contradict the verdict.
    pub fn against(&self) -> u32 {
        self.against
    }

    /// What becomes of it when `event` happens.
    #[must_use]
    pub fn step(mut self, policy: &HealthPolicy, event: ProbeEvent, now: Tick) -> Self {
        match (self.verdict, event) {
            (Verdict::Healthy, ProbeEvent::ProbesSwitchedOff) => self.against = 0,
            (_, ProbeEvent::ProbesSwitchedOff) => {
                self.decide(Verdict::Healthy, VerdictReason::ProbesOff, now);
            }
            (Verdict::Unknown, ProbeEvent::ProbeSucceeded) => {
                self.decide(Verdict::Healthy, VerdictReason::FirstProbeSucceeded, now);
            }
            (Verdict::Unknown, ProbeEvent::ProbeFailed(failure)) => {
                self.decide(
                    Verdict::Unhealthy,
                    VerdictReason::FirstProbeFailed(failure),
                    now,
                );
            }
            (Verdict::Healthy, ProbeEvent::ProbeSucceeded)
            | (Verdict::Unhealthy, ProbeEvent::ProbeFailed(_)) => self.against = 0,
            (Verdict::Healthy, ProbeEvent::ProbeFailed(failure)) => {
                self.against += 1;
                if self.against >= policy.down_after {
                    let because = VerdictReason::Failures(self.against, failure);
                    self.decide(Verdict::Unhealthy, because, now);
                }
            }
            (Verdict::Unhealthy, ProbeEvent::ProbeSucceeded) => {
                self.against += 1;
                if self.against >= policy.up_after {
                    let because = VerdictReason::Successes(self.against);
                    self.decide(Verdict::Healthy, because, now);
                }
            }
        }
        self.check_invariants(policy);
        self
    }

    fn decide(&mut self, verdict: Verdict, because: VerdictReason, now: Tick) {
        self.verdict = verdict;
        self.because = because;
        self.since = now;
        self.against = 0;
    }

    /// The time from the beginning of one probe to that of the next. `spread`, from 0 to 1, tells
    /// endpoints apart.
    pub fn pace(&self, policy: &HealthPolicy, spread: f64) -> Duration {
        let interval = match self.verdict {
            Verdict::Unhealthy if self.is_changing() => policy.fast_every / 4,
            _ if self.is_changing() => policy.fast_every,
            _ => policy.every,
        };
        interval.mul_f64(1.0 - 0.1 * spread.clamp(0.0, 1.0))
    }

    /// Whether the verdict may be about to change.
    pub fn is_changing(&self) -> bool {
        self.verdict == Verdict::Unknown || self.against > 0
    }

    fn check_invariants(&self, policy: &HealthPolicy) {
        debug_assert!(
            match self.verdict {
                Verdict::Unknown => self.against == 0,
                Verdict::Healthy => self.against < policy.down_after,
                Verdict::Unhealthy => self.against < policy.up_after,
            },
            "a verdict with enough results against it: {self:?}"
        );
    }
}

/// How health is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Between two probes.
    pub every: Duration,
    /// Between two probes while the verdict is changing.
    pub fast_every: Duration,
    /// Failures in a row that make a healthy endpoint unhealthy; at least 1.
    pub down_after: u32,
    /// Successes in a row that make an unhealthy endpoint healthy; at least 1.
    pub up_after: u32,
}

impl From<&ProbePlan> for HealthPolicy {
    fn from(plan: &ProbePlan) -> Self {
        Self {
            every: plan.every,
            fast_every: plan.fast_every,
            down_after: plan.down_after,
            up_after: plan.up_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: HealthPolicy = HealthPolicy {
        every: Duration::from_secs(5),
        fast_every: Duration::from_secs(1),
        down_after: 3,
        up_after: 2,
    };

    fn at(seconds: u64) -> Tick {
        Tick::after(Duration::from_secs(seconds))
    }

    fn failed() -> ProbeEvent {
        ProbeEvent::ProbeFailed(ProbeFailure::Timeout(Duration::from_secs(2)))
    }

    /// Runs a story: `+` succeeded, `-` failed; gives the verdict after each, as H, U or ?.
    fn story(results: &str) -> String {
        let mut health = Health::unknown(at(0));
        results
            .chars()
            .enumerate()
            .map(|(second, result)| {
                let event = if result == '+' {
                    ProbeEvent::ProbeSucceeded
                } else {
                    failed()
                };
                health = health.clone().step(&POLICY, event, at(second as u64));
                match health.verdict {
                    Verdict::Healthy => 'H',
                    Verdict::Unhealthy => 'U',
                    Verdict::Unknown => '?',
                }
            })
            .collect()
    }

    #[test]
    fn the_first_probe_decides_and_thresholds_come_after() {
        assert_eq!(story("+---++"), "HHHUUH");
        assert_eq!(story("-++"), "UUH");
        assert_eq!(
            story("+--+--+---"),
            "HHHHHHHHHU",
            "a success starts the count again"
        );
        assert_eq!(
            story("-+-+-++"),
            "UUUUUUH",
            "a failure starts the count again"
        );
    }

    #[test]
    fn probes_are_faster_while_the_verdict_changes() {
        let unknown = Health::unknown(at(0));
        assert_eq!(unknown.pace(&POLICY, 0.0), Duration::from_secs(1));
        let healthy = unknown.step(&POLICY, ProbeEvent::ProbeSucceeded, at(0));
        assert_eq!(healthy.pace(&POLICY, 0.0), Duration::from_secs(5));
        assert_eq!(healthy.pace(&POLICY, 1.0), Duration::from_millis(4500));
        let doubted = healthy.step(&POLICY, failed(), at(5));
        assert_eq!(doubted.pace(&POLICY, 0.0), Duration::from_secs(1));
        let down = doubted
            .step(&POLICY, failed(), at(6))
            .step(&POLICY, failed(), at(7));
        assert_eq!(down.verdict, Verdict::Unhealthy);
        assert_eq!(down.pace(&POLICY, 0.0), Duration::from_secs(5));
        let coming = down
            .clone()
            .step(&POLICY, ProbeEvent::ProbeSucceeded, at(8));
        assert_eq!(coming.pace(&POLICY, 0.0), Duration::from_millis(250));
        assert_eq!(down.since, at(7));
        assert_eq!(
            down.because.to_string(),
            "3 probes in a row failed, the last: no answer within 2000 ms"
        );
    }

    #[test]
    fn without_probes_it_is_healthy_and_switching_them_on_forgets_nothing() {
        let off = Health::unknown(at(0)).step(&POLICY, ProbeEvent::ProbesSwitchedOff, at(1));
        assert_eq!(
            (off.verdict, &off.because),
            (Verdict::Healthy, &VerdictReason::ProbesOff)
        );
        let doubted = off.step(&POLICY, failed(), at(2));
        assert_eq!(doubted.verdict, Verdict::Healthy);
        assert_eq!(doubted.since, at(1));
    }

    proptest! {
        #[test]
        fn a_verdict_only_changes_after_its_threshold(results in prop::collection::vec(any::<bool>(), 1..200)) {
            let mut health = Health::unknown(at(0));
            let mut run = 0;
            let mut last = None;
            for (second, good) in results.iter().enumerate() {
                run = if last == Some(*good) { run + 1 } else { 1 };
                last = Some(*good);
                let before = health.verdict;
                let event = if *good { ProbeEvent::ProbeSucceeded } else { failed() };
                health = health.step(&POLICY, event, at(second as u64));
                if before != Verdict::Unknown && before != health.verdict {
                    let needed = if *good { POLICY.up_after } else { POLICY.down_after };
                    prop_assert_eq!(run, needed);
                }
                if run >= POLICY.down_after.max(POLICY.up_after) {
                    let expected = if *good { Verdict::Healthy } else { Verdict::Unhealthy };
                    prop_assert_eq!(health.verdict, expected);
                }
            }
        }
    }
}
