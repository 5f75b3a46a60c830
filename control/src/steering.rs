//! The steering algebra: from a target and the state of its pools to shares of traffic.
//!
//! `evaluate` is the algebra itself, pure and slow enough to be readable; `table` is its result
//! for one class of clients, which a request only looks up; `sequence` is where a request's draw
//! comes from.

mod evaluate;
mod sequence;
mod table;

pub use evaluate::{Conditions, Latency, Load, Share, evaluate};
pub use sequence::{Draw, Sequence};
pub use table::{Basis, Entry, Table};

#[cfg(test)]
mod properties;
