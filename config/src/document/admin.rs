//! The API for operators.

use std::net::SocketAddr;

use crate::decode::{Secret, document};
use crate::scalar::keywords;
use crate::source::At;

document! {
    /// The API for operators and their tools: health, metrics, status, reload. On loopback it may
    /// be open; beyond, tokens are mandatory.
    pub struct Admin as "`admin`" {
        /// `IP:port`. When it changes, the API moves there while Portolan runs.
        pub bind: At<SocketAddr> = "127.0.0.1:9470",
        /// Who may use it. With no tokens, whoever can reach it may do everything, and it can only
        /// stand on loopback. Health, readiness and (on loopback) metrics need no token.
        pub tokens: Vec<AdminToken>,
    }
}

document! {
    /// Somebody who may use the API, by `Authorization: Bearer TOKEN`.
    pub struct AdminToken as "a token" {
        /// Who it is, for the log.
        pub name: At<String>,
        /// What they may do.
        pub role: At<Role>,
        /// The token, 16 characters or more, best taken from a file:
        /// `${file:/run/secrets/oncall}`.
        pub token: At<Secret>,
    }
}

keywords! {
    /// What a token allows.
    pub enum Role {
        /// Look at everything.
        Viewer = "viewer",
        /// Look at everything and change what can be changed.
        Operator = "operator",
    }
}
