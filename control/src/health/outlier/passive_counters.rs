//! What requests tell about an endpoint while they pass: counts and a run of failures, written with
//! single atomic operations, read by the engine.
//!
//! A good answer of an endpoint that failed nobody lately costs one load. Only a failure, and the
//! first success after one, writes; and only what may change the engine's mind wakes it.
//!
//! # Epochs
//! A request may end long after its endpoint was ejected, or put on trial. What it tells is about the
//! time when it began, so every try remembers the epoch of its beginning, and only tries of the
//! current one count in a row.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::source::{Source, Sources};
use crate::clock::Tick;
use crate::counters::{Counter, Gauge};
use crate::health::outlier::fault::EndpointFault;

/// Wakes the engine. Ringing never waits, and ringing twice before it wakes is ringing once.
#[derive(Debug, Default)]
pub struct Alarm {
    bell: tokio::sync::Notify,
    /// The engine has nothing to look at until a try ends.
    asleep: AtomicBool,
    /// How often somebody asked for a verdict.
    asked: AtomicU64,
    /// Of these, how many have one.
    answered: AtomicU64,
}

impl Alarm {
    /// Wakes it.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// Wakes it, and returns the number of this question: see [`Self::answer`].
    fn ask(&self) -> u64 {
        let question = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.ring();
        question
    }

    /// Questions so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// What follows from all questions up to this one is published.
    pub fn answer(&self, question: u64) {
        self.answered.store(question, Ordering::Release);
    }

    /// Waits until somebody rings.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// The engine does not look any more by itself: the next try that ends is to wake it.
    ///
    /// A try that ends at this very moment may still find it awake. Nothing is lost by that: what
    /// could change the engine's mind by itself rings anyway, and whatever else that try counts for
    /// is counted with the next one.
    pub fn sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
    }

    /// The engine looks by itself again.
    pub fn wake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Whether the next try that ends is to wake it.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// A try has ended: wakes the engine if it sleeps. Nothing but a load otherwise.
    fn rouse(&self) {
        if self.is_asleep() && self.asleep.swap(false, Ordering::Relaxed) {
            self.ring();
        }
    }
}

/// When a try began, in terms of its endpoint's standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    number: u32,
    /// Its endpoint is on trial, and what becomes of the try decides.
    on_trial: bool,
}

/// The lower half of the state: failures in a row, and how a trial went.
const ON_TRIAL: u64 = 1 << 31;
const PASSED: u64 = 1 << 30;
const FAILED: u64 = 1 << 29;
const RUN: u64 = FAILED - 1;
const LOWER: u64 = u32::MAX as u64;

/// What requests tell about one endpoint.
#[derive(Debug, Default)]
pub struct PassiveCounters {
    /// The epoch in the upper half; in the lower one the flags and the failures in a row.
    state: AtomicU64,
    /// So many failures in a row wake the engine; 0: none do.
    alarm_at: AtomicU32,
    last_fault: AtomicU8,
    /// The last question about it that was asked of the engine; 0: none ever was.
    question: AtomicU64,
    /// Tries of a trial that have not ended: the epoch in the upper half, the number in the lower one.
    tried: AtomicU64,
    /// Whose requests were served, and whose failed.
    sources: Sources,
    /// Failures that are counted as tries, but say nothing about the endpoint.
    pub(crate) excused: Counter,
    /// Failures that are counted as tries, and of which it is not known yet what they say.
    pub(crate) suspended: Gauge,
    /// Answers that broke off after their headers had come.
    pub(crate) truncated: Counter,
    alarm: Arc<Alarm>,
}

/// What the engine finds when it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassiveReading {
    /// Failures in a row.
    pub run: u32,
    /// The last of them.
    pub fault: EndpointFault,
    /// How the trial went, if there is one and a request of it was answered.
    pub trial: Option<bool>,
    /// A request of the trial waits for its answer.
    pub waits: bool,
    /// The failures in a row are bound to one client, host, route or path, while the rest is served.
    pub bound: bool,
    /// So are all that failed lately.
    pub all_bound: bool,
}

impl PassiveCounters {
    /// A witness that wakes the engine through this.
    pub fn new(alarm: Arc<Alarm>) -> Self {
        Self {
            alarm,
            ..Self::default()
        }
    }

    /// A try has ended: wakes the engine if it sleeps.
    pub(crate) fn rouse(&self) {
        self.alarm.rouse();
    }

    /// The epoch of a try that begins now. It is given back by [`Self::over`].
    pub fn begin(&self) -> Epoch {
        let state = self.state.load(Ordering::Relaxed);
        let epoch = Epoch {
            number: epoch_of(state),
            on_trial: state & ON_TRIAL != 0,
        };
        if epoch.on_trial {
            self.count(epoch, |tries| tries + 1);
        }
        epoch
    }

