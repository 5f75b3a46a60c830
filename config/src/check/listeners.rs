//! Listeners: one address each, and limits that the engine can keep.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::Document;
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
