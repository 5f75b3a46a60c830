//! How slowly a client may send a body.
//!
//! Only the time in which somebody waits for the client counts: a client is not slow because the
//! endpoint is. The first seconds are free, so that small bodies and short pauses never matter; then
//! what was sent must have come, on average, at the rate of the listener's `min_body_rate`.

use std::time::Duration;

use portolan_config::plan::LimitsPlan;

/// Waiting that costs nothing.
const GRACE: Duration = Duration::from_secs(5);

/// A body's account.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BodyRate {
    waited: Duration,
    bytes: u64,
}

impl BodyRate {
    /// How much longer it may be waited for the next bytes.
    pub(crate) fn patience(&self, rate: u64) -> Duration {
        let earned = Duration::from_millis(self.bytes.saturating_mul(1_000) / rate.max(1));
        (GRACE + earned).saturating_sub(self.waited)
    }

    /// How much longer it may be waited for the next bytes on a listener with these limits.
    pub(crate) fn within(&self, limits: &LimitsPlan) -> Duration {
        let idle = limits.idle_timeout;
        limits
            .min_body_rate
            .map_or(idle, |rate| self.patience(rate).min(idle))
    }

    /// So many bytes came after so much waiting.
    pub(crate) fn came(&mut self, bytes: usize, waited: Duration) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.waited = self.waited.saturating_add(waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_buy_time_and_waiting_costs_it() {
        let mut body = BodyRate::default();
        assert_eq!(body.patience(100), GRACE);
        body.came(0, Duration::from_secs(4));
        assert_eq!(body.patience(100), Duration::from_secs(1));
        body.came(1_000, Duration::from_secs(1));
        assert_eq!(body.patience(100), Duration::from_secs(10));
        // One byte a second is less than a hundred: its time runs out.
        let mut drip = BodyRate::default();
        let mut seconds = 0;
        while drip.patience(100) > Duration::from_secs(1) {
            drip.came(1, Duration::from_secs(1));
            seconds += 1;
        }
        assert_eq!(seconds, 5);
        // Nothing overflows.
        drip.came(usize::MAX, Duration::MAX);
        drip.came(usize::MAX, Duration::MAX);
        assert_eq!(drip.patience(1), Duration::ZERO);
    }
}