    /// A try that began in this epoch is over, however it ended.
    pub fn over(&self, epoch: Epoch) {
        if epoch.on_trial {
            self.count(epoch, |tries| tries.saturating_sub(1));
        }
    }

    /// Counts the tries of a trial that have not ended. Those of earlier ones count no more.
    fn count(&self, epoch: Epoch, change: impl Fn(u32) -> u32) {
        let _ = self
            .tried
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |tried| {
                let tries = match epoch_of(tried) {
                    number if number == epoch.number => change(tried as u32),
                    number if number < epoch.number => change(0),
                    _ => return None,
                };
                Some(u64::from(epoch.number) << 32 | u64::from(tries))
            });
    }

    /// A try of this epoch got an answer that is not the endpoint's failure.
    pub fn succeeded(&self, epoch: Epoch, now: Tick, source: impl FnOnce() -> Source) {
        self.sources.served(now, source);
        if self.state.load(Ordering::Relaxed) & LOWER == 0 {
            return;
        }
        let before = self
            .state
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
                if epoch_of(state) != epoch.number || state & FAILED != 0 {
                    return None;
                }
                let trial = state & ON_TRIAL;
                let passed = if trial == 0 { 0 } else { PASSED };
                Some(state & !LOWER | trial | passed)
            });
        if before.is_ok_and(|state| state & ON_TRIAL != 0 && state & PASSED == 0) {
            self.alarm.ring();
        }
    }

    /// A try of this epoch failed, and the endpoint is to blame.
    pub fn failed(&self, fault: EndpointFault, epoch: Epoch, source: Source) {
        self.last_fault.store(fault as u8, Ordering::Relaxed);
        let alarm_at = u64::from(self.alarm_at.load(Ordering::Relaxed));
        let before = self
            .state
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
                if epoch_of(state) != epoch.number {
                    return None;
                }
                let failed = if state & ON_TRIAL != 0 && state & PASSED == 0 {
                    FAILED
                } else {
                    0
                };
                let longer = if state & RUN == RUN { 0 } else { 1 };
                Some((state | failed) + longer)
            });
        if let Ok(state) = before {
            let trial = state & ON_TRIAL != 0 && state & (PASSED | FAILED) == 0;
            let run = (state & RUN) + 1;
            let less_bound = self.sources.failed(source, run == 1);
            let enough = alarm_at > 0 && run >= alarm_at;
            // Of further ones only those that change something. What is bound to something is no news that
            // cannot wait for the engine's next look.
            let news = enough && (run == alarm_at || less_bound) && !self.sources.seems_bound();
            if trial || news {
                self.question.store(self.alarm.ask(), Ordering::Relaxed);
            }
        }
    }

    /// It failed as often as is needed for an ejection, or on trial, and the engine has not decided
    /// yet: on a busy machine that may take milliseconds, in which others had better be asked.
    pub fn awaits_verdict(&self) -> bool {
        match self.question.load(Ordering::Relaxed) {
            0 => false,
            question => question > self.alarm.answered.load(Ordering::Relaxed),
        }
    }

    /// So many failures in a row are to wake the engine; 0: none are.
    pub fn set_alarm(&self, failures: u32) {
        self.alarm_at.store(failures, Ordering::Relaxed);
    }

    /// The endpoint's standing changed: what began before counts no more.
    pub fn turn(&self, on_trial: bool) {
        let trial = if on_trial { ON_TRIAL } else { 0 };
        let _ = self
            .state
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
                let next = epoch_of(state).wrapping_add(1);
                Some((u64::from(next) << 32) | trial)
            });
    }

    /// What there is to see now.
    pub fn look(&self, now: Tick) -> PassiveReading {
        let state = self.state.load(Ordering::Relaxed);
        let tried = self.tried.load(Ordering::Relaxed);
        let run = state & RUN;
        PassiveReading {
            waits: epoch_of(tried) == epoch_of(state) && tried as u32 > 0,
            bound: run > 0 && self.sources.is_bound(now),
            all_bound: self.sources.is_all_bound(now),
            run: run as u32,
            fault: EndpointFault::ALL[usize::from(self.last_fault.load(Ordering::Relaxed)) % 4],
            trial: match state & (ON_TRIAL | PASSED | FAILED) {
                flags if flags & ON_TRIAL == 0 => None,
                flags if flags & FAILED != 0 => Some(false),
                flags if flags & PASSED != 0 => Some(true),
                _ => None,
            },
        }
    }
}

