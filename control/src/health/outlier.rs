//! Is an endpoint to blame for requests that fail? The verdict of traffic, beside that of probes.
//!
//! # What counts
//! A try that found no connection, lost it, got no answer in time, or was answered with 502, 503 or
//! 504 is the endpoint's failure. A client that went away, a body that was never sent to its end
//! and a kept connection that had been closed meanwhile are not. Other server errors (500 …) count
//! only where peers are compared: a request may well be the cause of them, but then for every peer
//! alike.
//!
//! # Who judges
//! - **A run**: `consecutive_failures` in a row. With traffic enough, chance alone makes runs out of
//!   any small share of failures, so an endpoint that fails a share *p* of its requests anyway is
//!   given as many more as it takes until chance would not explain the run.
//! - **Its peers**: in pools where at least three endpoints have had requests enough, one whose
//!   failing share in the last ten seconds lies beyond chance above the median. The median and not
//!   the mean, so that two bad endpoints do not excuse each other.
//! - **Its own past**: in smaller pools (one endpoint in every cloud is normal), one whose failing
//!   share lies beyond chance and by a fifth above that of the minutes before.
//!
//! # What follows
//! It is ejected for `eject_for`, twice as long each time up to 30 s; every half minute that it
//! behaves takes one doubling back. Then it is on trial: it gets a trickle, and its first answer
//! decides. As long as anything that it was asked is unanswered the trial lasts; only if no request
//! comes at all it ends in the endpoint's favour, after as long as the ejection.
//!
//! A probe that passes puts it on trial earlier, if the fault was one that a probe would meet, too,
//! and only until a trial shows that this endpoint's probes do not. Where its probes failed as well,
//! they see the fault: once they have brought it back nothing is held against it.
//!
//! # What is not the endpoint's fault
//! A request that fails alike at every endpoint is its own cause ([`Tries`](crate::decision::tries::Tries) says so). And
//! failures that are bound to one client, host, route or path do not count while the endpoint serves
//! the rest ([`Source`]).

pub mod fault;
mod passive_counters;
mod source;

use std::fmt;
use std::time::Duration;

use portolan_config::plan::OutlierPlan;
use serde::{Deserialize, Serialize};

use crate::clock::Tick;
use crate::health::outlier::fault::EndpointFault;

pub use self::source::{Alike, Source};
pub use crate::health::outlier::passive_counters::{Alarm, Epoch, PassiveCounters, PassiveReading};

/// Ejections are not doubled beyond this.
const LONGEST: Duration = Duration::from_secs(30);

/// Behaving for so long takes one doubling back.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

/// So many ejections are remembered: after two and a half calm minutes all are forgotten.
const MOST_STRIKES: u32 = 5;

/// A run that chance makes less often than this, in all the tries of the last seconds, is none of
/// its making.
const IMPROBABLE: f64 = 0.01;

/// The longest run that is ever asked for.
const LONGEST_RUN: f64 = 64.0;

/// Shares of fewer requests than this say nothing.
const ENOUGH: u64 = 20;

/// A past of fewer requests than this says nothing.
const ENOUGH_PAST: f64 = 100.0;

/// So many endpoints with requests enough are peers.
const PEERS: usize = 3;

/// EjectionState out among peers begins this far above their median.
const ABOVE_PEERS: f64 = 0.1;

/// EjectionState out against the own past begins this far above it.
const ABOVE_PAST: f64 = 0.2;

/// How sure a share must be: so many standard deviations.
const SURE: f64 = 3.0;

/// How much of its weight an endpoint on trial gets.
pub const TRICKLE: f64 = 0.05;

/// Why an endpoint was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EjectionReason {
    /// So many requests in a row failed, the last one like this.
    Run(u32, EndpointFault),
    /// It was on trial, and failed.
    Trial(EndpointFault),
    /// It fails this share of its requests, its pool's median that.
    Peers(f64, f64),
    /// It fails this share of its requests, and failed that before.
    Past(f64, f64),
}

