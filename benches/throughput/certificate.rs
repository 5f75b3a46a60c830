//! The certificate that every proxy shows.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::load::HOST;
use crate::report;

/// The folder with `cert.pem`, `key.pem` (ECDSA with P-256), and both in `both.pem`; made once.
pub(crate) fn folder() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let folder = MADE.get_or_init(|| {
        let folder = report::folder().join("certificate");
        std::fs::create_dir_all(&folder).expect("a folder");
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]);
        let made = made.expect("a certificate");
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("a file");
        };
        write("cert.pem", &cert);
        write("key.pem", &key);
        write("both.pem", &format!("{cert}{key}"));
        folder
    });
    folder.clone()
}
