//! Whether an endpoint can serve: by its probes, by its requests, and by its silence; and whether the
//! fault is this instance's own.

pub mod exhaustion;
pub mod outlier;
pub mod partition;
pub mod retry;
pub mod slow_start;
pub mod stall;
pub mod verdict;
