//! The way to an endpoint: which one, how to connect, what is spoken there, and the answer back.

pub(crate) mod choose;
pub(crate) mod connect;
pub(crate) mod dialer;
pub(crate) mod exchange;
pub(crate) mod exchange_context;
pub(crate) mod fault;
pub(crate) mod forward;
pub(crate) mod probe;
pub(crate) mod session;
