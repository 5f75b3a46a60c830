//! What happened: one value per fact, for the log, the journal and the API.

pub(crate) mod certificate;
pub mod event;
pub mod journal;
pub(crate) mod token_keys;