fn epoch_of(state: u64) -> u32 {
    (state >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick::ZERO;

    fn any() -> Source {
        Source::default()
    }

    #[test]
    fn failures_count_in_a_row_and_only_of_this_epoch() {
        let passive = PassiveCounters::default();
        let old = passive.begin();
        passive.failed(EndpointFault::Connect, old, any());
        passive.failed(EndpointFault::Unavailable, old, any());
        assert_eq!(
            (passive.look(NOW).run, passive.look(NOW).fault),
            (2, EndpointFault::Unavailable)
        );
        passive.succeeded(old, NOW, any);
        assert_eq!(passive.look(NOW).run, 0);
        passive.failed(EndpointFault::Connect, old, any());
        passive.turn(false);
        passive.failed(EndpointFault::Connect, old, any());
        assert_eq!(passive.look(NOW).run, 0, "it began before");
        passive.failed(EndpointFault::Connect, passive.begin(), any());
        passive.succeeded(old, NOW, any);
        assert_eq!(passive.look(NOW).run, 1, "that, too");
    }

    #[test]
    fn the_first_word_of_a_trial_counts() {
        for passes in [true, false] {
            let passive = PassiveCounters::default();
            let old = passive.begin();
            passive.turn(true);
            let new = passive.begin();
            passive.succeeded(old, NOW, any);
            passive.failed(EndpointFault::Broken, old, any());
            assert_eq!(passive.look(NOW).trial, None);
            if passes {
                passive.succeeded(new, NOW, any);
            } else {
                passive.failed(EndpointFault::TimedOut, new, any());
            }
            passive.succeeded(new, NOW, any);
            passive.failed(EndpointFault::Broken, new, any());
            passive.succeeded(new, NOW, any);
            assert_eq!(passive.look(NOW).trial, Some(passes));
        }
    }

    #[test]
    fn who_is_asked_about_waits_for_the_answer() {
        let alarm = Arc::new(Alarm::default());
        let (a, b) = (
            PassiveCounters::new(alarm.clone()),
            PassiveCounters::new(alarm.clone()),
        );
        a.set_alarm(2);
        b.set_alarm(1);
        a.failed(EndpointFault::Connect, a.begin(), any());
        assert!(!a.awaits_verdict() && !b.awaits_verdict());
        a.failed(EndpointFault::Connect, a.begin(), any());
        assert!(a.awaits_verdict());
        let asked = alarm.asked();
        b.failed(EndpointFault::Connect, b.begin(), any());
        alarm.answer(asked);
        assert!(!a.awaits_verdict() && b.awaits_verdict());
        alarm.answer(alarm.asked());
        assert!(!b.awaits_verdict());
        // Its first failure on trial is a question, too; that it passes is not.
        a.turn(true);
        a.succeeded(a.begin(), NOW, any);
        assert!(!a.awaits_verdict());
        a.turn(true);
        a.failed(EndpointFault::Broken, a.begin(), any());
        assert!(a.awaits_verdict());
    }

    #[tokio::test]
    async fn the_alarm_rings_when_the_threshold_is_reached_and_for_a_trial() {
        let alarm = Arc::new(Alarm::default());
        let rung = async || {
            tokio::select! {
                biased;
                () = alarm.rung() => true,
                () = async {} => false,
            }
        };
        let passive = PassiveCounters::new(alarm.clone());
        passive.failed(EndpointFault::Connect, passive.begin(), any());
        assert!(!rung().await, "nobody asked");
        passive.set_alarm(3);
        passive.failed(EndpointFault::Connect, passive.begin(), any());
        assert!(!rung().await);
        passive.failed(EndpointFault::Connect, passive.begin(), any());
        assert!(rung().await && !rung().await, "once");
        passive.failed(EndpointFault::Connect, passive.begin(), any());
        assert!(!rung().await, "the engine knows");
        passive.turn(true);
        passive.succeeded(passive.begin(), NOW, any);
        assert!(rung().await);
        passive.turn(true);
        passive.failed(EndpointFault::Broken, passive.begin(), any());
        assert!(rung().await);
    }

    #[test]
    fn a_trial_waits_for_those_that_it_asked() {
        let passive = PassiveCounters::default();
        let before = passive.begin();
        passive.turn(true);
        assert!(!passive.look(NOW).waits);
        let (one, two) = (passive.begin(), passive.begin());
        passive.over(before);
        passive.over(one);
        assert!(passive.look(NOW).waits);
        passive.over(two);
        assert!(!passive.look(NOW).waits);
        // Those of an earlier trial are not waited for.
        let _earlier = passive.begin();
        passive.turn(true);
        assert!(!passive.look(NOW).waits);
        let later = passive.begin();
        passive.over(_earlier);
        assert!(passive.look(NOW).waits);
        passive.over(later);
        assert!(!passive.look(NOW).waits);
    }
}
