//! Sets of clients: somebody, and told apart by what the databases know.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ipnet::IpNet;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Clients, Document};
use crate::source::Origin;

/// Checks a set of clients that stands under `key`.
pub(super) fn check(
    clients: &Clients,
    key: &str,
    document: &Document,
    found: &mut Vec<Diagnostic>,
) {
    let Clients {
        continents,
        countries,
        subdivisions,
        cloudflare_regions,
        in_eu,
        cidrs,
        asns,
        origin,
    } = clients;
    if continents.is_empty()
        && countries.is_empty()
        && subdivisions.is_empty()
        && cloudflare_regions.is_empty()
        && in_eu.is_none()
        && cidrs.is_empty()
        && asns.is_empty()
    {
        let these = if key == "clients" {
            "these `clients` are nobody".to_owned()
        } else {
            format!("`{key}` names nobody")
        };
        let help = if key == "deny" {
            "name somebody, or leave `deny` out to mean nobody".to_owned()
        } else {
            format!("name somebody, or leave `{key}` out to mean everybody")
        };
        found.push(Diagnostic::error(Code::Unreachable, *origin, these).help(help));
    }
    let geoip = &document.geoip;
    if let Some(first) = asns.first()
        && geoip.asn_database.is_none()
    {
        found.push(
            Diagnostic::error(
                Code::NeedsDatabase,
                first.origin,
                "autonomous systems are only known with a database of them",
            )
            .help("set `geoip: { asn_database: FILE }`"),
        );
    }
    if let Some(first) = subdivisions.first()
        && geoip.database.is_none()
    {
        found.push(
            Diagnostic::warning(
                Code::NeedsDatabase,
                first.origin,
                "the built-in database knows countries only: this never matches",
            )
            .help("set `geoip: { database: FILE }` to a city database"),
        );
    }
}

/// Checks that nobody is in two countries at once: the same network may be written in several ways.
pub(super) fn check_patch(document: &Document, found: &mut Vec<Diagnostic>) {
    let mut seen: HashMap<IpNet, Origin> = HashMap::new();
    for (net, _) in &document.geoip.patch {
        match seen.entry(net.value) {
            Entry::Vacant(slot) => {
                slot.insert(net.origin);
            }
            Entry::Occupied(first) => found.push(
                Diagnostic::error(
                    Code::DuplicateKey,
                    net.origin,
                    format!("the network `{}` stands here twice", net.value),
                )
                .related(*first.get(), "first here"),
            ),
        }
    }
}
