//! The data plane of Portolan: clients in, endpoints out, on pingora.
//!
//! One request goes through these rooms:
//!
//! 1. [`listener`] accepts it (bind → accept → [`proxy_protocol`] → TLS), [`connection`] takes its
//!    head as a whole and refuses what must not pass ([`http1`]), [`body_rate`] what takes too long;
//!    [`downstream`] is the client's side of it from there on;
//! 2. [`edge`] takes it through its phases, with what is known in [`context`];
//! 3. [`guard`] checks it, [`client_address`] says who asks, the control plane's `decide` says where
//!    it goes; [`affinity`] ties it to where its client was before;
//! 4. [`exchange`] makes the tries and passes the answer on; [`choose`] finds the endpoint of each, [`peer`] says how to connect to it, [`announce`] tells
//!    it for whom;
//! 5. [`last_hop`] answers what may go no further; [`forward`] changes headers both ways, [`expose`] tells the client how it was steered;
//! 6. [`fault`], [`refusal`] and [`reply`] answer what cannot be served, over gRPC in the words of
//!    [`grpc`];
//! 7. [`record`] writes its line and closes its entry in the [`ledger`], which was opened when it was
//!    accepted.
//!
//! All of it runs on the [`workers`], and every connection on one of them.
//!
//! [`probe`] asks endpoints whether they serve, for the control plane. This is the only crate that
//! names the engine.

mod access;
mod affinity;
mod announce;
mod auth;
mod authority;
mod body_rate;
mod browser;
mod carried;
mod choose;
mod client_address;
mod client_certificate;
mod connection;
mod context;
mod descriptors;
mod dialer;
mod downstream;
mod edge;
mod exchange;
mod expose;
mod fault;
mod forward;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod guard;
mod head;
mod held;
mod http1;
mod last_hop;
mod ledger;
mod listener;
mod outgoing;
mod peer;
mod probe;
mod proxy_protocol;
mod record;
mod redirect;
mod refusal;
mod reply;
mod server;
mod spare;
mod timer;
mod tokens;
mod trailers;
mod workers;

pub use dialer::EngineDialer;
pub use listener::HandedSocket;
pub use server::{DataPlane, DataPlaneParts, descriptors_needed};
