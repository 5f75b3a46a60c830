//! Which requests fail? Those of one client, of one host, of one route, for one path, or all?
//!
//! A failure that is bound to one of these, while the endpoint serves the others, is not the endpoint's:
//! a URL that says 503 by design, and is asked for by one client five times a second, must not take
//! an endpoint from everybody else.

use std::hash::{DefaultHasher, Hasher as _};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Tick;

/// Bits of each part of a source.
const BITS: u32 = 12;
const PART: u64 = (1 << BITS) - 1;
const PARTS: u32 = 4;
const SOURCE: u64 = (1 << (BITS * PARTS)) - 1;

/// How long it is remembered that requests of a source were served.
const MEMORY: Duration = Duration::from_secs(10);

/// How many sources are remembered, and how many of them are noted in one second: what comes more often
/// would only say the same again.
const REMEMBERED: usize = 8;
const EACH_SECOND: u64 = 4;

/// Where a request came from and what it asked for, in a few bits each: enough to tell most apart. A part
/// that is not known, or that several requests do not share, is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source(u64);

impl Source {
    /// The source of a request with these properties.
    pub fn new(route: &str, host: &str, client: Option<IpAddr>, path: &str) -> Self {
        let client = client.map_or(0, |client| part(&client));
        Self(
            [part(&route), part(&host), client, part(&path)]
                .into_iter()
                .fold(0, |source, part| source << BITS | part),
        )
    }

    fn parts(self) -> impl Iterator<Item = u64> {
        (0..PARTS).map(move |at| self.0 >> (at * BITS) & PART)
    }

    /// What both share.
    fn shared(self, other: Self) -> Self {
        let masks = self.parts().zip(other.parts()).enumerate();
        let mask = masks.fold(0, |mask, (at, (one, another))| {
            let same = if one == another { PART } else { 0 };
            mask | same << (at as u32 * BITS)
        });
        Self(self.0 & mask)
    }

    /// Whether this one has another value where failures all have the same.
    fn differs_from(self, failures: Self) -> bool {
        let parts = self.parts().zip(failures.parts());
        parts
            .into_iter()
            .any(|(one, all)| all != 0 && one != 0 && one != all)
    }
}

/// Never 0, which is "not known".
fn part(property: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    property.hash(&mut hasher);
    hasher.finish() % PART + 1
}

/// Whose requests an endpoint served lately, and whose failed in a row. Written by requests with single
/// atomic operations.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// The second of the last note, and how many were noted in it.
    noted: AtomicU64,
    turn: AtomicU32,
    /// The second above, the source below.
    served: [AtomicU64; REMEMBERED],
    /// What the failures in a row share.
    failing: AtomicU64,
    /// What all failures share: since the last turn of the memory, and in the one before.
    lately: AtomicU64,
    before: AtomicU64,
    /// The second of that turn.
    turned: AtomicU64,
}

/// Something has failed, though nothing may be shared.
const SOME: u64 = 1 << 63;

impl Sources {
    /// A request was served.
    pub(super) fn served(&self, now: Tick, source: impl FnOnce() -> Source) {
        let second = now.since_start().as_secs();
        let noted = self.noted.load(Ordering::Relaxed);
        let count = if noted >> 8 == second {
            noted & 0xff
        } else {
            0
        };
        if count >= EACH_SECOND {
            return;
        }
        self.noted
            .store(second << 8 | (count + 1), Ordering::Relaxed);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize % REMEMBERED;
        let note = second << (BITS * PARTS) | source().0;
        self.served[turn].store(note, Ordering::Relaxed);
    }

    /// A request failed: the first in a row, or a further one. Whether they share less than before.
    pub(super) fn failed(&self, source: Source, first: bool) -> bool {
        let lately = self.lately.load(Ordering::Relaxed);
        self.lately
            .store(both(lately, SOME | source.0), Ordering::Relaxed);
        if first {
            self.failing.store(source.0, Ordering::Relaxed);
            return false;
        }
        let before = self.failing.load(Ordering::Relaxed);
        let shared = Source(before).shared(source);
        self.failing.store(shared.0, Ordering::Relaxed);
        shared.0 != before
    }

