//! The whole thing, end to end: the real process with real sockets, endpoints good and bad, one
//! module for each thing that Portolan promises.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "in a test, what goes wrong ends it, and says so"
)]

mod harness;

mod access;
mod acme;
mod admin;
mod affinity;
mod auth;
mod balancing;
mod commands;
mod demo;
mod drain;
mod endpoints;
mod events;
mod examples;
mod faults;
mod forward_auth;
mod geography;
mod grpc;
mod headers;
mod health;
mod hostile_endpoint;
mod house;
mod http2;
mod hygiene;
mod interop;
mod ledger;
mod listeners;
mod messages;
mod outlier;
mod protocols;
mod rate_limits;
mod redirects;
mod reload;
mod requests;
mod secrets;
mod steering;
mod stopping;
mod streaming;
mod supervision;
mod systemd;
mod tls;
mod tokens;
mod upgrade;
mod weights;
mod writing;
