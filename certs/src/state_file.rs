//! Files in `state_dir`: readable by their owner alone, and never half written.

use std::fs::{File, OpenOptions};
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Writes a file, in place of one that may be there.
///
/// # Errors
/// When the folder cannot be written.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = write_beside(path, content)?;
    if let Err(error) = std::fs::rename(&new, path) {
        let _ = std::fs::remove_file(&new);
        return Err(error);
    }
    sync_folder(path)
}

/// Writes a file if there is none. Whether there was none.
///
/// # Errors
/// When the folder cannot be written.
pub fn create(path: &Path, content: &[u8]) -> io::Result<bool> {
    let new = write_beside(path, content)?;
    // Unlike renaming, this fails if somebody else was faster.
    let linked = std::fs::hard_link(&new, path);
    std::fs::remove_file(&new)?;
    match linked {
        Ok(()) => sync_folder(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the content to a file beside this one. Processes that share the folder have each their own.
fn write_beside(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    match written {
        Ok(()) => Ok(new),
        // A disk that is full is not to be filled with what is left of tries.
        Err(error) => {
            let _ = std::fs::remove_file(&new);
            Err(error)
        }
    }
}

/// Files that Portolan writes into `state_dir` itself.
const OWN_FILES: [&str; 3] = ["affinity.key", "last-known-good.json", "overrides.json"];

/// The folder in `state_dir` for certificate authorities, with a folder for each issuer, and in that one
/// a folder for each set of names; and what Portolan writes into them.
const ACME: &str = "acme";
const ACCOUNT: &str = "account.json";
const CERTIFICATE: &str = "certificate.pem";

/// Removes files that processes that were killed had begun to write into `state_dir`. Whatever else is
/// there is not Portolan's: a `state_dir` may be a folder that holds other things. To be called when no
/// other process uses the folder.
pub fn sweep(state_dir: &Path) {
    sweep_folder(state_dir, |of| OWN_FILES.contains(&of));
    for issuer in folders_in(&state_dir.join(ACME)) {
        sweep_folder(&issuer, |of| of == ACCOUNT);
        for names in folders_in(&issuer) {
            sweep_folder(&names, |of| of == CERTIFICATE);
        }
    }
}

/// The folders in this one, without those behind links.
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

fn sweep_folder(folder: &Path, is_ours: impl Fn(&str) -> bool) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        if begun(&entry.file_name().to_string_lossy()).is_some_and(&is_ours) {
            // What cannot be removed harms nobody.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The name of the file that was to be written, of a name that [`write_beside`] gives.
fn begun(name: &str) -> Option<&str> {
    let (of, pid) = name.strip_suffix(".new")?.rsplit_once('.')?;
    let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    (is_pid && !of.is_empty()).then_some(of)
}

/// Makes sure that the file's name survives a crash, too.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn files_are_replaced_as_a_whole_and_are_their_owners() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/file.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "nothing is left behind");
    }

    #[test]
    fn nothing_is_left_of_what_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        // A folder cannot be replaced by a file.
        let path = folder.path().join("state");
        std::fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"one").is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_killed_processes_have_begun_is_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "overrides.json.4711.new",
            "acme/ca/account.json.1.new",
            "acme/ca/a.example+b.example/certificate.pem.77.new",
            "overrides.json",
            "mine.json.2026.new",
            "sub/notes.2026.new",
            "sub/overrides.json.2026.new",
            "acme/mine.2026.new",
            "notes.new",
            "mine.12a.new",
            ".new",
            "7.new",
        ];
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        sweep(folder.path());
        for (at, name) in names.iter().enumerate() {
            assert_eq!(folder.path().join(name).exists(), at >= 3, "{name}");
        }
        sweep(&folder.path().join("nowhere"));
    }

    #[test]
    fn the_first_to_create_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        assert!(create(&path, b"one").unwrap());
        assert!(!create(&path, b"two").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
