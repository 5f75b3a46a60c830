//! How often one client may come: token buckets for more clients than anybody can keep.
//!
//! A bucket is kept as one moment: when it will be full again (the "generic cell rate algorithm").
//! A token is taken by moving that moment on by the time in which a token comes back; whoever would
//! move it further away than a whole bucket takes to fill is refused. [`Rate::take`] decides that
//! from numbers alone.
//!
//! The buckets of a limit are in a table of fixed size, [`Limiter`]. A client's key is hashed with a
//! secret seed; the hash says in which set of [`WAYS`] slots its bucket is, and by which print it is
//! known there. Print and moment are one word, so that a request reads and changes a bucket with one
//! atomic operation and nobody ever waits for a lock. When a set is full, the bucket with most tokens
//! in it is forgotten: under a flood of addresses those go that came once, and those stay that are
//! limited. Whoever is refused writes nothing at all.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portolan_certs::token_keys::Claims;
use portolan_config::fields::Fields;
use portolan_config::plan::{LimitKeyPlan, RateLimitPlan};

use crate::auth::cookie::cookie;
use crate::auth::jwt;
use crate::clock::Tick;
use crate::counters::Counter;

/// Time is counted in parts of the time in which one token comes back: so many of them.
const UNITS: u64 = 64;

/// Slots in a set: a cache line of them.
const WAYS: usize = 8;

/// The bits of a moment in a slot; the others are the print.
const MOMENT_BITS: u32 = 40;
const MOMENT_MASK: u64 = (1 << MOMENT_BITS) - 1;

/// Threads read the clock before they change a bucket: a moment that was written by one that read
/// it so much later is still one to come, and not one of long ago.
const SKEW: Duration = Duration::from_secs(10);

/// How fast tokens come back, and how many a bucket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per: Duration,
    burst: u32,
}

/// What a request finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A token.
    Token {
        /// When the bucket will be full again.
        full: u64,
        /// Tokens that are left.
        left: u32,
    },
    /// None.
    Nothing {
        /// So many units until there is one.
        wait: u64,
    },
}

impl Rate {
    /// So many requests `per` time, and so many at once.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        Self {
            requests: requests.max(1),
            per: per.max(Duration::from_millis(1)),
            burst: burst.max(1),
        }
    }

    /// A moment in this rate's own units.
    pub fn units(&self, now: Tick) -> u64 {
        self.units_in(now.since_start())
    }

    fn units_in(&self, time: Duration) -> u64 {
        let units = time.as_nanos() * u128::from(self.requests) * u128::from(UNITS);
        (units / self.per.as_nanos()) as u64
    }

    /// So many units as time, rounded up.
    pub fn time(&self, units: u64) -> Duration {
        let parts = u128::from(self.requests) * u128::from(UNITS);
        let nanos = (u128::from(units) * self.per.as_nanos()).div_ceil(parts);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The time in which an empty bucket fills.
    fn depth(&self) -> u64 {
        u64::from(self.burst) * UNITS
    }

    /// Takes a token out of a bucket that will be full at this moment, or is full now.
    pub fn take(&self, full: Option<u64>, now: u64) -> Taken {
        let depth = self.depth();
        // Nobody owes more than a whole bucket.
        let missing = full.map_or(0, |full| full.saturating_sub(now)).min(depth);
        let after = missing + UNITS;
        if after > depth {
            return Taken::Nothing {
                wait: after - depth,
            };
        }
        Taken::Token {
            full: now + after,
            left: ((depth - after) / UNITS) as u32,
        }
    }
}

/// What a limit says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Requests that may follow at once.
    pub left: u32,
    /// Until the bucket is full again; of those who are refused, until there is a token.
    pub reset: Duration,
    /// Whether this one is refused.
    pub refused: bool,
}

/// The slots in which one client's bucket may be.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

/// One limit: its policy, its buckets, and what is counted about it.
#[derive(Debug)]
pub struct Limiter {
    /// As configured when it was made. Whether clients are told is up to the current plan.
    pub plan: RateLimitPlan,
    rate: Rate,
    /// How far from now a moment may be that is to come.
    horizon: u64,
    seed: RandomState,
    sets: OnceLock<Box<[Set]>>,
    /// Requests that it refused.
    pub refused: Counter,
    /// Clients that were forgotten before their bucket was full again: the table is too small.
    pub forgotten: Counter,
}

impl Limiter {
    /// A limit that nobody has used yet.
    pub fn new(plan: RateLimitPlan) -> Self {
        let rate = Rate::new(plan.requests, plan.per, plan.burst);
        let horizon = (rate.depth() + rate.units_in(SKEW)).min(MOMENT_MASK / 2);
        Self {
            plan,
            rate,
            horizon,
            seed: RandomState::new(),
            sets: OnceLock::new(),
            refused: Counter::default(),
            forgotten: Counter::default(),
        }
    }

