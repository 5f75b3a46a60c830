//! What every test needs: the process, endpoints good and bad, clients, certificates, databases.

pub(crate) mod advisor;
pub(crate) mod certificates;
pub(crate) mod client;
pub(crate) mod config;
mod deadline;
pub(crate) mod endpoint2;
pub(crate) mod geo;
pub(crate) mod grpc;
pub(crate) mod haproxy;
pub(crate) mod issuer;
pub(crate) mod keeper;
pub(crate) mod names;
pub(crate) mod namespace;
pub(crate) mod nginx;
pub(crate) mod openssl;
pub(crate) mod origin;
pub(crate) mod pebble;
pub(crate) mod portolan;
pub(crate) mod python;
pub(crate) mod recorder;
pub(crate) mod relay;
pub(crate) mod rogue;
pub(crate) mod saboteur;
pub(crate) mod tools;
pub(crate) mod websocket;
pub(crate) mod wire;

pub(crate) use client::{Ask, Load, fetch, get};
pub(crate) use deadline::{PATIENCE, eventually, soon};
pub(crate) use endpoint2::Endpoint2;
pub(crate) use nginx::Nginx;
pub(crate) use origin::Origin;
pub(crate) use portolan::Portolan;
pub(crate) use rogue::{Rogue, RogueEndpoint};
pub(crate) use wire::Wire;
