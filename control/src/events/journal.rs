//! The journal: the last things that happened, for operators and for programs that follow.
//!
//! It is a ring of fixed length that belongs to nobody: whoever tells something writes it there and
//! goes on. Whoever follows keeps the number of the last entry that they saw and reads what came
//! after it, at their own pace. A reader who is too slow finds that the ring has moved on, and is
//! told how many entries they missed; nobody ever waits for them, and nothing is kept for them.
//!
//! Entries are numbered so that numbers only grow, also from one process to the next: a process
//! begins with the time of its start. So a client that asks for what came after the last number it
//! saw is answered rightly by whichever process it reaches.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::events::event::Event;

/// Entries that are kept.
pub const KEPT: usize = 1_000;

/// Numbers for entries within one millisecond: a process that starts later begins above all of one
/// that told fewer than this each millisecond.
const PER_MILLISECOND: u64 = 1_000;

/// Something that happened. One entry of `/api/v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EventEntry")]
pub struct Entry {
    /// Its number; later entries have larger ones.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What kind of thing: `pool_down`, `drain`, `reload_applied`, …
    pub kind: String,
    /// What it is about: `pool aws`, `endpoint aws/10.0.0.1:80`, `configuration`, …
    pub subject: String,
    /// What happened, in a sentence.
    pub message: String,
    /// Why, where that is known.
    pub reason: Option<String>,
}

/// The last things that happened.
#[derive(Debug)]
pub struct Journal {
    clock: Clock,
    /// The number of this process's first entry.
    first: u64,
    ring: Mutex<Ring>,
    /// The number of the last entry, for those who wait for the next one.
    last: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    /// The number of the next entry.
    next: u64,
}

/// What a reader finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The next entry.
    Entry(Arc<Entry>),
    /// Entries that came after the last one seen, and are no longer there: so many, if that is known.
    Missed(Option<u64>),
    /// Nothing yet.
    Nothing,
}

impl Journal {
    /// An empty journal.
    pub fn new(clock: Clock) -> Arc<Self> {
        Self::beginning(clock, clock.wall().as_millis() as u64 * PER_MILLISECOND)
    }

    fn beginning(clock: Clock, first: u64) -> Arc<Self> {
        let ring = Ring {
            entries: VecDeque::with_capacity(KEPT),
            next: first,
        };
        Arc::new(Self {
            clock,
            first,
            ring: Mutex::new(ring),
            last: watch::channel(first - 1).0,
        })
    }

    /// Writes the log line and the entry.
    pub fn emit(&self, event: &Event) {
        event.write_log_line();
        let mut ring = self.lock();
        let entry = Entry {
            id: ring.next,
            at: self.clock.wall().as_millis() as u64,
            kind: event.kind().to_owned(),
            subject: event.subject(),
            message: event.to_string(),
            reason: event.reason(),
        };
        ring.next += 1;
        if ring.entries.len() == KEPT {
            ring.entries.pop_front();
        }
        self.last.send_replace(entry.id);
        ring.entries.push_back(Arc::new(entry));
    }

    /// Every entry that is kept, the oldest first.
    pub fn recent(&self) -> Vec<Arc<Entry>> {
        self.lock().entries.iter().cloned().collect()
    }

    /// Reads from behind the entry of this number on, or everything that is kept.
    pub fn follow(self: &Arc<Self>, after: Option<u64>) -> Follower {
        Follower {
            seen: after.unwrap_or_else(|| self.before_oldest()),
            told: self.last.subscribe(),
            journal: self.clone(),
        }
    }

    fn before_oldest(&self) -> u64 {
        let ring = self.lock();
        let oldest = ring.entries.front().map_or(ring.next, |entry| entry.id);
        oldest - 1
    }

