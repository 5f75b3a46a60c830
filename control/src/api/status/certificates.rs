//! The certificates in use, as data.

use portolan_certs::bundle::Validity;
use portolan_certs::keyring::CertificateFault;
use portolan_config::plan::Plan;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::background::acme::ManagedEntry;
use crate::reload::Reloader;
use crate::telemetry::listener_status::ListenerStatus;

/// `GET /api/v1/certificates`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CertificatesEntry {
    /// Those that clients get.
    pub certificates: Vec<CertificateEntry>,
    /// Files that cannot be used now. What was good before them is used in their place.
    pub faults: Vec<FaultEntry>,
    /// Those that Portolan asks for by itself.
    #[serde(default)]
    pub managed: Vec<ManagedEntry>,
}

/// A certificate that clients get.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CertificateEntry {
    /// The address of the listener.
    pub listener: String,
    /// The file it comes from.
    pub file: String,
    /// The names it is good for.
    pub names: Vec<String>,
    /// The kind of its key.
    pub key: String,
    /// Whose it is.
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// Its SHA-256, in hexadecimal.
    pub fingerprint: String,
    /// From when on it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
    /// `valid`, `not yet valid` or `expired`.
    pub state: String,
    /// Whether Portolan asked for it by itself.
    #[serde(default)]
    pub managed: bool,
    /// Whether the CA's word that it is not revoked is shown with it now.
    pub stapled: bool,
}

/// A file that cannot be used now.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FaultEntry {
    /// Whose it is: `listener 0.0.0.0:443` or `pool aws`.
    pub of: String,
    /// The kind of fault, as the metric tells them apart.
    pub reason: String,
    /// What is wrong.
    pub error: String,
}

/// The certificates in a few numbers, for `/api/v1/status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct CertificateTotals {
    /// How many clients get, over all listeners.
    pub total: usize,
    /// When the first of them ends, in seconds since 1970.
    pub first_ends: Option<i64>,
    /// Files that cannot be used now.
    pub faults: usize,
}

impl CertificatesEntry {
    /// What is in use now.
    pub fn new(listeners: &[ListenerStatus], reloader: &Reloader, now: i64) -> Self {
        let mut entry = Self {
            managed: reloader.totals().acme.entries().to_vec(),
            ..Self::default()
        };
        let running = reloader.running();
        let plan: &Plan = &running.plan;
        for listener in listeners {
            let Some(server) = &listener.tls else {
                continue;
            };
            let address = listener.bound.to_string();
            let certificates = server.certificates();
            entry
                .certificates
                .extend(certificates.iter().map(|(files, bundle)| {
                    CertificateEntry {
                        listener: address.clone(),
                        file: files.cert.display().to_string(),
                        names: bundle.names.clone(),
                        key: bundle.kind.as_str().to_owned(),
                        subject: bundle.subject.clone(),
                        issuer: bundle.issuer.clone(),
                        serial: bundle.serial.clone(),
                        fingerprint: bundle.fingerprint.clone(),
                        not_before: bundle.not_before,
                        not_after: bundle.not_after,
                        state: match bundle.validity(now) {
                            Validity::Valid => "valid",
                            Validity::NotYet => "not yet valid",
                            Validity::Expired => "expired",
                        }
                        .to_owned(),
                        managed: plan.manages(&files.cert),
                        stapled: bundle.stapled().is_some_and(|staple| staple.is_fresh(now)),
                    }
                }));
            let of = format!("listener {address}");
            let faults = server.faults();
            entry
                .faults
                .extend(faults.iter().map(|fault| FaultEntry::new(&of, fault)));
        }
        for (id, fault) in reloader.pool_faults() {
            if let Some(pool) = plan.pools.get(id.index()) {
                entry
                    .faults
                    .push(FaultEntry::new(&format!("pool {}", pool.name), &fault));
            }
        }
        entry
    }

    /// The same in a few numbers.
    pub fn totals(&self) -> CertificateTotals {
        let ends = self
            .certificates
            .iter()
            .map(|certificate| certificate.not_after);
        CertificateTotals {
            total: self.certificates.len(),
            first_ends: ends.min(),
            faults: self.faults.len(),
        }
    }

    /// What should worry an operator.
    pub fn worries(&self, now: i64) -> Vec<String> {
        const SOON: i64 = 14 * 24 * 60 * 60;
        let faults = self
            .faults
            .iter()
            .map(|fault| format!("{}: {}", fault.of, fault.error));
        let ends = self.certificates.iter().filter_map(|certificate| {
            let of = format!(
                "listener {}: the certificate in `{}`",
                certificate.listener, certificate.file
            );
            match certificate.state.as_str() {
                "valid" if certificate.managed => None,
                "valid" if certificate.not_after - now < SOON => {
                    let days = (certificate.not_after - now) / (24 * 60 * 60);
                    Some(format!("{of} expires in {days} days"))
                }
                "valid" => None,
                "expired" => Some(format!("{of} has expired")),
                _ => Some(format!("{of} is not valid yet")),
            }
        });
        let managed = self.managed.iter().filter_map(|managed| {
            let why = managed.error.as_ref()?;
            let names = managed.names.join(", ");
            Some(format!(
                "no new certificate for {names} from {}: {why}",
                managed.issuer
            ))
        });
        faults.chain(ends).chain(managed).collect()
    }
}

impl FaultEntry {
    fn new(of: &str, fault: &CertificateFault) -> Self {
        Self {
            of: of.to_owned(),
            reason: fault.error.reason().to_owned(),
            error: fault.error.to_string(),
        }
    }
}
