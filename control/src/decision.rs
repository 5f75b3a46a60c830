//! What becomes of a request, for the data plane, for `explain` and for a file's tests.

pub mod affinity;
pub mod decide;
pub mod explain;
pub mod fate;
pub mod tries;
