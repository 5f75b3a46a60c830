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
}

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
        if first {
            self.failing.store(source.0, Ordering::Relaxed);
            return false;
        }
        let before = self.failing.load(Ordering::Relaxed);
        let shared = Source(before).shared(source);
        self.failing.store(shared.0, Ordering::Relaxed);
        shared.0 != before
    }

    /// Whether what fails is bound to something that they share, while the rest is served.
    pub(super) fn is_bound(&self, now: Tick) -> bool {
        let failing = Source(self.failing.load(Ordering::Relaxed));
        let since = now.since_start().saturating_sub(MEMORY).as_secs();
        let served = self.served.iter().map(|note| note.load(Ordering::Relaxed));
        served
            .filter(|note| *note != 0 && note >> (BITS * PARTS) >= since)
            .any(|note| Source(note & SOURCE).differs_from(failing))
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
