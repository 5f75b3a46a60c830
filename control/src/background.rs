//! Tasks that run beside the engine: certificates, keys, operators' overrides, and what is watched.

pub mod acme;
pub mod exhaustion_watch;
pub mod loss_watch;
pub mod overrides;
pub mod token_keys;
