//! Certificates: read from PEM files, checked before they are used, chosen by name, and replaced
//! while they are in use.
//!
//! - [`pem`]: PEM, read in one place;
//! - [`bundle`]: one chain with its key, and what it is good for; [`staple`]: the CA's word about it;
//! - [`folder`]: the pairs in a folder;
//! - [`keyring`]: what outlives configurations: the last good pairs, keys of session tickets;
//! - [`challenge`]: answers to CAs' questions;
//! - [`store`]: which chain a client gets, by the name it asks for;
//! - [`client`]: mutual TLS;
//! - [`server`]: the TLS settings of a listener made of them;
//! - [`verifier`]: what endpoints and authorities are verified with;
//! - [`upstream`]: what endpoints are verified with, and what Portolan shows them;
//! - [`token_keys`]: public keys of who signs tokens, and what they verify; [`key_set`]: the same in use;
//! - [`acme`]: certificates that look after themselves;
//! - [`material`]: all that a plan needs, loaded at once, with a diagnostic for every file that
//!   cannot be used, and read again when files change.

pub mod acme;
pub mod bundle;
pub mod challenge;
pub mod client;
pub mod folder;
pub mod key_set;
pub mod keyring;
pub mod material;
pub mod pem;
pub mod server;
pub mod staple;
pub mod state_file;
pub mod store;
pub mod token_keys;
pub mod upstream;
pub mod verifier;

pub use bundle::{Bundle, BundleError};
pub use challenge::Challenges;
pub use client::{ClientAuth, ClientIdentity};
pub use key_set::KeySet;
pub use keyring::{Fault, Keyring};
pub use material::Material;
pub use server::{ServerTls, install_provider};
pub use store::CertificateStore;
pub use token_keys::TokenKeys;
pub use upstream::UpstreamIdentity;

/// The time by which certificates are judged, in seconds since 1970: the same that rustls takes.
pub fn now() -> i64 {
    i64::try_from(rustls_pki_types::UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

/// Where a text in JSON is not what it should be, in words that hold nothing of it.
pub fn no_json(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Eof => "the JSON ends too early: the file may have been cut off",
        Category::Syntax => "it is no JSON",
        Category::Data | Category::Io => "something else belongs here, or something is missing",
    };
    match error.line() {
        0 => what.to_owned(),
        line => format!("line {line}, column {}: {what}", error.column()),
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

fn sha256(bytes: &[u8]) -> String {
    bundle::hexadecimal(&digest(bytes))
}
