//! The access log's lines, and what they are written with.

pub(crate) mod line;
pub(crate) mod recorder;