    /// What comes after the entry of this number, and the number of the last one seen then.
    fn read(&self, seen: u64) -> (Found, u64) {
        let ring = self.lock();
        let Some(oldest) = ring.entries.front().map(|entry| entry.id) else {
            return (Found::Nothing, seen);
        };
        // A number from after our last one is of another life, in which the clock was ahead.
        let seen = seen.min(ring.next - 1);
        if seen + 1 < oldest {
            let known = seen + 1 >= self.first;
            return (Found::Missed(known.then(|| oldest - seen - 1)), oldest - 1);
        }
        match ring.entries.get((seen + 1 - oldest) as usize) {
            Some(entry) => (Found::Entry(entry.clone()), entry.id),
            None => (Found::Nothing, seen),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who reads along.
#[derive(Debug)]
pub struct Follower {
    journal: Arc<Journal>,
    /// The last entry that was read.
    seen: u64,
    told: watch::Receiver<u64>,
}

impl Follower {
    /// What comes next, if it is there.
    pub fn next_now(&mut self) -> Found {
        // Before looking: what is told while we look wakes us again.
        self.told.mark_unchanged();
        let (found, seen) = self.journal.read(self.seen);
        self.seen = seen;
        found
    }

    /// Waits until there may be something.
    pub async fn wait(&mut self) {
        // The journal is there as long as we are.
        let _ = self.told.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u64 = 5_000;

    fn journal() -> Arc<Journal> {
        Journal::beginning(Clock::start(), FIRST)
    }

    fn tell(journal: &Journal, count: usize) {
        for at in 0..count {
            journal.emit(&Event::GeoSwapped {
                name: format!("database {at}"),
                kind: "City".to_owned(),
            });
        }
    }

    /// Everything that is there now: numbers, and what was missed.
    fn read(follower: &mut Follower) -> Vec<Result<u64, Option<u64>>> {
        let mut read = Vec::new();
        loop {
            match follower.next_now() {
                Found::Entry(entry) => read.push(Ok(entry.id)),
                Found::Missed(count) => read.push(Err(count)),
                Found::Nothing => return read,
            }
        }
    }

    #[tokio::test]
    async fn who_follows_reads_everything_once_and_in_order() {
        let journal = journal();
        tell(&journal, 2);
        let mut follower = journal.follow(None);
        assert_eq!(read(&mut follower), [Ok(FIRST), Ok(FIRST + 1)]);
        tell(&journal, 1);
        follower.wait().await;
        assert_eq!(read(&mut follower), [Ok(FIRST + 2)]);
        let entry = &journal.recent()[2];
        assert_eq!(
            (entry.kind.as_str(), entry.message.as_str()),
            (
                "geo_database_replaced",
                "geo database database 0 (City) replaced"
            )
        );
        // Somebody who was away for a moment.
        assert_eq!(read(&mut journal.follow(Some(FIRST + 1))), [Ok(FIRST + 2)]);
        assert_eq!(read(&mut journal.follow(Some(FIRST + 2))), []);
    }

    #[test]
    fn who_is_slow_is_told_what_they_missed_and_holds_nobody_up() {
        let journal = journal();
        tell(&journal, 1);
        let mut slow = journal.follow(None);
        assert_eq!(read(&mut slow), [Ok(FIRST)]);
        tell(&journal, KEPT + 7);
        assert_eq!(journal.recent().len(), KEPT);
        let seen = read(&mut slow);
        assert_eq!(seen.len(), KEPT + 1);
        assert_eq!(&seen[..2], [Err(Some(7)), Ok(FIRST + 8)]);
        assert_eq!(seen.last(), Some(&Ok(FIRST + 7 + KEPT as u64)));
    }

    #[test]
    fn numbers_of_other_processes_are_understood() {
        let journal = journal();
        assert_eq!(read(&mut journal.follow(Some(17))), []);
        tell(&journal, 1);
        // Of an earlier one: nobody knows what else that one told.
        assert_eq!(read(&mut journal.follow(Some(17))), [Err(None), Ok(FIRST)]);
        // Of one whose clock was ahead.
        let mut ahead = journal.follow(Some(FIRST + 1_000));
        assert_eq!(read(&mut ahead), []);
        tell(&journal, 1);
        assert_eq!(read(&mut ahead), [Ok(FIRST + 1)]);
    }
}
