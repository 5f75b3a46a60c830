//! Listeners: one address each, and limits that the engine can keep.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Document, ListenerTls};
use crate::source::Origin;

/// The engine's own bounds: beyond them it would refuse first, with another status.
const MOST_HEADERS: u32 = 256;
const MOST_HEADER_BYTES: u64 = 1 << 20;

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    let mut seen: HashMap<SocketAddr, Origin> = HashMap::new();
    for listener in &document.listeners {
        let bind = &listener.bind;
        if bind.value.port() != 0
            && let Some(first) = seen.insert(bind.value, bind.origin)
        {
            found.push(
                Diagnostic::error(
                    Code::DuplicateAddress,
                    bind.origin,
                    format!("two listeners on `{bind}`"),
                )
                .related(first, "the other one"),
            );
        }
        if bind.value.port() != 0 && bind.value == document.admin.bind.value {
            found.push(
                Diagnostic::error(
                    Code::DuplicateAddress,
                    bind.origin,
                    format!("`{bind}` is the address of the admin API"),
                )
                .related(document.admin.bind.origin, "here"),
            );
        }
        if let Some(tls) = &listener.tls {
            if tls.certificates.is_empty() {
                found.push(
                    Diagnostic::error(
                        Code::MissingKey,
                        tls.origin,
                        "`tls` needs at least one certificate",
                    )
                    .help("write `certificates: [ { cert: FILE, key: FILE } ]`"),
                );
            }
            tls_keys(tls, found);
            if listener.redirect_to_https.value {
                found.push(Diagnostic::error(
                    Code::BadValue,
                    listener.redirect_to_https.origin,
                    "a listener with `tls` is https already: the redirect would go round in a circle",
                ));
            }
        }
        let limits = &listener.limits;
        if limits.headers.value.get() > MOST_HEADERS {
            found.push(Diagnostic::error(
                Code::BadValue,
                limits.headers.origin,
                format!("at most {MOST_HEADERS} headers can be taken"),
            ));
        }
        let bytes = &limits.header_bytes;
        if bytes.value.bytes() > MOST_HEADER_BYTES || bytes.value.bytes() < 256 {
            found.push(Diagnostic::error(
                Code::BadValue,
                bytes.origin,
                "`header_bytes` lies between 256B and 1MiB",
            ));
        }
        if limits.uri_bytes.value.bytes() < 64 {
            found.push(Diagnostic::error(
                Code::BadValue,
                limits.uri_bytes.origin,
                "`uri_bytes` is at least 64B",
            ));
        }
        if let Some(rate) = limits.min_body_rate.on()
            && rate.value.bytes() == 0
        {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    rate.origin,
                    "with `min_body_rate: 0B` nobody would be too slow",
                )
                .help("write `off`"),
            );
        }
        if listener.proxy_protocol.value && document.client_ip.trusted.is_empty() {
            found.push(
                Diagnostic::error(
                    Code::MissingKey,
                    listener.proxy_protocol.origin,
                    "`proxy_protocol` takes headers from trusted peers alone, and there are none: \
                     every connection would be closed",
                )
                .help("write the addresses of the load balancers into `client_ip.trusted`"),
            );
        }
        for (name, limit) in [
            ("header_timeout", &limits.header_timeout),
            ("idle_timeout", &limits.idle_timeout),
        ] {
            if limit.value.duration().is_zero() {
                found.push(Diagnostic::error(
                    Code::BadValue,
                    limit.origin,
                    format!("with `{name}: 0s` no client could ever be served"),
                ));
            }
        }
    }
}

/// Which keys of `tls` go together.
fn tls_keys(tls: &ListenerTls, found: &mut Vec<Diagnostic>) {
    for certificate in &tls.certificates {
        let sources = [
            certificate.cert.as_ref().map(|cert| cert.origin),
            certificate.directory.as_ref().map(|path| path.origin),
            certificate.acme.as_ref().map(|acme| acme.origin),
        ];
        let mut sources = sources.into_iter().flatten();
        match (sources.next(), sources.next()) {
            (None, _) => found.push(Diagnostic::error(
                Code::MissingKey,
                certificate.origin,
                "a certificate needs `cert`, `directory` or `acme`",
            )),
            (Some(first), Some(second)) => found.push(
                Diagnostic::error(
                    Code::BadValue,
                    second,
                    "a certificate has one of `cert`, `directory` and `acme`",
                )
                .related(first, "here"),
            ),
            _ => {}
        }
        if let (None, Some(name)) = (&certificate.acme, certificate.names.first()) {
            found.push(Diagnostic::error(
                Code::MissingKey,
                name.origin,
                "`names` belongs to `acme`: files say themselves which names they are for",
            ));
        }
        let beside = [("key", &certificate.key), ("ocsp", &certificate.ocsp)];
        for (name, file) in beside {
            if let Some(file) = file
                && certificate.cert.is_none()
            {
                found.push(Diagnostic::error(
                    Code::MissingKey,
                    file.origin,
                    format!("`{name}` belongs to a `cert`"),
                ));
            }
        }
    }
    if tls.client_ca.is_some() {
        return;
    }
    let orphans = [
        (
            "client_auth",
            tls.client_auth.as_ref().map(|auth| auth.origin),
        ),
        ("client_crl", tls.client_crl.as_ref().map(|crl| crl.origin)),
    ];
    for (name, origin) in orphans {
        if let Some(origin) = origin {
            found.push(
                Diagnostic::error(
                    Code::MissingKey,
                    origin,
                    format!("`{name}` needs `client_ca`"),
                )
                .help("name the file with the CAs of clients' certificates"),
            );
        }
    }
}