impl EjectionReason {
    /// How many kinds there are.
    pub const KINDS: [&'static str; 4] = ["consecutive", "trial", "peers", "history"];

    /// Its kind, as an index into [`Self::KINDS`].
    pub fn kind(&self) -> usize {
        match self {
            Self::Run(..) => 0,
            Self::Trial(_) => 1,
            Self::Peers(..) => 2,
            Self::Past(..) => 3,
        }
    }

    /// The fault, where it was one.
    pub fn fault(&self) -> Option<EndpointFault> {
        match self {
            Self::Run(_, fault) | Self::Trial(fault) => Some(*fault),
            Self::Peers(..) | Self::Past(..) => None,
        }
    }
}

impl fmt::Display for EjectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(count, fault) => write!(
                f,
                "{count} requests in a row failed, the last: {}",
                fault.words()
            ),
            Self::Trial(fault) => write!(f, "it failed again on trial: {}", fault.words()),
            Self::Peers(share, median) => write!(
                f,
                "it fails {:.0}% of its requests, its peers {:.0}%",
                share * 100.0,
                median * 100.0
            ),
            Self::Past(share, before) => write!(
                f,
                "it fails {:.0}% of its requests, before it was {:.0}%",
                share * 100.0,
                before * 100.0
            ),
        }
    }
}

/// Where an endpoint stands with traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum EjectionState {
    /// Nothing is held against it.
    #[default]
    Free,
    /// It gets no requests.
    Ejected {
        /// Since when.
        since: Tick,
        /// Until when.
        until: Tick,
        /// Why.
        reason: EjectionReason,
    },
    /// It gets a trickle, and what comes of that decides.
    HalfOpen {
        /// Since when.
        since: Tick,
        /// Until when: then it is free, if nothing came of it.
        until: Tick,
        /// Why it was ejected before.
        reason: EjectionReason,
    },
}

impl EjectionState {
    /// Since when it is ejected, if it is.
    pub fn ejected_since(&self) -> Option<Tick> {
        match self {
            Self::Ejected { since, .. } => Some(*since),
            Self::Free | Self::HalfOpen { .. } => None,
        }
    }

    /// How much of its weight it gets when it serves.
    pub fn part(&self) -> f64 {
        match self {
            Self::HalfOpen { .. } => TRICKLE,
            Self::Free | Self::Ejected { .. } => 1.0,
        }
    }
}

/// Tries, by what they said about the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answered well.
    pub answered: u64,
    /// Answered with a server error that may be the request's fault.
    pub errors: u64,
    /// Failed by the endpoint.
    pub failed: u64,
}

impl Tally {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            answered: self.answered.saturating_sub(earlier.answered),
            errors: self.errors.saturating_sub(earlier.errors),
            failed: self.failed.saturating_sub(earlier.failed),
        }
    }

    /// All of them.
    pub fn tries(self) -> u64 {
        self.answered + self.errors + self.failed
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.errors += other.errors;
        self.failed += other.failed;
    }

    /// The share that failed or was answered with an error.
    fn bad(self) -> f64 {
        (self.failed + self.errors) as f64 / self.tries().max(1) as f64
    }
}

/// The tries of the last seconds, second by second, and a fading memory of those before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    seconds: [Tally; Self::SECONDS],
    /// The second that is being counted.
    current: u64,
    past: Past,
}

/// What was before, fading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Past {
    tries: f64,
    failed: f64,
}

impl Window {
    const SECONDS: usize = 10;

    /// How fast the past fades: after so many seconds a try weighs a third.
    const MEMORY: f64 = 300.0;

    fn add(&mut self, tally: Tally, now: Tick) {
        self.roll(now);
        self.seconds[self.current as usize % Self::SECONDS].add(tally);
    }

    /// Goes on to the current second: what is older than the window becomes the past.
    fn roll(&mut self, now: Tick) {
        let second = now.since_start().as_secs();
        let elapsed = second.saturating_sub(self.current);
        if elapsed == 0 {
            return;
        }
        let fade = (-(elapsed as f64) / Self::MEMORY).exp();
        self.past.tries *= fade;
        self.past.failed *= fade;
        for ahead in 1..=elapsed.min(Self::SECONDS as u64) {
            let oldest = (self.current + ahead) as usize % Self::SECONDS;
            let tally = std::mem::take(&mut self.seconds[oldest]);
            self.past.tries += tally.tries() as f64;
            self.past.failed += tally.failed as f64;
        }
        self.current = second;
    }

    /// Forgets the last seconds: they are explained, and not what the endpoint is usually like.
    fn forget(&mut self) {
        self.seconds = Default::default();
    }

