//! What a client must prove before its request goes on, and how often it may come.

pub mod basic;
pub mod cookie;
pub mod forward_auth;
pub mod jwt;
pub mod rate_limit;
