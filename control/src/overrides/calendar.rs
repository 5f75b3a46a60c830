//! The calendar by which leases go: it never jumps.
//!
//! A lease of an hour lasts an hour. The machine's calendar may be set right meanwhile, by a day or by
//! fifty years on a machine that has just booted. So the time of leases is the calendar's at the start,
//! and from then on what the clock that never goes back has counted. Where the two have come apart, this
//! calendar is set as well, and the leases are moved with it: what is left of them stays, and what people
//! read is right again.

use std::time::Duration;

use crate::clock::Tick;

/// What the two clocks may differ by before anybody should care.
const TOLERANCE: Duration = Duration::from_secs(2);

/// A calendar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calendar {
    /// What the machine's calendar said (since 1970) at a moment.
    wall: Duration,
    tick: Tick,
}

/// By how much a calendar was set, in milliseconds: ahead if it is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shift(i64);

impl Shift {
    /// A time (since 1970) of the old calendar by the new one.
    pub(super) fn of(self, time: Duration) -> Duration {
        let by = Duration::from_millis(self.0.unsigned_abs());
        match self.0 < 0 {
            true => time.saturating_sub(by),
            false => time.saturating_add(by),
        }
    }

    /// A shift by this, for tests.
    #[cfg(test)]
    pub(super) fn by(milliseconds: i64) -> Self {
        Self(milliseconds)
    }
}

impl Calendar {
    /// One that says what the machine's calendar says now.
    pub(crate) fn new(wall: Duration, tick: Tick) -> Self {
        Self { wall, tick }
    }

    /// The time (since 1970) at a moment.
    pub(crate) fn at(&self, tick: Tick) -> Duration {
        self.wall.saturating_add(tick.since(self.tick))
    }

    /// Sets it as the machine's calendar is, if that was set by more than anybody would overlook.
    pub(crate) fn set_right(&mut self, wall: Duration, tick: Tick) -> Option<Shift> {
        let own = self.at(tick);
        if own.abs_diff(wall) <= TOLERANCE {
            return None;
        }
        *self = Self::new(wall, tick);
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Some(Shift(milliseconds(wall) - milliseconds(own)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_goes_on_whatever_the_machine_says() {
        let mut calendar = Calendar::new(seconds(100_000), Tick::after(seconds(5)));
        assert_eq!(calendar.at(Tick::after(seconds(15))), seconds(100_010));
        // A little apart: nobody cares.
        let now = Tick::after(seconds(20));
        assert_eq!(calendar.set_right(seconds(100_016), now), None);
        assert_eq!(calendar.at(now), seconds(100_015));
        // Set back by an hour, and ahead by fifty years.
        let until = seconds(100_030);
        let back = calendar.set_right(seconds(96_415), now).unwrap();
        assert_eq!(back, Shift::by(-3_600_000));
        let until = back.of(until);
        assert_eq!(until - calendar.at(now), seconds(15), "what is left stays");
        let ahead = calendar.set_right(seconds(1_600_000_000), now).unwrap();
        let until = ahead.of(until);
        assert_eq!(until - calendar.at(now), seconds(15));
        assert_eq!(calendar.at(now), seconds(1_600_000_000));
        assert_eq!(back.of(seconds(1)), Duration::ZERO);
    }
}
