//! Where a file of the document lies.

use std::path::PathBuf;

use crate::source::{At, Sources};

/// A path, as seen from the file it was written in.
pub(crate) fn file(path: &At<PathBuf>, sources: &Sources) -> At<PathBuf> {
    At::new(sources.resolve(path.origin, &path.value), path.origin)
}
