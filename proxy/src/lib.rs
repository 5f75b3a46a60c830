//! The data plane of Portolan: clients in, endpoints out, on pingora.
//!
//! One request goes through these rooms:
//!
//! 1. [`listener`] is the address where it comes in, [`accept`] lets it (PROXY protocol → TLS), [`connection`]
//!    takes its head as a whole and refuses what must not pass, and [`downstream`] is the client's side of
//!    it from there on; what stands on a connection is read and written in [`http`];
//! 2. [`edge`] takes it through its phases, with what is known in [`request`]: [`edge::admit`] says whether it
//!    may pass, the control plane's `decide` says where it goes, [`edge::affinity`] ties it to where its
//!    client was before;
//! 3. [`upstream`] is the way to an endpoint: [`upstream::choose`] finds the endpoint of each try,
//!    [`upstream::connect`] has a connection for it, [`upstream::session`] speaks there,
//!    [`upstream::exchange`] makes the tries and passes the answer on;
//! 4. [`edge::answer`] is what Portolan answers by itself, and what it adds to answers of endpoints;
//! 5. [`request::record`] writes its line and closes its [`connection::entry`], which was opened when it was
//!    accepted.
//!
//! All of it runs on the [`workers`], and every connection on one of them.
//!
//! [`upstream::probe`] asks endpoints whether they serve, for the control plane. This is the only crate that
//! names the engine.

mod accept;
mod connection;
mod descriptors;
mod downstream;
mod edge;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod listener;
mod proxy_protocol;
mod random;
mod record;
mod request;
mod server;
mod timer;
mod upstream;
mod workers;

pub use crate::upstream::dialer::EngineDialer;
pub use listener::HandedSocket;
pub use server::{DataPlane, DataPlaneParts, descriptors_needed};
