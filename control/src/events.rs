//! What happened: one value per fact, for the log, the journal and the API.

pub(crate) mod certificate;
pub mod event;
pub mod journal;
pub mod log_loss;
pub mod reload;
pub(crate) mod token_keys;
