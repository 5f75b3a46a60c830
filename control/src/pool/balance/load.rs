//! How loaded an endpoint is, for what it can bear.

use std::time::Duration;

use crate::clock::Tick;
use crate::pool::endpoint::{Endpoint, MEMORY};

/// An endpoint whose latency, times those who wait already, is less than so many times another's is
/// as good as that one: averages over a few dozens of answers differ by as much without a reason.
const CLEARLY: f64 = 1.5;

/// An endpoint's load at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// At least 1.
    weight: f64,
    in_flight: f64,
    /// Where latency counts, and is known.
    latency: Option<Latency>,
}

/// What is known about an endpoint's latency.
#[derive(Clone, Copy, Debug)]
struct Latency {
    /// The average, in seconds.
    average: f64,
    /// How long ago the last answer came.
    age: Duration,
}

impl Load {
    /// An endpoint's load now. With `now`, its latency counts, too.
    pub(super) fn of(endpoint: &Endpoint, weight: u32, now: Option<Tick>) -> Self {
        let latency = now.and_then(|now| endpoint.latency(now));
        Self {
            weight: f64::from(weight),
            in_flight: f64::from(endpoint.in_flight()),
            latency: latency.map(|(average, age)| Latency {
                average: average.as_secs_f64(),
                age,
            }),
        }
    }

    /// Whether it is so much more loaded than another one that a request is better off there. Never
    /// both ways, and never for an endpoint that is idle, unless it is slower.
    pub(super) fn exceeds(&self, other: &Self) -> bool {
        match (self.latency, other.latency) {
            (Some(mine), Some(theirs)) => self.takes_longer(mine, other, theirs),
            // Somebody must try those of which nothing is known.
            _ => self.has_more_requests(other),
        }
    }

    /// Load is counted as seats are given to parties by Sainte-Laguë: (requests + ½) ÷ weight, which
    /// favours neither the light nor the heavy ones. It is clearly more if it is by half a
    /// request of the lighter one. Both sides are multiplied by twice both weights.
    fn has_more_requests(&self, other: &Self) -> bool {
        let mine = (2.0 * self.in_flight + 1.0) * other.weight;
        let theirs = (2.0 * other.in_flight + 1.0) * self.weight;
        mine - theirs > self.weight.max(other.weight)
    }

    /// Whether a request would take longer here: latency × (requests in flight + 1), where requests
    /// are counted as the lighter of both can bear them.
    fn takes_longer(&self, mine: Latency, other: &Self, theirs: Latency) -> bool {
        // An endpoint that is avoided tells nothing new: the older what is known, the less it counts
        // that they differ. Sooner or later somebody tries again.
        let age = mine.age.max(theirs.age);
        let believed = (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        let fast = mine.average.min(theirs.average);
        let seen = |latency: Latency| fast + (latency.average - fast) * believed;
        let lighter = self.weight.min(other.weight);
        let time =
            |load: &Self, latency| seen(latency) * (1.0 + load.in_flight * lighter / load.weight);
        time(self, mine) > time(other, theirs) * CLEARLY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(weight: u32, in_flight: u32) -> Load {
        Load {
            weight: f64::from(weight),
            in_flight: f64::from(in_flight),
            latency: None,
        }
    }

    fn taking(milliseconds: f64, age: u64, load: Load) -> Load {
        Load {
            latency: Some(Latency {
                average: milliseconds / 1_000.0,
                age: Duration::from_secs(age),
            }),
            ..load
        }
    }

    #[test]
    fn one_request_more_than_the_share_is_too_many() {
        // Both of the same weight: any difference counts.
        assert!(busy(1, 1).exceeds(&busy(1, 0)));
        assert!(busy(7, 31).exceeds(&busy(7, 30)));
        assert!(!busy(1, 1).exceeds(&busy(1, 1)));
        // Nearly so.
        assert!(busy(10, 1).exceeds(&busy(9, 0)));
        assert!(busy(9, 1).exceeds(&busy(10, 0)));
        assert!(!busy(9, 1).exceeds(&busy(10, 1)));
        // A hundred requests there are one here.
        assert!(!busy(100, 99).exceeds(&busy(1, 0)));
        assert!(busy(100, 100).exceeds(&busy(1, 0)));
        assert!(busy(1, 1).exceeds(&busy(100, 99)));
        assert!(!busy(1, 1).exceeds(&busy(100, 100)));
    }

    #[test]
    fn who_is_idle_is_loaded_less_than_nobody_and_never_both_ways() {
        for weights in [(1, 1), (10, 9), (1, 1_000), (1_000, 50), (u32::MAX, 1)] {
            for mine in 0..200 {
                for theirs in 0..20 {
                    let (a, b) = (busy(weights.0, mine), busy(weights.1, theirs));
                    assert!(!(a.exceeds(&b) && b.exceeds(&a)), "{a:?} {b:?}");
                    assert!(mine > 0 || !a.exceeds(&b), "{a:?} {b:?}");
                    assert!(theirs > 0 || !b.exceeds(&a), "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn who_is_clearly_slower_is_left_even_when_idle() {
        let fast = taking(10.0, 0, busy(1, 0));
        assert!(taking(16.0, 0, busy(1, 0)).exceeds(&fast));
        assert!(!taking(14.0, 0, busy(1, 0)).exceeds(&fast));
        // A weight is what an endpoint can bear, no reason to wait there.
        assert!(taking(16.0, 0, busy(1_000, 0)).exceeds(&fast));
        assert!(!taking(10.0, 0, busy(1_000, 0)).exceeds(&fast));
        assert!(!fast.exceeds(&taking(10.0, 0, busy(1_000, 0))));
        // Those who wait there already count.
        assert!(taking(10.0, 0, busy(1, 1)).exceeds(&fast));
        assert!(!taking(10.0, 0, busy(1, 3)).exceeds(&taking(16.0, 0, busy(1, 2))));
        // Of an endpoint of which nothing is known only the requests count.
        assert!(!taking(500.0, 0, busy(1, 0)).exceeds(&busy(1, 0)));
        assert!(taking(5.0, 0, busy(1, 1)).exceeds(&busy(1, 0)));
    }

    #[test]
    fn what_was_slow_is_tried_again_after_a_while() {
        let fast = taking(10.0, 0, busy(1, 0));
        assert!(taking(100.0, 5, busy(1, 0)).exceeds(&fast));
        assert!(taking(100.0, 25, busy(1, 0)).exceeds(&fast));
        assert!(!taking(100.0, 30, busy(1, 0)).exceeds(&fast));
        // One at a time.
        assert!(taking(100.0, 30, busy(1, 1)).exceeds(&fast));
    }
}