    /// Whether the same buckets serve this limit: whatever it tells clients, it counts alike.
    pub fn keeps(&self, wanted: &RateLimitPlan) -> bool {
        let RateLimitPlan {
            name,
            requests,
            per,
            burst,
            on,
            headers: _,
            clients,
        } = &self.plan;
        (name, requests, per, burst, on, clients)
            == (
                &wanted.name,
                &wanted.requests,
                &wanted.per,
                &wanted.burst,
                &wanted.on,
                &wanted.clients,
            )
    }

    /// What a request's client is known by here: a number that nobody outside can foresee. `claims`
    /// are those of a token that was believed.
    pub fn key(&self, headers: &Fields, claims: Option<&Claims>, client: Option<IpAddr>) -> u64 {
        let mut hasher = self.seed.build_hasher();
        let claimed_text: Option<Cow<'_, str>>;
        let said = match &self.plan.on {
            LimitKeyPlan::ClientIp => None,
            LimitKeyPlan::Header(name) => headers.get(name).map(http::HeaderValue::as_bytes),
            LimitKeyPlan::Cookie(name) => cookie(headers, name),
            LimitKeyPlan::JwtClaim(name) => {
                let claimed = claims.and_then(|claims| jwt::claim(claims, name));
                claimed_text = claimed.map(|value| match jwt::text(value) {
                    Some(text) => text,
                    None => value.to_string().into(),
                });
                claimed_text.as_deref().map(str::as_bytes)
            }
        };
        match (said, client.map(|client| client.to_canonical())) {
            (Some(said), _) => (0_u8, said).hash(&mut hasher),
            (None, Some(IpAddr::V4(address))) => (1_u8, address.octets()).hash(&mut hasher),
            // What one customer has at least: single addresses would be a limit for nobody.
            (None, Some(IpAddr::V6(address))) => {
                (2_u8, &address.segments()[..4]).hash(&mut hasher);
            }
            (None, None) => 3_u8.hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Takes a token for a client, if there is one.
    pub fn take(&self, key: u64, now: Tick) -> Allowance {
        let now = self.rate.units(now);
        let sets = self.sets();
        let set = &sets[key as usize & (sets.len() - 1)].0;
        // Never 0: an empty slot belongs to nobody.
        let print = (key >> MOMENT_BITS).max(1) << MOMENT_BITS;
        loop {
            let words: [u64; WAYS] = std::array::from_fn(|at| set[at].load(Ordering::Acquire));
            let mine = words.iter().position(|word| word & !MOMENT_MASK == print);
            let at = mine.unwrap_or_else(|| self.fullest(&words, now));
            let before = words[at];
            let full = mine
                .and_then(|_| self.missing(before, now))
                .map(|m| now + m);
            let (full, left) = match self.rate.take(full, now) {
                Taken::Token { full, left } => (full, left),
                Taken::Nothing { wait } => {
                    self.refused.one();
                    return Allowance {
                        left: 0,
                        reset: self.rate.time(wait),
                        refused: true,
                    };
                }
            };
            let after = print | (full & MOMENT_MASK);
            let changed =
                set[at].compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire);
            if changed.is_err() {
                // Somebody else was faster: look again.
                std::hint::spin_loop();
                continue;
            }
            if mine.is_none() {
                if self.is_double(set, at, print) {
                    // Two requests of a new client took two slots: this one goes to the other. If
                    // it was used already, it stays.
                    let _ = set[at].compare_exchange(after, 0, Ordering::AcqRel, Ordering::Acquire);
                    continue;
                }
                if self.missing(before, now).is_some() {
                    self.forgotten.one();
                }
            }
            return Allowance {
                left,
                reset: self.rate.time(full - now),
                refused: false,
            };
        }
    }

    fn sets(&self) -> &[Set] {
        self.sets.get_or_init(|| {
            let sets = self.plan.clients.div_ceil(WAYS).next_power_of_two();
            std::iter::repeat_with(Set::default).take(sets).collect()
        })
    }

    /// Whether a print stands in a set besides here.
    fn is_double(&self, set: &[AtomicU64; WAYS], here: usize, print: u64) -> bool {
        set.iter()
            .enumerate()
            .any(|(at, slot)| at != here && slot.load(Ordering::Acquire) & !MOMENT_MASK == print)
    }

    /// What is missing in the bucket of a slot, in units; nothing if it is full or there is none.
    fn missing(&self, word: u64, now: u64) -> Option<u64> {
        let missing = word.wrapping_sub(now) & MOMENT_MASK;
        (word != 0 && (1..=self.horizon).contains(&missing)).then_some(missing)
    }

    /// The slot whose bucket has most in it, an empty slot before all others.
    fn fullest(&self, words: &[u64; WAYS], now: u64) -> usize {
        let missing = |at: &usize| self.missing(words[*at], now).unwrap_or(0);
        (0..WAYS).min_by_key(missing).unwrap_or(0)
    }

    /// The bytes that its buckets take.
    pub fn bytes(&self) -> usize {
        self.sets.get().map_or(0, |sets| size_of_val(&**sets))
    }
}

#[cfg(test)]
mod tests;
