//! Draws that spread evenly, not merely randomly.
//!
//! Random draws of a 70/30 split are off by more than three percentage points in one of twenty
//! windows of 1,000 requests. The Kronecker sequence of the golden ratio (each draw is the last one
//! plus 0.618…, modulo 1) visits every interval as often as its length demands, to within a few
//! draws, in *every* window, because the golden ratio is the number that is worst approximated by
//! fractions (Hurwitz; see Niederreiter, "Random Number Generation and Quasi-Monte Carlo Methods",
//! chapter 3). In 64-bit arithmetic it is one multiplication.
//!
//! One shared counter per sequence keeps that promise for any number of threads.

use std::sync::atomic::{AtomicU64, Ordering};

/// 2⁶⁴ divided by the golden ratio, rounded to an odd number.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// A point of [0, 1), in units of 2⁻⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Draw(pub u64);

impl Draw {
    /// The n-th point of the sequence.
    pub const fn nth(n: u64) -> Self {
        Self(n.wrapping_mul(STEP))
    }

    /// As a fraction.
    pub fn fraction(self) -> f64 {
        self.0 as f64 / 2f64.powi(64)
    }
}

/// A sequence of draws, shared by all threads. It goes on where it was when tables change.
#[derive(Debug, Default)]
pub struct Sequence(AtomicU64);

impl Sequence {
    /// The next draw.
    pub fn draw(&self) -> Draw {
        Draw::nth(self.turn())
    }

    /// The number of this turn, from 0, for those who take turns instead of drawing.
    pub fn turn(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    /// How many draws or turns there were.
    pub fn position(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error of any window of this length over the first 300,000 draws, in percentage
    /// points, for an interval.
    fn worst(from: f64, to: f64, window: usize) -> f64 {
        let inside: Vec<u32> = (0..300_000u64)
            .map(|n| u32::from((from..to).contains(&Draw::nth(n).fraction())))
            .collect();
        let mut count: u32 = inside[..window].iter().sum();
        let expected = (to - from) * window as f64;
        let mut worst = (f64::from(count) - expected).abs();
        for at in window..inside.len() {
            count = count + inside[at] - inside[at - window];
            worst = worst.max((f64::from(count) - expected).abs());
        }
        worst * 100.0 / window as f64
    }

    #[test]
    fn every_window_of_a_thousand_is_within_one_point() {
        for (from, to) in [
            (0.0, 0.7),
            (0.7, 1.0),
            (0.0, 0.01),
            (0.33, 0.34),
            (0.2, 0.55),
            (0.0, 0.999),
        ] {
            let error = worst(from, to, 1_000);
            assert!(error < 1.0, "[{from}, {to}): {error}");
        }
    }

    #[test]
    fn every_window_of_a_hundred_thousand_is_within_a_tenth() {
        for (from, to) in [(0.0, 0.7), (0.7, 1.0), (0.123, 0.456), (0.0, 0.001)] {
            let error = worst(from, to, 100_000);
            assert!(error < 0.1, "[{from}, {to}): {error}");
        }
    }
}
