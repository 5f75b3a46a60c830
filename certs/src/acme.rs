//! Certificates that look after themselves, over ACME (RFC 8555).
//!
//! - [`renewal`]: when a certificate is ordered, and how loudly a failure is told: pure;
//! - [`moment`]: the calendar, as data;
//! - [`order`]: one order, from the account to the chain; [`account`] and [`directory`] below it;
//! - [`answers`]: what Portolan answers to an authority's challenges, for whoever accepts clients;
//! - [`records`]: who writes records in the DNS;
//! - [`storage`]: accounts, keys and chains in `state_dir`;
//! - [`issued`]: a chain with its key, checked before it is believed;
//! - [`placeholder`]: what a name is shown before it has a certificate.
//!
//! Who drives all of it, with a clock and a runtime, is the control plane.

pub mod account;
pub mod answers;
pub mod directory;
pub mod error;
pub mod issued;
pub mod moment;
pub mod order;
pub mod placeholder;
pub mod records;
pub mod renewal;
pub mod storage;

pub use answers::Answers;
pub use moment::Moment;
pub use storage::Storage;
