//! Pairs of chains and keys in a folder.
//!
//! A pair is `NAME.pem`, `NAME.crt` or `NAME.cert` with its key, which is `NAME.key` or stands in
//! the same file; or a folder with `fullchain.pem` and `privkey.pem` (as certbot lays them out) or
//! `tls.crt` and `tls.key` (as Kubernetes does), and then nothing else in that folder counts.
//! Whatever begins with a dot is somebody's own business.

use std::path::{Path, PathBuf};

use crate::bundle::PairFiles;
use crate::error::BundleError;
use crate::pem::Pem;

/// Endings of files with chains.
const CHAINS: [&str; 3] = ["pem", "crt", "cert"];

/// A chain and its key as others lay them out in a folder of their own.
const LAYOUTS: [(&str, &str); 2] = [("fullchain.pem", "privkey.pem"), ("tls.crt", "tls.key")];

/// The pairs in a folder, in the order of their names.
///
/// # Errors
/// When it cannot be read, or when a chain in it has no key.
pub(crate) fn pairs(folder: &Path) -> Result<Vec<PairFiles>, BundleError> {
    if let Some(pair) = laid_out(folder) {
        return Ok(vec![pair]);
    }
    let unreadable = |error: std::io::Error| BundleError::Unreadable {
        path: folder.display().to_string(),
        error: error.to_string(),
    };
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_err(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    entries.retain(|path| {
        path.file_name()
            .is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
    });
    entries.sort();
    let mut pairs = Vec::new();
    for path in entries {
        if path.is_dir() {
            pairs.extend(laid_out(&path));
        } else if path
            .extension()
            .and_then(|ending| ending.to_str())
            .is_some_and(|ending| CHAINS.contains(&ending))
        {
            pairs.extend(pair(path));
        }
    }
    Ok(pairs)
}

/// The folders whose contents decide which pairs there are: it, and those in it.
pub(crate) fn watched(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    if let Ok(entries) = std::fs::read_dir(folder) {
        let inner = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        folders.extend(inner.filter(|path| path.is_dir()));
    }
    folders
}

fn laid_out(folder: &Path) -> Option<PairFiles> {
    LAYOUTS.iter().find_map(|(cert, key)| {
        let (cert, key) = (folder.join(cert), folder.join(key));
        (cert.is_file() && key.is_file()).then_some(PairFiles {
            cert,
            key,
            ocsp: None,
        })
    })
}

/// The pair whose chain is in this file. A file with nothing but a key belongs to another's chain.
fn pair(cert: PathBuf) -> Option<PairFiles> {
    let key = cert.with_extension("key");
    if key.is_file() {
        return Some(PairFiles {
            cert,
            key,
            ocsp: None,
        });
    }
    let only_a_key = Pem::read(&cert).is_ok_and(|pem| {
        pem.certificates().map_or(true, |found| found.is_empty())
            && matches!(pem.private_key(), Ok(Some(_)))
    });
    (!only_a_key).then(|| PairFiles {
        key: cert.clone(),
        cert,
        ocsp: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::self_signed;

    #[test]
    fn a_pipe_is_no_chain_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("a.pem");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let found = pairs(folder.path()).unwrap();
        let error = crate::bundle::Bundle::load(&found[0]).unwrap_err();
        assert!(error.to_string().contains("not a file"), "{error}");
    }

    #[test]
    fn pairs_are_found_by_their_names_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        self_signed(folder.path(), "b", &["b.example"]);
        let (cert, key) = self_signed(folder.path(), "a", &["a.example"]);
        let both = [&cert, &key].map(|path| std::fs::read_to_string(path).unwrap());
        std::fs::write(at("both.crt"), both.concat()).unwrap();
        std::fs::write(at("alone.pem"), &both[1]).unwrap();
        std::fs::write(at("README"), "not a pair").unwrap();
        std::fs::write(at(".hidden.pem"), "somebody's").unwrap();
        for (inner, cert, key) in [
            ("certbot", "fullchain.pem", "privkey.pem"),
            ("kubernetes", "tls.crt", "tls.key"),
        ] {
            let inner = at(inner);
            std::fs::create_dir(&inner).unwrap();
            std::fs::write(inner.join(cert), &both[0]).unwrap();
            std::fs::write(inner.join(key), &both[1]).unwrap();
            std::fs::write(inner.join("chain.pem"), &both[0]).unwrap();
        }
        let found: Vec<(PathBuf, PathBuf)> = pairs(folder.path())
            .unwrap()
            .into_iter()
            .map(|pair| (pair.cert, pair.key))
            .collect();
        let wanted = [
            ("a.pem", "a.key"),
            ("b.pem", "b.key"),
            ("both.crt", "both.crt"),
            ("certbot/fullchain.pem", "certbot/privkey.pem"),
            ("kubernetes/tls.crt", "kubernetes/tls.key"),
        ];
        let wanted: Vec<(PathBuf, PathBuf)> = wanted
            .iter()
            .map(|(cert, key)| (at(cert), at(key)))
            .collect();
        assert_eq!(found, wanted);
        assert_eq!(pairs(&at("certbot")).unwrap().len(), 1, "the folder itself");
        assert!(pairs(&at("nowhere")).is_err());
    }
}
