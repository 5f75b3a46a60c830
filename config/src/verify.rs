//! Does the configuration keep its own promises? What can only be said of what is compiled.

mod rto;

use crate::diagnostic::Diagnostic;
use crate::document::Document;
use crate::resolve::Names;

/// Everything that follows from the plan's parts. Every name of the document is known.
pub(crate) fn verify<'a>(document: &'a Document, names: &Names<'a>, found: &mut Vec<Diagnostic>) {
    rto::check(document, names, found);
}
