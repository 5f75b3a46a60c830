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
mod admin;
mod affinity;
mod auth;
mod balancing;
mod commands;
mod demo;
mod drain;
mod endpoints;
mod examples;
mod faults;
mod geography;
mod grpc;
mod headers;
mod health;
mod house;
mod ledger;
mod listeners;
mod outlier;
mod protocols;
mod rate_limits;
mod reload;
mod requests;
mod steering;
mod stopping;
mod systemd;
mod upgrade;
