//! What becomes of a request, for the data plane, for `explain` and for a file's tests.

pub mod affinity;
pub mod decide;
pub mod explain;
pub mod tries;

use std::sync::Arc;
use std::time::Duration;

use portolan_config::plan::PoolId;

use crate::steering::Basis;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// A pool gets it.
    Pool {
        /// The pool.
        pool: PoolId,
        /// By which health it was chosen.
        basis: Basis,
        /// How it came about, in a line.
        why: Arc<str>,
    },
    /// Nobody can serve, and the route says what to answer then.
    AllDown {
        /// The status.
        status: u16,
        /// For Retry-After.
        retry_after: Duration,
    },
    /// Refused on purpose (`if_down: shed`).
    Shed,
    /// Nobody can serve, and there is nobody left to try.
    Nobody,
}
