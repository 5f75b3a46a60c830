//! Connections to endpoints: made, kept for the next request, and shared.

pub(crate) mod http2;
pub(crate) mod idle;
pub(crate) mod peer;
pub(crate) mod place;
pub(crate) mod pool;
mod proxy_protocol;
pub(crate) mod stream;
