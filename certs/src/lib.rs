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
pub mod clock;
mod digest;
pub mod error;
pub mod folder;
pub mod key_set;
pub mod keyring;
pub mod material;
pub mod pem;
pub mod server;
pub mod shown;
pub mod staple;
pub mod state_file;
pub mod store;
pub mod token_keys;
pub mod upstream;
pub mod verifier;

pub use bundle::Bundle;
pub use challenge::Challenges;
pub use client::{ClientAuth, ClientIdentity};
pub use clock::now;
pub use error::BundleError;
pub use key_set::KeySet;
pub use keyring::{CertificateFault, Keyring};
pub use material::Material;
pub use server::{ServerTls, install_provider};
pub use shown::no_json;
pub use store::CertificateStore;
pub use token_keys::TokenKeys;
pub use upstream::UpstreamIdentity;
