//! Is the configuration sound? Each check looks at the document as written and adds what it finds;
//! none touches the network, the file system or the clock.

mod access;
mod acme;
mod admin;
mod auth;
mod browser;
mod clients;
mod headers;
mod listeners;
mod pools;
mod redirect;
mod routes;
mod shown;
mod targets;
mod tests;
mod token;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::Document;
use crate::resolve::Names;
use crate::source::Origin;

/// Everything that is wrong, or suspicious, about a document that could be read.
/// `unresolved`: a name in it stands for nothing.
pub(crate) fn check(
    document: &Document,
    names: &Names<'_>,
    unresolved: bool,
    found: &mut Vec<Diagnostic>,
) {
    listeners::check(document, found);
    acme::check(document, found);
    admin::check(document, found);
    pools::check(document, found);
    targets::check(document, names, unresolved, found);
    routes::check(document, found);
    redirect::check(document, found);
    access::check(document, found);
    clients::check_patch(document, found);
    auth::check(document, found);
    browser::check(document, found);
    tests::check(document, names, found);
    // With a misspelt name, what it was meant for looks unused.
    if !unresolved {
        crate::resolve::check_use(document, names, found);
    }
    process(document, found);
}

/// What concerns the process as a whole.
fn process(document: &Document, found: &mut Vec<Diagnostic>) {
    // Errors, because a file that is only half written must never replace one that serves.
    if document.listeners.is_empty() {
        found.push(Diagnostic::error(
            Code::NothingToServe,
            Origin::Default,
            "there are no `listeners`: nobody could reach Portolan",
        ));
    }
    if document.routes.is_empty() {
        found.push(Diagnostic::error(
            Code::NothingToServe,
            Origin::Default,
            "there are no `routes`: every request would be answered with 404",
        ));
    }
    if document.lame_duck.value > document.shutdown_timeout.value {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                document.lame_duck.origin,
                format!(
                    "`lame_duck` ({}) is part of `shutdown_timeout` ({}) and cannot be longer",
                    document.lame_duck, document.shutdown_timeout
                ),
            )
            .help("make `shutdown_timeout` longer by as much"),
        );
    }
    if document.client_ip.header.value == http::header::FORWARDED {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                document.client_ip.header.origin,
                "the header `Forwarded` (RFC 7239) is not read",
            )
            .help(
                "use `X-Forwarded-For`, which every proxy can write, or a header with one address",
            ),
        );
    }
    if document.resolver.min_ttl.value > document.resolver.max_ttl.value {
        found.push(Diagnostic::error(
            Code::BadValue,
            document.resolver.min_ttl.origin,
            "`min_ttl` is longer than `max_ttl`",
        ));
    }
    if let Some(workers) = &document.workers {
        const MOST_WORKERS: u32 = 1024;
        if workers.value.get() > MOST_WORKERS {
            found.push(Diagnostic::error(
                Code::BadValue,
                workers.origin,
                format!("more than {MOST_WORKERS} workers"),
            ));
        }
    }
}
