//! A request while it is under way: what is known of it, and its end.

pub(crate) mod allowance;
mod body_rate;
pub(crate) mod context;
pub(crate) mod proof;
pub(crate) mod record;
