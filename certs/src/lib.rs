//! Certificates: read from PEM files, checked before they are used, chosen by name.
//!
//! - [`bundle`]: one chain with its key, and what it is good for;
//! - [`store`]: which chain a client gets, by the name it asks for;
//! - [`server`]: the TLS settings of a listener made of them;
//! - [`upstream`]: what endpoints are verified with, and what Portolan shows them;
//! - [`material`]: all that a plan needs, loaded at once, with a diagnostic for every file that
//!   cannot be used.

pub mod bundle;
pub mod material;
pub mod server;
pub mod store;
pub mod upstream;

pub use bundle::{Bundle, BundleError};
pub use material::Material;
pub use server::{ServerTls, install_provider};
pub use store::CertificateStore;
pub use upstream::UpstreamIdentity;