    /// All tries of the last seconds.
    pub fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for second in self.seconds {
            sum.add(second);
        }
        sum
    }

    /// The run that chance does not explain: there are about t·pⁿ runs of *n* failures among *t*
    /// tries of which the share *p* fails. `run` is what *p* must not be made of.
    fn improbable_run(&self, run: u32) -> f64 {
        let sum = self.sum();
        let run = f64::from(run);
        let tries = (sum.tries() as f64 + self.past.tries - run).max(0.0);
        let failed = (sum.failed as f64 + self.past.failed - run).max(0.0);
        let p = ((failed + IMPROBABLE) / (tries + 1.0)).min(0.5);
        let t = (sum.tries() as f64).max(1.0);
        // Where nothing ever failed this is 1, give or take the rounding.
        (t / IMPROBABLE).ln() / -p.ln() - 1e-6
    }
}

/// What happens to an endpoint's standing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OutlierEvent {
    /// These tries ended since the last time.
    Counted(Tally),
    /// So many failed in a row, the last one like this.
    Run(u32, EndpointFault),
    /// It stands out among its peers, or against its own past.
    StandsOut(EjectionReason),
    /// Its first answer on trial was good, or not.
    Tried(Result<(), EndpointFault>),
    /// A request of its trial waits for its answer.
    Awaited,
    /// A probe failed as well.
    ProbeFailed,
    /// A probe that began after the ejection passed, and it would have met the fault.
    ProbePassed,
    /// Probes had it down, and say that it is back.
    Recovered,
    /// The cause was found elsewhere.
    Acquitted,
    /// The configuration says not to judge by traffic.
    SwitchedOff,
    /// Time has passed.
    Woken,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EjectionChange {
    /// It gets no requests for so long.
    Ejected(EjectionReason, Duration),
    /// It gets a few.
    HalfOpen,
    /// It gets its share again.
    Readmitted,
}

/// What traffic has told about an endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Where it stands.
    pub standing: EjectionState,
    /// The tries of the last seconds.
    pub window: Window,
    /// Ejections that count for the length of the next one.
    strikes: u32,
    /// Since when it is free.
    free_since: Tick,
    /// The trial under way began because a probe passed.
    by_probe: bool,
    /// Such a trial failed: its probes do not meet the fault.
    misled: bool,
    /// Since its ejection a probe failed, too: its probes meet the fault.
    probes_fail: bool,
}

/// What a process that takes over is told of a record. Times are milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HandedRecord {
    ejection: Option<HandedEjection>,
    strikes: u32,
    free_since: u64,
    by_probe: bool,
    misled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct HandedEjection {
    on_trial: bool,
    since: u64,
    until: u64,
    reason: EjectionReason,
}

impl From<&Record> for HandedRecord {
    fn from(record: &Record) -> Self {
        let milliseconds = |tick: Tick| tick.since_start().as_millis() as u64;
        let ejection = |on_trial, since, until, reason| {
            Some(HandedEjection {
                on_trial,
                since: milliseconds(since),
                until: milliseconds(until),
                reason,
            })
        };
        Self {
            ejection: match record.standing {
                EjectionState::Free => None,
                EjectionState::Ejected {
                    since,
                    until,
                    reason,
                } => ejection(false, since, until, reason),
                EjectionState::HalfOpen {
                    since,
                    until,
                    reason,
                } => ejection(true, since, until, reason),
            },
            strikes: record.strikes,
            free_since: milliseconds(record.free_since),
            by_probe: record.by_probe,
            misled: record.misled,
        }
    }
}

impl Record {
    /// What another process knew, under the policy of this one.
    pub(crate) fn handed_over(handed: &HandedRecord, policy: &OutlierPlan) -> Self {
        let tick = |milliseconds| Tick::after(Duration::from_millis(milliseconds));
        let longest = LONGEST.max(policy.eject_for);
        let standing = match handed.ejection {
            None => EjectionState::Free,
            Some(it) => {
                let since = tick(it.since);
                let until = since + tick(it.until).since(since).min(longest);
                let reason = it.reason;
                if it.on_trial {
                    EjectionState::HalfOpen {
                        since,
                        until,
                        reason,
                    }
                } else {
                    EjectionState::Ejected {
                        since,
                        until,
                        reason,
                    }
                }
            }
        };
        Self {
            standing,
            strikes: handed
                .strikes
                .clamp(u32::from(standing != EjectionState::Free), MOST_STRIKES),
            free_since: tick(handed.free_since),
            by_probe: handed.by_probe,
            misled: handed.misled,
            ..Self::default()
        }
    }

