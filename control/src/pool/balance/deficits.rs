//! What endpoints have missed of their shares, and get when they can take it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use portolan_config::plan::BalancePlan;

use super::load::Load;

/// The most that is owed. An endpoint that was slow for an hour is not to be flooded afterwards; the
/// ups and downs of one that is as fast as the others are within this.
const MOST: i32 = 32;

/// Requests that each endpoint of a pool is owed, by its index; less than none if it had those of
/// others. Threads that change them at the same time may exceed the bound by one each, which does no
/// harm.
///
/// They belong to one picture of the pool: with other weights, or other endpoints that can serve,
/// nobody is owed anything.
#[derive(Clone, Debug, Default)]
pub struct Deficits(Arc<[AtomicI32]>);

impl Deficits {
    /// For so many endpoints; for none if this way to balance knows no deficits.
    pub fn new(endpoints: usize, balance: &BalancePlan) -> Self {
        let by_load = matches!(balance, BalancePlan::LeastRequests | BalancePlan::Fastest);
        if !by_load || endpoints < 2 {
            return Self::default();
        }
        Self((0..endpoints).map(|_| AtomicI32::new(0)).collect())
    }

    /// Whether the endpoint that a request was nominated for gives way to another one; then that is
    /// noted. Both are given by index and load.
    pub(super) fn gives_way(
        &self,
        first: usize,
        first_load: Load,
        second: usize,
        second_load: Load,
    ) -> bool {
        let (Some(first), Some(second)) = (self.0.get(first), self.0.get(second)) else {
            return first_load.exceeds(&second_load);
        };
        let owed_first = first.load(Ordering::Relaxed);
        let owed_second = second.load(Ordering::Relaxed);
        let gives_way = first_load.exceeds(&second_load)
            // By one, it would only be the other way round.
            || (owed_second - owed_first > 1 && !second_load.exceeds(&first_load));
        if gives_way && owed_first < MOST && owed_second > -MOST {
            first.fetch_add(1, Ordering::Relaxed);
            second.fetch_sub(1, Ordering::Relaxed);
        }
        gives_way
    }
}
