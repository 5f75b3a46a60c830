//! What browsers are told: nothing that they would ignore, and nothing that opens every door.

use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Document, OriginPattern};

/// What the lists that are built into browsers ask for.
const PRELOAD_AGE: std::time::Duration = std::time::Duration::from_secs(31_536_000);

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    for route in &document.routes {
        if let Some(hsts) = route.hsts.on()
            && hsts.preload.value
            && (!hsts.include_subdomains.value || hsts.max_age.value.duration() < PRELOAD_AGE)
        {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    hsts.preload.origin,
                    "browsers do not preload this",
                )
                .help("`preload` needs `include_subdomains: true` and a `max_age` of 365d or more"),
            );
        }
        let Some(cors) = route.cors.on() else {
            continue;
        };
        if cors.origins.is_empty() {
            found.push(
                Diagnostic::error(Code::BadValue, cors.origin, "`cors` is for no site")
                    .help("name sites in `origins`, or leave `cors` out"),
            );
        }
        if cors.credentials.value
            && let Some(any) = cors.origins.iter().find(|o| o.value == OriginPattern::Any)
        {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    any.origin,
                    "with `credentials`, every site could act as its visitors",
                )
                .related(cors.credentials.origin, "here")
                .help("name the sites"),
            );
        }
    }
}
