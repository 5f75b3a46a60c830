//! A pool and its endpoints at one moment: who can serve, and which endpoint is taken.

pub mod balance;
pub mod dial;
pub mod endpoint;
pub mod endpoint_view;
pub mod rendezvous;
pub mod view;
