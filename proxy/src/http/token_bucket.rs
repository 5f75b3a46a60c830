//! Tokens that come back with time: how often something may happen.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back with time.
#[derive(Debug)]
pub(crate) struct Bucket {
    most: f64,
    a_second: f64,
    left: f64,
    filled: Instant,
}

impl Bucket {
    /// So many in a row, and so many more each second.
    pub(crate) fn new((most, a_second): (f64, f64), now: Instant) -> Self {
        Self {
            most,
            a_second,
            left: most,
            filled: now,
        }
    }

    /// Takes some, if there are any. The clock is only asked when there seem to be none.
    pub(crate) fn take(&mut self, cost: f64, now: impl Fn() -> Instant) -> bool {
        if self.left < cost {
            let now = now();
            let passed = now.saturating_duration_since(self.filled);
            self.filled = now;
            self.give(passed.as_secs_f64() * self.a_second);
        }
        if self.left < cost {
            return false;
        }
        self.left -= cost;
        true
    }

    /// So many are back.
    pub(crate) fn give(&mut self, more: f64) {
        self.left = (self.left + more).min(self.most);
    }

    /// So many in a row, and so many more each second, from now on. What was taken stays taken.
    pub(crate) fn resize(&mut self, (most, a_second): (f64, f64)) {
        self.left = (self.left + most - self.most).max(0.0);
        (self.most, self.a_second) = (most, a_second);
    }

    /// How long until there are so many again, if nobody takes any.
    pub(crate) fn wait(&self, cost: f64) -> Duration {
        let missing = (cost - self.left).max(0.0);
        Duration::from_secs_f64(missing / self.a_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_time_and_never_more_than_fit() {
        let began = Instant::now();
        let mut bucket = Bucket::new((4.0, 2.0), began);
        let at = |seconds| move || began + Duration::from_secs(seconds);
        assert!(bucket.take(4.0, at(0)) && !bucket.take(1.0, at(0)));
        assert_eq!(bucket.wait(1.0), Duration::from_millis(500));
        assert!(bucket.take(2.0, at(1)) && !bucket.take(1.0, at(1)));
        assert!(bucket.take(4.0, at(100)) && !bucket.take(1.0, at(100)));
        bucket.give(1.0);
        assert!(bucket.take(1.0, at(100)));
    }

    #[test]
    fn a_larger_bucket_has_more_left_and_a_smaller_one_less() {
        let began = Instant::now();
        let mut bucket = Bucket::new((4.0, 1.0), began);
        assert!(bucket.take(3.0, || began));
        bucket.resize((10.0, 1.0));
        assert!(bucket.take(7.0, || began) && !bucket.take(1.0, || began));
        bucket.resize((2.0, 1.0));
        assert!(!bucket.take(1.0, || began));
    }
}
