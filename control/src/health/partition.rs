//! Is it us? When every pool fails at the same time, the likelier culprit is the one thing that they
//! have in common: this instance's own network.
//!
//! # What follows
//! While it suspects itself, an instance **holds** the distribution of before the collapse. Nothing
//! would be won by judging: there is nobody left to prefer, and clouds that never were away should
//! not get their traffic back in the order in which their probes happen to be answered first. If
//! they really all died at once, requests fail exactly as they would without it.
//!
//! # When it begins
//! No probed pool is up any more, and at least two of them were until a moment ago: they fell within
//! a window that is as long as their probes may need to notice. Pools that were down before say
//! nothing, and neither do pools without probes.
//!
//! # When it ends
//! A probe that passes says that the network is back. The distribution is held a little longer, so
//! that the others' probes can say so, too: until all that fell are up again, or the time that they
//! need for it is over and at least one is up. Then everybody is judged as usual.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portolan_config::names::Name;
use portolan_config::plan::ProbePlan;

use crate::clock::Tick;

/// Pools that fell within this time did not fall together, however slow their probes are.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// Hedged what probes need: for the engine, and for a busy machine.
const MARGIN: Duration = Duration::from_secs(1);

/// What happens to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionEvent {
    /// These are the probed pools that are not drained, and whether their probes say that they can
    /// serve.
    Judged(Vec<(Name, bool)>),
    /// A probe passed.
    ProbePassed,
    /// Time has passed.
    Woken,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionChange {
    /// It holds what was before the collapse.
    Holding,
    /// The network is back: everybody should be probed now.
    Settling,
    /// It judges as usual.
    LetGo,
}

/// How long things may take, by the probes of all pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Pools that fall within this time fall together.
    pub window: Duration,
    /// Pools that come back need no longer than this.
    pub settle: Duration,
}

impl Pace {
    /// The pace of these probes.
    pub fn of<'a>(probes: impl Iterator<Item = &'a ProbePlan>) -> Self {
        let mut pace = Self::default();
        for probe in probes {
            pace.window = pace.window.max(probe.failover_bound());
            // The first one goes out at once, when another pool's has passed.
            let again = probe.fast_every.saturating_add(probe.timeout);
            let settle = again.saturating_mul(probe.up_after - 1);
            pace.settle = pace.settle.max(settle.saturating_add(probe.timeout));
        }
        Self {
            window: (pace.window + MARGIN).min(LONGEST_WINDOW),
            settle: (pace.settle + MARGIN).min(LONGEST_WINDOW),
        }
    }
}

/// Whether an instance suspects itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionDetector {
    /// When each pool that is down fell.
    fell: BTreeMap<Name, Tick>,
    up: BTreeSet<Name>,
    held: Option<Held>,
}

/// What it holds on to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    since: Tick,
    fallen: BTreeSet<Name>,
    /// The network is back, and at this time it is over.
    settled: Option<Tick>,
}

impl PartitionDetector {
    /// Since when it suspects itself, if it does.
    pub fn since(&self) -> Option<Tick> {
        self.held.as_ref().map(|held| held.since)
    }

    /// The pools that fell together.
    pub fn fallen(&self) -> impl Iterator<Item = &Name> {
        self.held.iter().flat_map(|held| &held.fallen)
    }

    /// What becomes of it when `event` happens.
    #[must_use]
    pub fn step(
        mut self,
        pace: Pace,
        event: PartitionEvent,
        now: Tick,
    ) -> (Self, Option<PartitionChange>) {
        match event {
            PartitionEvent::Judged(pools) => self.note(pools, now),
            PartitionEvent::ProbePassed => {
                if let Some(held) = &mut self.held
                    && held.settled.is_none()
                {
                    held.settled = Some(now + pace.settle);
                    return (self, Some(PartitionChange::Settling));
                }
            }
            PartitionEvent::Woken => {}
        }
        let change = match &mut self.held {
            None => {
                let together = |at: &Tick| now.since(*at) <= pace.window;
                let fallen = self.fell.iter().filter(|(_, at)| together(at));
                let fallen: BTreeSet<Name> = fallen.map(|(name, _)| name.clone()).collect();
                if self.up.is_empty() && fallen.len() >= 2 {
                    self.held = Some(Held {
                        since: now,
                        fallen,
                        settled: None,
                    });
                    Some(PartitionChange::Holding)
                } else {
                    None
                }
            }
            Some(held) => {
                let back = held.fallen.iter().all(|name| self.up.contains(name));
                let over = held.settled.is_some_and(|settled| now >= settled);
                if back || (over && !self.up.is_empty()) {
                    self.held = None;
                    Some(PartitionChange::LetGo)
                } else {
                    if over {
                        // One probe got through, and no pool came up: it was not over.
                        held.settled = None;
                    }
                    None
                }
            }
        };
        (self, change)
    }