    /// Whether its probes failed as well since it was ejected.
    pub fn probes_fail(&self) -> bool {
        self.probes_fail
    }

    /// What becomes of it when `event` happens.
    #[must_use]
    pub fn step(
        mut self,
        policy: &OutlierPlan,
        event: OutlierEvent,
        now: Tick,
    ) -> (Self, Option<EjectionChange>) {
        let change = match (self.standing, event) {
            (_, OutlierEvent::SwitchedOff | OutlierEvent::Acquitted) => {
                let was_free = self.standing == EjectionState::Free;
                self.strikes = 0;
                self.misled = false;
                (!was_free).then(|| self.free(now))
            }
            (EjectionState::Free, OutlierEvent::Counted(tally)) => {
                self.window.add(tally, now);
                None
            }
            (EjectionState::Free, OutlierEvent::Run(run, fault)) => {
                let needed = self.window.improbable_run(run).min(LONGEST_RUN);
                let enough = run >= policy.consecutive_failures && f64::from(run) >= needed;
                enough.then(|| self.eject(policy, EjectionReason::Run(run, fault), now))
            }
            (EjectionState::Free, OutlierEvent::StandsOut(reason)) => {
                Some(self.eject(policy, reason, now))
            }
            (EjectionState::HalfOpen { .. }, OutlierEvent::Tried(Ok(()))) => {
                self.misled = false;
                Some(self.free(now))
            }
            (
                EjectionState::HalfOpen {
                    since,
                    until,
                    reason,
                },
                OutlierEvent::Awaited,
            ) => {
                // It goes on for a while after the last one has given up waiting.
                self.standing = EjectionState::HalfOpen {
                    since,
                    until: until.max(now + policy.eject_for),
                    reason,
                };
                None
            }
            (
                EjectionState::Ejected { .. } | EjectionState::HalfOpen { .. },
                OutlierEvent::ProbeFailed,
            ) => {
                self.probes_fail = true;
                None
            }
            (EjectionState::HalfOpen { .. }, OutlierEvent::Tried(Err(fault))) => {
                self.misled |= self.by_probe;
                Some(self.eject(policy, EjectionReason::Trial(fault), now))
            }
            (
                EjectionState::Ejected {
                    since,
                    until,
                    reason,
                },
                OutlierEvent::ProbePassed,
            ) if !self.misled => {
                self.by_probe = true;
                Some(self.try_again(reason, until.since(since), now))
            }
            (
                EjectionState::Ejected {
                    since,
                    until,
                    reason,
                },
                OutlierEvent::Woken,
            ) if now >= until => {
                self.by_probe = false;
                Some(self.try_again(reason, until.since(since), now))
            }
            (EjectionState::HalfOpen { until, .. }, OutlierEvent::Woken) if now >= until => {
                Some(self.free(now))
            }
            // Probes have judged already, and by more than one answer.
            (EjectionState::Ejected { reason, .. }, OutlierEvent::Recovered)
                if self.probes_fail
                    || reason
                        .fault()
                        .is_some_and(|fault| fault != EndpointFault::Unavailable) =>
            {
                // What probes see needs no longer and longer ejections.
                self.strikes = 0;
                Some(self.free(now))
            }
            _ => None,
        };
        self.check_invariants(policy);
        (self, change)
    }

    fn eject(&mut self, policy: &OutlierPlan, reason: EjectionReason, now: Tick) -> EjectionChange {
        if self.standing == EjectionState::Free {
            let behaved = now.since(self.free_since).as_secs() / FORGIVEN_AFTER.as_secs();
            let forgiven = u32::try_from(behaved).unwrap_or(u32::MAX);
            self.strikes = self.strikes.saturating_sub(forgiven);
        }
        let doubled = policy.eject_for.saturating_mul(1 << self.strikes);
        let span = doubled.min(LONGEST.max(policy.eject_for));
        self.strikes = (self.strikes + 1).min(MOST_STRIKES);
        self.probes_fail = false;
        self.window.forget();
        self.standing = EjectionState::Ejected {
            since: now,
            until: now + span,
            reason,
        };
        EjectionChange::Ejected(reason, span)
    }

    fn try_again(&mut self, reason: EjectionReason, span: Duration, now: Tick) -> EjectionChange {
        self.standing = EjectionState::HalfOpen {
            since: now,
            until: now + span,
            reason,
        };
        EjectionChange::HalfOpen
    }

