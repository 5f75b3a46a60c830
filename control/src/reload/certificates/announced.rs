//! What is remembered about certificates in use.

use std::collections::HashMap;

use portolan_certs::keyring::CertificateFault;
use portolan_config::plan::PoolId;

/// What is remembered about certificates in use.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Files for pools that cannot be used now.
    pub(crate) faults: Vec<(PoolId, CertificateFault)>,
    /// The last announcement about each certificate, by its SHA-256 and whose it is.
    pub(crate) announced: HashMap<(String, String), i64>,
}