    fn note(&mut self, pools: Vec<(Name, bool)>, now: Tick) {
        let there: BTreeSet<&Name> = pools.iter().map(|(name, _)| name).collect();
        self.fell.retain(|name, _| there.contains(name));
        self.up.retain(|name| there.contains(name));
        if let Some(held) = &mut self.held {
            held.fallen.retain(|name| there.contains(name));
        }
        for (name, up) in pools {
            if up {
                self.fell.remove(&name);
                self.up.insert(name);
            } else if self.up.remove(&name) {
                self.fell.insert(name, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::scalar::FromScalar as _;

    const PACE: Pace = Pace {
        window: Duration::from_secs(10),
        settle: Duration::from_secs(5),
    };

    fn at(seconds: u64) -> Tick {
        Tick::after(Duration::from_secs(seconds))
    }

    fn judged(pools: &str) -> PartitionEvent {
        let pools = pools.chars().map(|letter| {
            let name = Name::parse(&letter.to_lowercase().to_string()).unwrap();
            (name, letter.is_uppercase())
        });
        PartitionEvent::Judged(pools.collect())
    }

    /// Runs a story of (second, event); gives what became of it.
    fn story(
        events: impl IntoIterator<Item = (u64, PartitionEvent)>,
    ) -> Vec<(u64, PartitionChange)> {
        let mut suspicion = PartitionDetector::default();
        let mut changes = Vec::new();
        for (second, event) in events {
            let (next, change) = suspicion.step(PACE, event, at(second));
            changes.extend(change.map(|change| (second, change)));
            suspicion = next;
        }
        changes
    }

    const PASSED: PartitionEvent = PartitionEvent::ProbePassed;

    #[test]
    fn pools_that_fall_together_are_suspicious_and_others_are_not() {
        let falls = |pools: [&str; 3], last: u64| {
            story([
                (1, judged(pools[0])),
                (20, judged(pools[1])),
                (last, judged(pools[2])),
            ])
        };
        assert_eq!(
            falls(["AB", "aB", "ab"], 30),
            [(30, PartitionChange::Holding)]
        );
        assert_eq!(falls(["AB", "aB", "ab"], 31), [], "one after the other");
        assert_eq!(
            falls(["ABc", "aBc", "abc"], 22),
            [(22, PartitionChange::Holding)]
        );
        assert_eq!(
            falls(["Ab", "ab", "ab"], 22),
            [],
            "the other was down before"
        );
        assert_eq!(falls(["A", "a", "a"], 22), [], "one pool proves nothing");
        assert_eq!(falls(["ABC", "abC", "abC"], 22), [], "somebody is up");
        assert_eq!(falls(["ab", "ab", "ab"], 22), [], "nothing ever worked");
    }

    #[test]
    fn it_lets_go_when_all_are_back_or_their_time_is_over() {
        let held = |rest: Vec<(u64, PartitionEvent)>| {
            let begin = [(1, judged("AB")), (2, judged("ab"))];
            let mut changes = story(begin.into_iter().chain(rest));
            assert_eq!(changes.remove(0), (2, PartitionChange::Holding));
            changes
        };
        assert_eq!(held(vec![(3_600, PartitionEvent::Woken)]), []);
        assert_eq!(
            held(vec![(9, PASSED), (10, judged("Ab")), (11, judged("AB"))]),
            [(9, PartitionChange::Settling), (11, PartitionChange::LetGo)]
        );
        let alone = vec![
            (9, PASSED),
            (10, judged("Ab")),
            (13, PartitionEvent::Woken),
            (14, PartitionEvent::Woken),
        ];
        assert_eq!(
            held(alone),
            [(9, PartitionChange::Settling), (14, PartitionChange::LetGo)]
        );
        // A single probe got through, and nothing came of it.
        let lucky = vec![
            (9, PASSED),
            (14, PartitionEvent::Woken),
            (20, PASSED),
            (21, judged("AB")),
        ];
        assert_eq!(
            held(lucky),
            [
                (9, PartitionChange::Settling),
                (20, PartitionChange::Settling),
                (21, PartitionChange::LetGo)
            ]
        );
        // All that fell are gone from the configuration.
        assert_eq!(held(vec![(5, judged("c"))]), [(5, PartitionChange::LetGo)]);
    }

    #[test]
    fn the_window_is_as_long_as_probes_may_need() {
        let probe = ProbePlan {
            kind: portolan_config::plan::ProbeKind::Tcp,
            port: None,
            host: None,
            every: Duration::from_secs(5),
            fast_every: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            down_after: 3,
            up_after: 2,
        };
        let slow = ProbePlan {
            every: Duration::from_secs(3_600),
            ..probe.clone()
        };
        let pace = Pace::of([&probe].into_iter());
        assert_eq!(pace.window, Duration::from_millis(14_010));
        assert_eq!(pace.settle, Duration::from_secs(6));
        assert_eq!(Pace::of([&slow, &probe].into_iter()).window, LONGEST_WINDOW);
    }
}