    fn free(&mut self, now: Tick) -> EjectionChange {
        self.standing = EjectionState::Free;
        self.free_since = now;
        EjectionChange::Readmitted
    }

    fn check_invariants(&self, policy: &OutlierPlan) {
        if let EjectionState::Ejected { since, until, .. } = self.standing {
            debug_assert!(
                until.since(since) <= LONGEST.max(policy.eject_for),
                "ejected for too long: {self:?}"
            );
            debug_assert!(self.strikes > 0, "ejected for nothing: {self:?}");
        }
    }
}

/// Who of a pool's free endpoints stands out, and why: the worst, or nobody.
pub fn stands_out(windows: &[Option<&Window>]) -> Option<(usize, EjectionReason)> {
    let judged: Vec<(usize, &Window, Tally)> = windows
        .iter()
        .enumerate()
        .filter_map(|(at, window)| window.map(|window| (at, window, window.sum())))
        .filter(|(_, _, sum)| sum.tries() >= ENOUGH)
        .collect();
    if judged.len() >= PEERS {
        let mut shares: Vec<f64> = judged.iter().map(|(_, _, sum)| sum.bad()).collect();
        shares.sort_by(f64::total_cmp);
        let median = shares[shares.len() / 2];
        judged
            .iter()
            .filter(|(_, _, sum)| {
                at_least(sum.failed + sum.errors, sum.tries()) > median + ABOVE_PEERS
            })
            .map(|(at, _, sum)| (*at, EjectionReason::Peers(sum.bad(), median)))
            .max_by(|(_, a), (_, b)| share_of(a).total_cmp(&share_of(b)))
    } else {
        judged
            .iter()
            .filter(|(_, window, _)| window.past.tries >= ENOUGH_PAST)
            .filter(|(_, window, sum)| {
                let before = at_most(window.past.failed, window.past.tries);
                at_least(sum.failed, sum.tries()) > before + ABOVE_PAST
            })
            .map(|(at, window, sum)| {
                let share = sum.failed as f64 / sum.tries() as f64;
                let before = window.past.failed / window.past.tries;
                (*at, EjectionReason::Past(share, before))
            })
            .max_by(|(_, a), (_, b)| share_of(a).total_cmp(&share_of(b)))
    }
}

fn share_of(reason: &EjectionReason) -> f64 {
    match reason {
        EjectionReason::Peers(share, _) | EjectionReason::Past(share, _) => *share,
        EjectionReason::Run(..) | EjectionReason::Trial(_) => 1.0,
    }
}

/// What a share of so many is at least, and at most: Wilson's interval.
fn at_least(part: u64, all: u64) -> f64 {
    let (middle, reach) = wilson(part as f64, all as f64);
    middle - reach
}

fn at_most(part: f64, all: f64) -> f64 {
    let (middle, reach) = wilson(part, all);
    middle + reach
}

fn wilson(part: f64, n: f64) -> (f64, f64) {
    let p = part / n;
    let square = SURE * SURE;
    let scale = 1.0 + square / n;
    let middle = (p + square / (2.0 * n)) / scale;
    let reach = SURE * (p * (1.0 - p) / n + square / (4.0 * n * n)).sqrt() / scale;
    (middle, reach)
}

#[cfg(test)]
mod tests {
    use portolan_config::plan::ProbeKind;

    use super::*;

    const POLICY: OutlierPlan = OutlierPlan {
        consecutive_failures: 3,
        eject_for: Duration::from_secs(2),
        max_ejected: 0.5,
    };

    fn at(milliseconds: u64) -> Tick {
        Tick::after(Duration::from_millis(milliseconds))
    }

    /// A record, driven by hand.
    struct Story {
        record: Record,
        now: u64,
    }

    impl Story {
        fn new() -> Self {
            Self {
                record: Record::default(),
                now: 0,
            }
        }

        fn step(&mut self, event: OutlierEvent) -> Option<EjectionChange> {
            let record = std::mem::take(&mut self.record);
            let (record, change) = record.step(&POLICY, event, at(self.now));
            self.record = record;
            change
        }

        /// So many tries a second for so many seconds, of which so many fail.
        fn traffic(&mut self, seconds: u64, tries: u64, failed: u64) {
            for _ in 0..seconds {
                self.now += 1_000;
                let tally = Tally {
                    answered: tries - failed,
                    errors: 0,
                    failed,
                };
                assert_eq!(self.step(OutlierEvent::Counted(tally)), None);
            }
        }

