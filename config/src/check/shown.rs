//! Names are shown everywhere.

use crate::diagnostic::{Code, Diagnostic};
use crate::source::At;

/// A name is shown everywhere, and what comes from a file is a secret: one of the two is a mistake.
pub(crate) fn shown<T>(name: &At<T>, found: &mut Vec<Diagnostic>) {
    if name.secret {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                name.origin,
                "a name is shown everywhere, and what comes from `${file:…}` is never shown",
            )
            .help("write the name itself, or `${env:…}`"),
        );
    }
}
