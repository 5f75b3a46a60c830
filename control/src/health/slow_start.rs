//! Slow start: who comes back gets its share little by little.
//!
//! An endpoint whose caches are cold, or a cloud that was away for an hour, may fall over again when
//! everything returns at once. With `slow_start` its weight (a pool's: its availability) begins with
//! a tenth and rises evenly. It rises in steps, because every step is a new snapshot.

use std::time::Duration;

use crate::clock::Tick;

/// Where it begins.
const FLOOR: f64 = 0.1;

/// How many steps there are to the whole.
const STEPS: f64 = 20.0;

/// How much of its share somebody gets at `now` who came back at `since`: up to 1.
pub fn share(span: Option<Duration>, since: Option<Tick>, now: Tick) -> f64 {
    let (Some(span), Some(since)) = (span, since) else {
        return 1.0;
    };
    let elapsed = now.since(since);
    if elapsed >= span {
        return 1.0;
    }
    let step = (STEPS * elapsed.as_secs_f64() / span.as_secs_f64()).floor();
    FLOOR + (1.0 - FLOOR) * step / STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_from_a_tenth_to_the_whole_in_even_steps() {
        let span = Some(Duration::from_secs(20));
        let at = |milliseconds| Tick::after(Duration::from_millis(milliseconds));
        let since = Some(at(1_000));
        let mut last = 0.0;
        let mut steps = 0;
        for milliseconds in 1_000..21_500 {
            let now = share(span, since, at(milliseconds));
            assert!(now >= last, "it never falls");
            if now > last {
                steps += 1;
                last = now;
            }
        }
        assert_eq!((steps, last), (21, 1.0));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        close(share(span, since, at(1_000)), 0.1);
        close(share(span, since, at(11_000)), 0.55);
        close(share(span, since, at(20_999)), 0.955);
        close(share(None, since, at(1_000)), 1.0);
        close(share(span, None, at(1_000)), 1.0);
    }
}
