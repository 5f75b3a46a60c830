//! Certificate authorities, for the plan.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::compile::files::file;
use crate::document::{AcmeIssuer, Certificate, ChallengeKind, DnsHook, Document};
use crate::names::Name;
use crate::plan::{
    AcmeIssuerPlan, ChallengePlan, DnsHookKind, DnsHookPlan, ExternalAccountPlan,
    ManagedCertificate,
};
use crate::source::{At, Sources};

pub(super) fn issuers(document: &Document, sources: &Sources) -> Vec<Arc<AcmeIssuerPlan>> {
    let issuers = document.acme.iter();
    issuers
        .map(|(name, written)| Arc::new(issuer(document, name, written, sources)))
        .collect()
}

fn issuer(
    document: &Document,
    name: &At<Name>,
    written: &AcmeIssuer,
    sources: &Sources,
) -> AcmeIssuerPlan {
    AcmeIssuerPlan {
        name: name.value.clone(),
        directory: written.directory.value.url().into(),
        email: written
            .email
            .as_ref()
            .map(|email| email.value.as_str().into()),
        external_account: written
            .external_account
            .as_ref()
            .map(|account| ExternalAccountPlan {
                key_id: account.key_id.value.as_str().into(),
                hmac_key: account.hmac_key.value.clone(),
            }),
        challenge: match (written.challenge.value, &written.dns) {
            (ChallengeKind::Dns01, Some(hook)) => ChallengePlan::Dns01(dns(hook)),
            (ChallengeKind::TlsAlpn01, _) => ChallengePlan::TlsAlpn01,
            // Without a hook, `dns-01` has been refused.
            (ChallengeKind::Http01 | ChallengeKind::Dns01, _) => ChallengePlan::Http01,
        },
        ca: written.ca.as_ref().map(|ca| file(ca, sources)),
        key: written.key.value,
        renew_after: written.renew_after.value.fraction(),
        retry_min: written.retry.min.value.duration(),
        retry_max: written.retry.max.value.duration(),
        timeout: written.timeout.value.duration(),
        folder: folder(document, name, written, sources),
        origin: name.origin,
    }
}

fn dns(hook: &DnsHook) -> DnsHookPlan {
    DnsHookPlan {
        by: match &hook.webhook {
            Some(url) => DnsHookKind::Webhook {
                url: url.value.as_str().into(),
                token: hook.token.as_ref().map(|token| token.value.clone()),
            },
            None => DnsHookKind::Exec(hook.exec.iter().map(|word| word.value.clone()).collect()),
        },
        timeout: hook.timeout.value.duration(),
        wait: hook.wait.value.duration(),
    }
}

/// The folder of an issuer. Each directory has one of its own: what was issued for trying out is
/// not taken for the real thing.
fn folder(
    document: &Document,
    name: &At<Name>,
    written: &AcmeIssuer,
    sources: &Sources,
) -> PathBuf {
    let directory = digits(written.directory.value.url());
    file(&document.state_dir, sources)
        .value
        .join("acme")
        .join(format!("{name}-{directory}"))
}

/// The certificate that is asked for, however its names are written.
pub(super) fn managed(
    document: &Document,
    certificate: &Certificate,
    sources: &Sources,
) -> Option<ManagedCertificate> {
    let issuer = certificate.acme.as_ref()?;
    let names = certificate.names.iter();
    let mut names: Vec<String> = names.map(|name| name.value.as_str().to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    let mut issuers = document.acme.iter();
    let (known, written) = issuers.find(|(known, _)| known.value == issuer.value)?;
    // Names are longer than file systems like at times.
    let readable: String = names.first()?.replace('*', "_").chars().take(100).collect();
    let folder = format!("{readable}-{}", digits(&names.join(",")));
    Some(ManagedCertificate {
        issuer: issuer.value.clone(),
        folder: self::folder(document, known, written, sources).join(folder),
        names: names.into(),
    })
}

fn digits(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let bytes = digest.iter().take(4);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}
