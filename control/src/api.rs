//! The types that the admin API answers with.

pub mod status;