        fn ejected_for(&mut self, event: OutlierEvent) -> u64 {
            match self.step(event) {
                Some(EjectionChange::Ejected(_, span)) => span.as_secs(),
                other => panic!("{other:?}"),
            }
        }

        /// Waits until the ejection is over.
        fn wait(&mut self) {
            let EjectionState::Ejected { until, .. } = self.record.standing else {
                panic!("{:?}", self.record.standing);
            };
            self.now = until.since_start().as_millis() as u64 - 1;
            assert_eq!(self.step(OutlierEvent::Woken), None);
            self.now += 1;
            assert_eq!(
                self.step(OutlierEvent::Woken),
                Some(EjectionChange::HalfOpen)
            );
        }
    }

    const FAILED: OutlierEvent = OutlierEvent::Tried(Err(EndpointFault::Unavailable));
    const PASSED: OutlierEvent = OutlierEvent::Tried(Ok(()));
    const RUN: OutlierEvent = OutlierEvent::Run(3, EndpointFault::Unavailable);

    #[test]
    fn three_in_a_row_eject_and_the_first_answer_on_trial_decides() {
        let mut story = Story::new();
        assert_eq!(
            story.step(OutlierEvent::Run(2, EndpointFault::Connect)),
            None
        );
        assert_eq!(story.ejected_for(RUN), 2);
        for length in [4, 8, 16, 30, 30, 30] {
            story.wait();
            assert_eq!(story.ejected_for(FAILED), length);
        }
        story.wait();
        assert_eq!(story.step(PASSED), Some(EjectionChange::Readmitted));
        assert_eq!(story.record.standing, EjectionState::Free);
    }

    #[test]
    fn behaving_takes_doublings_back() {
        let mut story = Story::new();
        story.ejected_for(RUN);
        story.wait();
        story.ejected_for(FAILED);
        story.wait();
        story.step(PASSED);
        story.now += 29_000;
        assert_eq!(story.ejected_for(RUN), 8, "not yet half a minute");
        story.wait();
        story.step(PASSED);
        story.now += 60_000;
        assert_eq!(story.ejected_for(RUN), 4, "two of three are forgiven");
        story.wait();
        story.step(PASSED);
        story.now += 3_600_000;
        assert_eq!(story.ejected_for(RUN), 2);
    }

    #[test]
    fn a_trial_that_nobody_asks_anything_ends_well() {
        let mut story = Story::new();
        story.ejected_for(RUN);
        story.wait();
        story.now += 1_999;
        assert_eq!(story.step(OutlierEvent::Woken), None);
        story.now += 1;
        assert_eq!(
            story.step(OutlierEvent::Woken),
            Some(EjectionChange::Readmitted)
        );
    }

    #[test]
    fn probes_help_until_a_trial_shows_that_they_do_not_see_the_fault() {
        let mut story = Story::new();
        let refused = OutlierEvent::Run(3, EndpointFault::Connect);
        story.ejected_for(refused);
        assert_eq!(
            story.step(OutlierEvent::ProbePassed),
            Some(EjectionChange::HalfOpen)
        );
        assert_eq!(
            story.ejected_for(OutlierEvent::Tried(Err(EndpointFault::Connect))),
            4
        );
        assert_eq!(
            story.step(OutlierEvent::ProbePassed),
            None,
            "it was wrong before"
        );
        story.wait();
        assert_eq!(story.step(PASSED), Some(EjectionChange::Readmitted));
        story.ejected_for(refused);
        assert_eq!(
            story.step(OutlierEvent::ProbePassed),
            Some(EjectionChange::HalfOpen),
            "another day"
        );

        assert!(EndpointFault::Connect.is_met_by(&ProbeKind::Tcp));
        assert!(!EndpointFault::TimedOut.is_met_by(&ProbeKind::Tcp));
        let grpc = ProbeKind::Grpc { service: "".into() };
        assert!(EndpointFault::TimedOut.is_met_by(&grpc) && EndpointFault::Broken.is_met_by(&grpc));
        assert!(!EndpointFault::Unavailable.is_met_by(&grpc));
    }

