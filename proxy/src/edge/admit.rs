//! Whether a request may pass: what it says, who sends it, and how often.

pub(crate) mod access;
pub(crate) mod auth;
pub(crate) mod client_address;
mod forward_auth;
pub(crate) mod guard;
pub(crate) mod stop;
