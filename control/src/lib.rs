//! TEMP
pub mod balance;
pub mod clock;
pub mod decide;
pub mod dial;
pub mod endpoint;
pub mod engine;
pub mod geo;
pub mod health;
pub mod notice;
pub mod pool;
pub mod resolve;
pub mod snapshot;
pub mod stats;
pub mod steering;
