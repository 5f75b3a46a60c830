//! Accounts, keys and chains in `state_dir`.
//!
//! Below `acme/` every authority has a folder of its own, named after the issuer and its directory:
//! an issuer that is pointed at another directory begins anew there, and finds what it had when it
//! is pointed back. In it stand `account.json`, and a folder for each set of names. One file there
//! holds the key and the chain together, so that the two are never of different certificates.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_config::plan::{AcmeIssuerPlan, ManagedCertificate};

use super::issued::{Issued, Unusable};
use crate::state_file;

/// The key and the chain, in the folder of a certificate.
const CERTIFICATE: &str = "certificate.pem";

/// Keeps everything.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// Who is looking for an account, by its file.
    accounts: Arc<Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>>,
}

/// Whoever has it is the only process that orders a certificate of an issuer.
#[derive(Debug)]
pub struct Turn {
    _file: File,
}

/// Where the account at an authority stands.
pub fn account_file(issuer: &AcmeIssuerPlan) -> PathBuf {
    issuer.folder.join("account.json")
}

/// Where a certificate and its key stand.
pub fn certificate_file(certificate: &ManagedCertificate) -> PathBuf {
    certificate.folder.join(CERTIFICATE)
}

/// A certificate, if it is there. One that cannot be used is as good as none.
pub fn load(certificate: &ManagedCertificate) -> Option<Issued> {
    let path = certificate_file(certificate);
    let loaded = Issued::load(&path).and_then(|issued| {
        issued.check_names(&certificate.names)?;
        Ok(issued)
    });
    match loaded {
        Ok(issued) => Some(issued),
        Err(Unusable::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("{} cannot be used: {error}", path.display());
            None
        }
    }
}

/// The file of another certificate of the same authority that is good for a name: of several the
/// one that is good for longest. It stands in when a set of names was changed and is not issued yet.
pub fn stand_in(certificate: &ManagedCertificate, name: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir(certificate.folder.parent()?).ok()?;
    folders
        .filter_map(|folder| Some(folder.ok()?.path().join(CERTIFICATE)))
        .filter_map(|path| Some((Issued::load(&path).ok()?, path)))
        .filter(|(issued, _)| issued.names.iter().any(|known| covers(known, name)))
        .max_by_key(|(issued, _)| issued.validity.until)
        .map(|(_, path)| path)
}

impl Storage {
    /// Whoever has it is the only one who looks for this account, and makes it if there is none.
    pub(super) fn account_lock(&self, issuer: &AcmeIssuerPlan) -> Arc<tokio::sync::Mutex<()>> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.entry(account_file(issuer)).or_default().clone()
    }
}

/// Keeps a certificate and its key, in PEM, in place of the one before.
///
/// # Errors
/// When the folder cannot be written.
pub fn save(certificate: &ManagedCertificate, pem: &str) -> io::Result<()> {
    private_folder(&certificate.folder)?;
    state_file::replace(&certificate_file(certificate), pem.as_bytes())
}

/// Keeps an account.
///
/// # Errors
/// When the folder cannot be written.
pub fn save_account(issuer: &AcmeIssuerPlan, content: &[u8]) -> io::Result<()> {
    private_folder(&issuer.folder)?;
    state_file::replace(&account_file(issuer), content)
}

/// Puts an account aside that the authority does not know any more.
///
/// # Errors
/// When the folder cannot be written.
pub fn forget_account(issuer: &AcmeIssuerPlan) -> io::Result<()> {
    let path = account_file(issuer);
    std::fs::rename(&path, path.with_extension("json.unknown"))
}

/// The turn to order a certificate, if no other process has it: one that is being upgraded and its
/// successor share the folder.
///
/// # Errors
/// When the folder cannot be written.
pub fn try_turn(certificate: &ManagedCertificate) -> io::Result<Option<Turn>> {
    private_folder(&certificate.folder)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(certificate.folder.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Turn { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a name of a certificate is, or stands for, this name.
pub(super) fn covers(known: &str, name: &str) -> bool {
    known == name
        || known.strip_prefix('*').is_some_and(|suffix| {
            let dot = name.find('.');
            !name.starts_with('*') && dot.is_some_and(|dot| &name[dot..] == suffix)
        })
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::names::Name;
    use portolan_config::scalar::FromScalar as _;
    use std::os::unix::fs::PermissionsExt as _;

    fn certificate(folder: &Path, issuer: &str, names: &[&str]) -> ManagedCertificate {
        ManagedCertificate {
            issuer: Name::parse(issuer).unwrap(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            folder: folder.join("acme").join(issuer).join(names.join("+")),
        }
    }

    fn pem(names: &[String]) -> String {
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        made.signing_key.serialize_pem() + &made.cert.pem()
    }

    #[test]
    fn certificates_are_found_again_and_are_their_owners() {
        let folder = tempfile::tempdir().unwrap();
        let one = certificate(folder.path(), "one", &["a.example", "b.example"]);
        let two = certificate(folder.path(), "two", &["a.example", "b.example"]);
        assert!(load(&one).is_none());
        save(&one, &pem(&one.names)).unwrap();
        assert_eq!(load(&one).unwrap().names, *one.names);
        assert!(load(&two).is_none(), "another authority's");
        for path in [
            &certificate_file(&one),
            &one.folder,
            &folder.path().join("acme"),
        ] {
            let mode = std::fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
        // A file that was damaged, or is for other names, is as good as none.
        save(&one, &pem(&one.names[1..])).unwrap();
        assert!(load(&one).is_none());
        std::fs::write(certificate_file(&one), "-----BEGIN").unwrap();
        assert!(load(&one).is_none());
    }

    #[test]
    fn another_certificate_stands_in_for_a_name_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let wild = certificate(folder.path(), "one", &["*.example.com"]);
        let new = certificate(folder.path(), "one", &["*.example.com", "example.com"]);
        assert_eq!(stand_in(&new, "api.example.com"), None);
        save(&wild, &pem(&wild.names)).unwrap();
        let stands_in = |name| stand_in(&new, name).is_some();
        assert!(stands_in("api.example.com"));
        assert!(stands_in("*.example.com"));
        assert!(!stands_in("example.com"));
        assert!(!stands_in("a.b.example.com"));
        assert!(!stands_in("*.b.example.com"));
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let one = certificate(folder.path(), "one", &["a.example"]);
        let turn = try_turn(&one).unwrap();
        assert!(turn.is_some());
        assert!(try_turn(&one).unwrap().is_none());
        drop(turn);
        assert!(try_turn(&one).unwrap().is_some());
    }
}
