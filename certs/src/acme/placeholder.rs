//! What names are shown before they have a certificate of their own: another one of the same
//! authority that is good for them, else one that nobody trusts and that says so.

use std::sync::Arc;

use portolan_config::plan::ManagedCertificate;
use rcgen::{CertificateParams, DistinguishedName, DnType};

use super::answers::signed_by_itself;
use super::storage;
use crate::bundle::Bundle;

/// The subject of every certificate that nobody trusts.
pub const SUBJECT: &str = "Portolan: not yet issued";

/// What is shown for the names of these certificates that none of `bundles` is good for. The bundles
/// come first: what is real is never hidden by what is not.
pub(crate) fn stand_ins(
    managed: &[ManagedCertificate],
    bundles: &[Arc<Bundle>],
) -> Vec<Arc<Bundle>> {
    let mut standing: Vec<Arc<Bundle>> = Vec::new();
    for certificate in managed {
        let mut missing = Vec::new();
        for name in certificate.names.iter() {
            let has = |bundle: &Arc<Bundle>| {
                let mut known = bundle.names.iter();
                known.any(|known| storage::covers(known, name))
            };
            if bundles.iter().chain(&standing).any(has) {
                continue;
            }
            let there = storage::stand_in(certificate, name);
            match there.and_then(|path| Bundle::load_pair(&path, &path).ok()) {
                Some(bundle) => standing.push(Arc::new(bundle)),
                None => missing.push(name.clone()),
            }
        }
        if !missing.is_empty() {
            match placeholder(missing) {
                Ok(bundle) => standing.push(Arc::new(bundle)),
                Err(_) => tracing::warn!(
                    "nothing can be shown for {certificate} until it is issued: one of its names is none"
                ),
            }
        }
    }
    standing
}

/// A certificate that nobody trusts.
fn placeholder(names: Vec<String>) -> Result<Bundle, rcgen::Error> {
    let mut params = CertificateParams::new(names.clone())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, SUBJECT);
    let certified = signed_by_itself(&params)?;
    Ok(Bundle::placeholder(certified, names, SUBJECT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::self_signed;
    use portolan_config::names::Name;
    use portolan_config::scalar::FromScalar as _;
    use std::path::Path;

    fn certificate(folder: &Path, names: &[&str]) -> ManagedCertificate {
        ManagedCertificate {
            issuer: Name::parse("one").unwrap(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            folder: folder.join(names.join("+")),
        }
    }

    #[test]
    fn what_is_missing_is_stood_in_for_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let managed = [certificate(
            folder.path(),
            &["a.example.com", "b.example.com", "c.example.org"],
        )];
        let names = |bundles: &[Arc<Bundle>]| -> Vec<Vec<String>> {
            bundles.iter().map(|bundle| bundle.names.clone()).collect()
        };
        let alone = stand_ins(&managed, &[]);
        assert_eq!(names(&alone), [managed[0].names.to_vec()]);
        assert_eq!(alone[0].subject, format!("CN={SUBJECT}"));
        alone[0].certified.keys_match().unwrap();

        // A real one that has some of the names.
        let (cert, key) = self_signed(folder.path(), "real", &["*.example.com"]);
        let real = Arc::new(Bundle::load_pair(&cert, &key).unwrap());
        let rest = stand_ins(&managed, std::slice::from_ref(&real));
        assert_eq!(names(&rest), [["c.example.org"]]);

        // Another one of the same authority.
        let other = certificate(folder.path(), &["c.example.org", "d.example.org"]);
        let made = rcgen::generate_simple_self_signed(other.names.to_vec()).unwrap();
        let pem = made.signing_key.serialize_pem() + &made.cert.pem();
        storage::save(&other, &pem).unwrap();
        let rest = stand_ins(&managed, &[real]);
        assert_eq!(names(&rest), [other.names.to_vec()]);
        assert_ne!(rest[0].subject, format!("CN={SUBJECT}"));
    }
}
