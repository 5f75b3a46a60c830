//! Connections over which HTTP/2 is spoken: many requests share one.

pub(crate) mod connected;
pub(crate) mod connection;
pub(crate) mod pool;
pub(crate) mod state;
pub(crate) mod winding;
