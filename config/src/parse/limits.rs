//! How large a tree may become.

/// The most values in one file. A file of the largest size that is read has fewer, unless it is
/// made to have many.
pub(crate) const MOST_NODES: usize = 8_000_000;