    /// Whether the failures in a row are bound to something that they share, while the rest is served.
    pub(super) fn is_bound(&self, now: Tick) -> bool {
        self.served_others(
            Source(self.failing.load(Ordering::Relaxed)),
            now.since_start().as_secs(),
        )
    }

    /// The same by what was noted last: for who does not know the time. Others may have been served longer
    /// ago than is remembered.
    pub(super) fn seems_bound(&self) -> bool {
        let second = self.noted.load(Ordering::Relaxed) >> 8;
        self.served_others(Source(self.failing.load(Ordering::Relaxed)), second)
    }

    /// The same for all failures of the last ten to twenty seconds. Asked again and again, by one thread.
    pub(super) fn is_all_bound(&self, now: Tick) -> bool {
        let second = now.since_start().as_secs();
        if second.saturating_sub(self.turned.load(Ordering::Relaxed)) >= MEMORY.as_secs() {
            self.turned.store(second, Ordering::Relaxed);
            let lately = self.lately.swap(0, Ordering::Relaxed);
            self.before.store(lately, Ordering::Relaxed);
        }
        let lately = self.lately.load(Ordering::Relaxed);
        let all = both(lately, self.before.load(Ordering::Relaxed));
        self.served_others(Source(all & SOURCE), second)
    }

    /// Whether some were served at about this second that have not what the failures share.
    fn served_others(&self, failing: Source, second: u64) -> bool {
        let since = second.saturating_sub(MEMORY.as_secs());
        let served = self.served.iter().map(|note| note.load(Ordering::Relaxed));
        served
            .filter(|note| *note != 0 && note >> (BITS * PARTS) >= since)
            .any(|note| Source(note & SOURCE).differs_from(failing))
    }
}

/// What both share, of which either may be nothing yet.
fn both(one: u64, another: u64) -> u64 {
    match (one & SOME, another & SOME) {
        (0, _) => another,
        (_, 0) => one,
        _ => SOME | Source(one & SOURCE).shared(Source(another & SOURCE)).0,
    }
}

/// Sources of a route whose requests failed alike at every endpoint that was asked: it is known then that
/// another failure of theirs says nothing, though it was not tried elsewhere. Written by requests with
/// single atomic operations.
#[derive(Debug, Default)]
pub struct Alike {
    turn: AtomicU32,
    /// The second above, the source below.
    failed: [AtomicU64; REMEMBERED],
}

impl Alike {
    /// A request of this source has failed alike everywhere.
    pub fn note(&self, source: Source, now: Tick) {
        let note = now.since_start().as_secs() << (BITS * PARTS) | source.0;
        let known = self.failed.iter().find(|note| Self::is_of(note, source));
        let place = known.unwrap_or_else(|| {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
            &self.failed[turn % REMEMBERED]
        });
        place.store(note, Ordering::Relaxed);
    }

    /// One of them was served elsewhere: who failed it is to blame.
    pub fn forget(&self, source: Source) {
        for note in self.failed.iter().filter(|note| Self::is_of(note, source)) {
            note.store(0, Ordering::Relaxed);
        }
    }

    /// Whether one of them failed alike everywhere within the last ten seconds.
    pub fn lately(&self, source: Source, now: Tick) -> bool {
        let since = now.since_start().saturating_sub(MEMORY).as_secs();
        let mut noted = self.failed.iter().filter(|note| Self::is_of(note, source));
        noted.any(|note| note.load(Ordering::Relaxed) >> (BITS * PARTS) >= since)
    }