    #[test]
    fn probes_that_had_it_down_and_say_it_is_back_are_believed() {
        let mut story = Story::new();
        story.ejected_for(OutlierEvent::Run(3, EndpointFault::TimedOut));
        assert_eq!(
            story.step(OutlierEvent::Recovered),
            Some(EjectionChange::Readmitted)
        );
        story.ejected_for(RUN);
        assert_eq!(
            story.step(OutlierEvent::Recovered),
            None,
            "statuses are not theirs to judge"
        );
        assert_eq!(
            story.step(OutlierEvent::SwitchedOff),
            Some(EjectionChange::Readmitted)
        );
        assert_eq!(story.ejected_for(RUN), 2, "all is forgiven");
    }

    #[test]
    fn a_run_that_chance_explains_is_none() {
        // 2,000 requests a second of which one in twenty fails: three in a row come every few
        // seconds.
        let mut story = Story::new();
        story.traffic(20, 2_000, 100);
        for run in 3..=4 {
            assert_eq!(
                story.step(OutlierEvent::Run(run, EndpointFault::Unavailable)),
                None,
                "{run}"
            );
        }
        story.ejected_for(OutlierEvent::Run(6, EndpointFault::Unavailable));

        // Of one that never fails, three are enough, however much traffic there is.
        let mut story = Story::new();
        story.traffic(20, 50_000, 0);
        story.ejected_for(RUN);

        // One that fails all the time, and could not be ejected, still has an end.
        let mut story = Story::new();
        story.traffic(600, 1_000, 1_000);
        story.ejected_for(OutlierEvent::Run(64, EndpointFault::Unavailable));
    }

    fn window(seconds: u64, tries: u64, failed: u64, then: (u64, u64)) -> Window {
        let mut story = Story::new();
        story.traffic(seconds, tries, failed);
        story.traffic(10, then.0, then.1);
        story.record.window
    }

    #[test]
    fn who_fails_more_than_its_peers_stands_out() {
        let good = window(0, 0, 0, (100, 1));
        let bad = window(0, 0, 0, (100, 30));
        let worse = window(0, 0, 0, (100, 60));
        let few = window(0, 0, 0, (1, 1));
        let judge = |windows: &[&Window]| {
            let windows: Vec<_> = windows.iter().map(|window| Some(*window)).collect();
            stands_out(&windows).map(|(at, _)| at)
        };
        assert_eq!(judge(&[&good, &good, &bad]), Some(2));
        assert_eq!(judge(&[&good, &bad, &good, &worse, &good]), Some(3));
        assert_eq!(judge(&[&bad, &bad, &bad]), None, "all alike");
        assert_eq!(judge(&[&good, &good, &few]), None, "too little is known");
        assert_eq!(judge(&[&good, &good]), None, "two are no peers");
        let slightly = window(0, 0, 0, (100, 8));
        assert_eq!(judge(&[&good, &good, &slightly]), None, "not worth it");
        let (_, reason) = stands_out(&[Some(&good), None, Some(&good), Some(&bad)]).unwrap();
        assert_eq!(
            reason.to_string(),
            "it fails 30% of its requests, its peers 1%"
        );
    }

    #[test]
    fn one_that_is_alone_is_compared_with_its_past() {
        let judge = |window: &Window| stands_out(&[Some(window)]);
        let broke = window(60, 20, 0, (20, 8));
        let (_, reason) = judge(&broke).unwrap();
        assert_eq!(
            reason.to_string(),
            "it fails 40% of its requests, before it was 0%"
        );
        assert_eq!(judge(&window(60, 20, 8, (20, 8))), None, "as always");
        assert_eq!(judge(&window(60, 20, 0, (20, 3))), None, "not worth it");
        assert_eq!(judge(&window(0, 0, 0, (20, 20))), None, "it has no past");
        assert_eq!(judge(&window(3, 20, 0, (1, 1))), None, "too few now");
    }

    #[test]
    fn the_past_fades_and_does_not_count_what_led_to_an_ejection() {
        let mut story = Story::new();
        story.traffic(30, 100, 0);
        story.traffic(5, 100, 100);
        story.ejected_for(OutlierEvent::Run(500, EndpointFault::Unavailable));
        story.now += 20_000;
        story.record.window.roll(at(story.now));
        assert!(story.record.window.past.failed < 1e-9);
        let before = story.record.window.past.tries;
        story.now += 300_000;
        story.record.window.roll(at(story.now));
        let faded = story.record.window.past.tries / before;
        assert!((faded - (-1f64).exp()).abs() < 0.01, "{faded}");
    }
}
