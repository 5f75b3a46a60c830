//! Reads files, and notices when one is written meanwhile.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

/// A file's text, bounded.
pub(crate) fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    read_stamped(path, limit).map(|(text, _)| text)
}

/// How often a file is read again that was written while it was read.
const MOST_READS: usize = 3;

/// A file's text, and what the file was like meanwhile.
pub(crate) fn read_stamped(path: &Path, limit: u64) -> io::Result<(String, Stamp)> {
    use io::Read as _;
    let mut reads = 0;
    loop {
        reads += 1;
        let (file, found) = open(path)?;
        let before = Stamp::of(&found);
        let mut text = String::with_capacity(before.length.min(limit) as usize + 1);
        (&file).take(limit + 1).read_to_string(&mut text)?;
        if text.len() as u64 > limit {
            return Err(too_large(limit));
        }
        let after = Stamp::of(&file.metadata()?);
        // What comes out of a pipe comes once, and changes nothing that could be read again.
        if before == after || !found.is_file() {
            return Ok((text, before));
        }
        if reads == MOST_READS {
            let stamp = Stamp {
                unsteady: true,
                ..after
            };
            return Ok((text, stamp));
        }
    }
}

/// A file's bytes, bounded.
///
/// # Errors
/// When it is no file, is larger, or cannot be read.
pub fn read_bytes(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let (file, found) = open(path)?;
    if found.len() > limit {
        return Err(too_large(limit));
    }
    let mut bytes = Vec::with_capacity(found.len() as usize + 1);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(too_large(limit));
    }
    Ok(bytes)
}

/// Opens what is a file. Whoever opened a named pipe would wait until somebody writes into it, for ever
/// if need be, and a device may have no end.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let found = std::fs::metadata(path)?;
    if let Some(other) = other_than_file(&found)
        && !(found.file_type().is_fifo() && is_descriptor(path))
    {
        return Err(io::Error::other(format!("it is {other}, not a file")));
    }
    let file = File::open(path)?;
    let found = file.metadata()?;
    Ok((file, found))
}

/// What it is, if it is no file.
fn other_than_file(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// Whether a path names something that this process has open already, as a shell writes it for
/// `check -c <(generate)`: a pipe there has somebody who writes, and an end.
fn is_descriptor(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text == "/dev/stdin" || text.starts_with("/dev/fd/") || text.starts_with("/proc/self/fd/")
}

fn too_large(limit: u64) -> io::Error {
    let (number, unit) = match limit {
        _ if limit >= 1 << 30 => (limit >> 30, "GiB"),
        _ if limit >= 1 << 20 => (limit >> 20, "MiB"),
        _ => (limit, "bytes"),
    };
    io::Error::other(format!("it is larger than {number} {unit}"))
}

/// What a file was like when it was read: whether it is another one now, or was written since, can be
/// told by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Which file it is, whatever it is called: its device and its number there.
    pub file: (u64, u64),
    /// How many bytes it had.
    pub length: u64,
    /// When it was written last, in nanoseconds since 1970.
    pub written: i128,
    /// It was written while it was read.
    pub unsteady: bool,
}

impl Stamp {
    /// What the system says about a file.
    pub fn of(found: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        Self {
            file: (found.dev(), found.ino()),
            length: found.len(),
            written: i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec()),
            unsteady: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_and_another_text_have_other_stamps() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&a, "one").unwrap();
        std::fs::write(&b, "one").unwrap();
        let stamp = |path: &Path| read_stamped(path, 10).unwrap().1;
        let first = stamp(&a);
        assert_eq!(first, stamp(&a));
        assert!(!first.unsteady);
        assert_ne!(first, stamp(&b));
        std::fs::write(&a, "three").unwrap();
        assert_ne!(first, stamp(&a));
        assert_eq!(
            first.file,
            stamp(&a).file,
            "the same file, written in place"
        );
        std::fs::rename(&b, &a).unwrap();
        assert_ne!(first.file, stamp(&a).file);
        assert!(read_text(&folder.path().join("c"), 10).is_err());
        std::fs::write(&a, "eleven more").unwrap();
        let large = read_text(&a, 10).unwrap_err().to_string();
        assert_eq!(large, "it is larger than 10 bytes");
        assert_eq!(read_bytes(&a, 11).unwrap(), b"eleven more");
        assert!(read_bytes(&a, 10).is_err());
    }

    #[test]
    fn what_is_no_file_is_named_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let made = std::process::Command::new("mkfifo")
            .arg(at("pipe"))
            .status();
        assert!(made.unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink(at("pipe"), at("link")).unwrap();
        for (path, what) in [
            (at("pipe"), "a named pipe"),
            (at("link"), "a named pipe"),
            (at("socket"), "a socket"),
            (folder.path().to_path_buf(), "a folder"),
            ("/dev/zero".into(), "a device"),
        ] {
            let said = format!("it is {what}, not a file");
            assert_eq!(read_text(&path, 10).unwrap_err().to_string(), said);
            assert_eq!(read_bytes(&path, 10).unwrap_err().to_string(), said);
        }
        // What a shell hands over is open already, and ends.
        use std::os::fd::AsRawFd as _;
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"pools").unwrap();
        drop(writer);
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        assert_eq!(read_text(Path::new(&path), 10).unwrap(), "pools");
    }
}
