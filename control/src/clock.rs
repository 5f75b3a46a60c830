//! Time as data: the only place that reads a clock.
//!
//! Deciders take a [`Tick`] as an argument, so that they can be run through years in a test.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// A moment: the time since the process began, or the first one of those that took over from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tick(Duration);

impl Tick {
    /// The beginning.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// So long after the beginning.
    pub const fn after(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// The time since the beginning.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// So long before this one, but not before the beginning.
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    /// The time from an earlier moment to this one; nothing if that one is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Tick {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}s", self.0.as_secs_f64())
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// When this process began, which is later if it goes on for another one.
    began: Instant,
}

impl Clock {
    /// A clock that begins now.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn start() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            began: now,
        }
    }

    /// A clock that goes on where that of another process is: so long after its beginning. What that
    /// process noted in ticks means the same here.
    #[must_use]
    pub fn going_on(self, since_start: Duration) -> Self {
        let now = self.began + self.uptime();
        Self {
            start: now.checked_sub(since_start).unwrap_or(self.start),
            began: self.began,
        }
    }

    /// How long this process has run.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn uptime(&self) -> Duration {
        Instant::now().saturating_duration_since(self.began)
    }

    /// Now, by the clock that never goes back.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn now(&self) -> Tick {
        Tick(Instant::now().saturating_duration_since(self.start))
    }

    /// When a tick is, in the standard library's terms, for timers.
    pub fn instant(&self, tick: Tick) -> Instant {
        self.start + tick.0
    }

    /// Now, by the calendar, in time since 1970.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn wall(&self) -> Duration {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    }
}