    fn is_of(note: &AtomicU64, source: Source) -> bool {
        source.0 != 0 && note.load(Ordering::Relaxed) & SOURCE == source.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Tick {
        Tick::after(Duration::from_secs(seconds))
    }

    fn source(client: u8, path: &str) -> Source {
        let client = IpAddr::from([192, 0, 2, client]);
        Source::new("all", "api.example.com", Some(client), path)
    }

    #[test]
    fn what_fails_for_one_client_or_path_is_bound_as_long_as_the_rest_is_served() {
        let sources = Sources::default();
        sources.failed(source(1, "/broken"), true);
        assert!(!sources.is_bound(at(100)), "nothing else is known");
        sources.served(at(100), || source(2, "/"));
        assert!(sources.is_bound(at(100)) && sources.is_bound(at(109)));
        assert!(!sources.is_bound(at(111)), "that was long ago");
        // The same client for other paths, other clients for the same path.
        for other in [source(1, "/"), source(2, "/broken")] {
            let sources = Sources::default();
            sources.failed(source(1, "/broken"), true);
            sources.served(at(100), || other);
            assert!(sources.is_bound(at(100)), "{other:?}");
        }
    }

    #[test]
    fn what_fails_for_everybody_is_not_bound() {
        let sources = Sources::default();
        for number in 1..20 {
            sources.served(at(100), || source(number, "/"));
        }
        assert!(!sources.failed(source(1, "/"), true));
        assert!(sources.is_bound(at(101)), "only one client so far");
        assert!(sources.failed(source(2, "/"), false), "they share less");
        assert!(!sources.is_bound(at(101)));
        assert!(!sources.failed(source(3, "/"), false));
    }

    #[test]
    fn one_kind_of_request_alone_is_everybody() {
        let sources = Sources::default();
        sources.served(at(100), || source(1, "/"));
        sources.failed(source(1, "/"), true);
        sources.failed(source(1, "/"), false);
        assert!(!sources.is_bound(at(100)));
    }

    #[test]
    fn failures_here_and_there_are_bound_only_as_long_as_all_of_them_share_something() {
        let sources = Sources::default();
        sources.served(at(100), || source(1, "/"));
        assert!(!sources.is_all_bound(at(100)), "nothing has failed");
        for second in 100..150 {
            // One of many, and others between.
            sources.failed(source(9, "/broken"), true);
            sources.served(at(second), || source(1, "/"));
            assert!(sources.is_all_bound(at(second)), "{second}");
        }
        sources.failed(source(2, "/"), true);
        assert!(sources.is_bound(at(150)), "so is each in itself");
        assert!(!sources.is_all_bound(at(150)));
        for second in 150..160 {
            sources.served(at(second), || source(1, "/"));
            assert!(!sources.is_all_bound(at(second)), "{second}");
        }
    }

    #[test]
    fn what_failed_everywhere_is_remembered_until_it_is_served() {
        let alike = Alike::default();
        let (bad, good) = (source(1, "/broken"), source(2, "/"));
        assert!(!alike.lately(bad, at(100)));
        for second in 100..200 {
            alike.note(bad, at(second));
        }
        alike.note(good, at(199));
        assert!(alike.lately(bad, at(209)) && !alike.lately(bad, at(210)));
        alike.forget(bad);
        assert!(!alike.lately(bad, at(200)) && alike.lately(good, at(200)));
        // Of whose requests nothing is known, nothing is remembered.
        alike.note(Source::default(), at(200));
        assert!(!alike.lately(Source::default(), at(200)));
        for number in 0..50 {
            alike.note(source(number, "/other"), at(201));
        }
        assert!(!alike.lately(good, at(201)), "others came since");
    }

    #[test]
    fn a_few_each_second_are_noted() {
        let sources = Sources::default();
        let mut made = 0;
        for _ in 0..1_000 {
            sources.served(at(100), || {
                made += 1;
                source(1, "/")
            });
        }
        assert_eq!(made, EACH_SECOND);
    }
}
