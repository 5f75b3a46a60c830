//! Reads files, and notices when one is written meanwhile.

use std::fs::Metadata;
use std::io;
use std::path::Path;

/// A file's text, bounded, so that a pipe or a device given by mistake ends in an error.
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
        let file = std::fs::File::open(path)?;
        let found = file.metadata()?;
        let before = Stamp::of(&found);
        let mut text = String::with_capacity(before.length.min(limit) as usize + 1);
        (&file).take(limit + 1).read_to_string(&mut text)?;
        if text.len() as u64 > limit {
            return Err(io::Error::other(format!("larger than {limit} bytes")));
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
        assert!(read_text(&a, 10).is_err(), "too long");
    }
}
