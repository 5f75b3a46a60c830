//! Tells operators what this process or its machine has run out of ([`crate::health::exhaustion`]): once when it begins,
//! and once when it is over.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Tick};
use crate::events::event::Event;
use crate::events::journal::Journal;
use crate::health::exhaustion::{Shortage, Shortages};

/// A shortage is over when there was no sign of it for so long.
const CALM: Duration = Duration::from_secs(10);

/// How often it is looked while there is one.
const LOOK: Duration = Duration::from_secs(1);

/// Which shortages there are, as far as was told.
#[derive(Debug, Default)]
struct ExhaustionWatch {
    signs: [u64; Shortage::ALL.len()],
    /// When there was a sign last, of those that were told.
    last: [Option<Tick>; Shortage::ALL.len()],
}

impl ExhaustionWatch {
    /// What is to be told when there have been so many signs of each until `now`: what has begun
    /// (true), and what is over.
    fn look(&mut self, signs: [u64; Shortage::ALL.len()], now: Tick) -> Vec<(Shortage, bool)> {
        let mut told = Vec::new();
        for (at, what) in Shortage::ALL.into_iter().enumerate() {
            let news = signs[at] != self.signs[at];
            match self.last[at] {
                None if news => told.push((what, true)),
                Some(last) if !news && now.since(last) >= CALM => {
                    self.last[at] = None;
                    told.push((what, false));
                }
                _ => {}
            }
            if news {
                self.last[at] = Some(now);
            }
        }
        self.signs = signs;
        told
    }

    fn is_calm(&self) -> bool {
        self.last.iter().all(Option::is_none)
    }
}

/// Tells what is short, once when it begins and once when it is over, for as long as the process lives.
/// While nothing is, it sleeps.
pub async fn keep_telling(shortages: &Shortages, journal: Arc<Journal>, clock: Clock) {
    let mut watch = ExhaustionWatch::default();
    loop {
        shortages.alarm.notified().await;
        loop {
            for (what, began) in watch.look(shortages.signs(), clock.now()) {
                journal.emit(&Event::Shortage { what, began });
            }
            if watch.is_calm() {
                break;
            }
            tokio::time::sleep(LOOK).await;
            shortages.begin_anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_once_and_so_is_its_end() {
        let shortages = Shortages::new();
        let mut watch = ExhaustionWatch::default();
        let at = |seconds| Tick::after(Duration::from_secs(seconds));
        assert_eq!(watch.look(shortages.signs(), at(0)), []);
        shortages.one(Shortage::Files);
        assert!(shortages.files_are_short());
        assert_eq!(
            watch.look(shortages.signs(), at(1)),
            [(Shortage::Files, true)]
        );
        for second in 2..30 {
            shortages.persists(Shortage::Files);
            assert_eq!(watch.look(shortages.signs(), at(second)), []);
        }
        assert_eq!(shortages.count(Shortage::Files), 1);
        shortages.one(Shortage::Ports);
        assert_eq!(
            watch.look(shortages.signs(), at(35)),
            [(Shortage::Ports, true)]
        );
        assert_eq!(
            watch.look(shortages.signs(), at(39)),
            [(Shortage::Files, false)]
        );
        assert!(!watch.is_calm());
        assert_eq!(
            watch.look(shortages.signs(), at(45)),
            [(Shortage::Ports, false)]
        );
        assert!(watch.is_calm());
        // And begins anew.
        shortages.one(Shortage::Files);
        assert_eq!(
            watch.look(shortages.signs(), at(46)),
            [(Shortage::Files, true)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_tells_is_woken_and_sleeps_again() {
        static SHORT: Shortages = Shortages::new();
        let clock = Clock::start();
        let journal = Journal::new(clock);
        let kinds = || -> Vec<String> {
            let entries = journal.recent();
            entries.iter().map(|entry| entry.kind.clone()).collect()
        };
        let telling = tokio::spawn(keep_telling(&SHORT, journal.clone(), clock));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(kinds().is_empty());
        SHORT.one(Shortage::SystemFiles);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(kinds(), ["edge_exhausted"]);
        assert!(!SHORT.files_are_short(), "that was two seconds ago");
        SHORT.clients_wait(Shortage::Files);
        assert!(!SHORT.files_are_short(), "which is about endpoints alone");
        telling.abort();
    }
}
