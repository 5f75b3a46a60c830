//! Pools: places that exist, endpoints that can serve, probes that make sense.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;

use crate::decode::switch::Switch;
use crate::diagnostic::{Code, Diagnostic, nearest, quoted_list};
use crate::document::{Document, EndpointPlace, Health, Outlier, Pool, Protocol, UpstreamTls};
use crate::geography::Geography;
use crate::names::{DnsEndpoint, Name};
use crate::source::{At, Origin};
use crate::units::Quota;

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    for (name, pool) in &document.pools {
        place(pool, found);
        endpoints(name, pool, found);
        transport(name, pool, found);
        if let Switch::On(health) = &pool.health {
            probes(health, found);
        }
        if let Switch::On(rules) = &pool.outlier {
            outlier(rules, found);
        }
        if let Switch::On(span) = &pool.slow_start
            && span.value.duration().is_zero()
        {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    span.origin,
                    "a `slow_start` that takes no time is none",
                )
                .help("write `slow_start: off`"),
            );
        }
        let overprovision = &pool.overprovision;
        if !(1.0..=10.0).contains(&overprovision.value) {
            found.push(Diagnostic::error(
                Code::BadValue,
                overprovision.origin,
                "`overprovision` lies between 1.0 and 10.0",
            ));
        }
        if let Some(host) = &pool.host
            && (host.value.is_empty() || host.value.parse::<http::uri::Authority>().is_err())
        {
            found.push(Diagnostic::error(
                Code::BadValue,
                host.origin,
                format!("`{host}` is not a host"),
            ));
        }
        let lifetime = pool.timeouts.upgrade_lifetime.as_ref();
        let first_byte = pool.timeouts.first_byte.as_ref();
        let limits = [
            ("connect", &pool.timeouts.connect),
            ("idle", &pool.timeouts.idle),
            ("upgrade_idle", &pool.timeouts.upgrade_idle),
        ];
        for (name, limit) in limits
            .into_iter()
            .chain(lifetime.map(|lifetime| ("upgrade_lifetime", lifetime)))
            .chain(first_byte.map(|limit| ("first_byte", limit)))
        {
            if limit.value.duration().is_zero() {
                let lost = if name.starts_with("upgrade") {
                    "no upgraded connection could ever say anything"
                } else {
                    "no endpoint could ever answer"
                };
                found.push(Diagnostic::error(
                    Code::BadValue,
                    limit.origin,
                    format!("with `{name}: 0s` {lost}"),
                ));
            }
            let http2_alone = matches!(pool.protocol.value, Protocol::H2 | Protocol::H2c);
            if http2_alone && name.starts_with("upgrade") && limit.origin != Origin::Default {
                found.push(
                    Diagnostic::warning(
                        Code::UpgradesNeedConnect,
                        limit.origin,
                        format!(
                            "`{name}` is for upgrades (WebSocket), and this pool speaks HTTP/2 alone"
                        ),
                    )
                    .related(pool.protocol.origin, "by this")
                    .help(
                        "its endpoints have to offer extended CONNECT (RFC 8441); clients of those \
                         that do not get 501",
                    ),
                );
            }
        }
    }
}

/// Where the pool is.
fn place(pool: &Pool, found: &mut Vec<Diagnostic>) {
    let geography = Geography::get();
    for (name, coordinate, limit) in [
        ("latitude", &pool.latitude, 90.0),
        ("longitude", &pool.longitude, 180.0),
    ] {
        if let Some(coordinate) = coordinate
            && coordinate.value.abs() > limit
        {
            found.push(Diagnostic::error(
                Code::BadValue,
                coordinate.origin,
                format!("`{name}` lies between -{limit} and {limit} degrees"),
            ));
        }
    }
    if let (Some(one), None) | (None, Some(one)) = (&pool.latitude, &pool.longitude) {
        found.push(Diagnostic::error(
            Code::MissingKey,
            one.origin,
            "`latitude` and `longitude` go together",
        ));
    }
    let Some(region) = &pool.region else {
        return;
    };
    match &pool.cloud {
        Some(cloud) if geography.knows_cloud(&cloud.value) => {
            if geography.region(&cloud.value, &region.value).is_none() {
                found.push(unknown_region(&cloud.value, region));
            }
        }
        Some(cloud) => {
            if let Some(known) = nearest(&cloud.value, geography.clouds()) {
                found.push(
                    Diagnostic::warning(
                        Code::UnknownRegion,
                        cloud.origin,
                        format!("no cloud named `{cloud}` is known, so the region has no place"),
                    )
                    .help(format!("did you mean `{known}`?")),
                );
            }
        }
        None => {
            let clouds: Vec<_> = geography
                .regions(None)
                .filter(|known| known.code == region.value)
                .map(|known| known.cloud)
                .collect();
            let diagnostic = Diagnostic::error(
                Code::MissingKey,
                region.origin,
                format!("whose region is `{region}`? `cloud` is missing"),
            );
            found.push(if clouds.is_empty() {
                diagnostic
            } else {
                diagnostic.help(format!("{} has one of that name", quoted_list(clouds)))
            });
        }
    }
}

fn unknown_region(cloud: &str, region: &At<String>) -> Diagnostic {
    let geography = Geography::get();
    let diagnostic = Diagnostic::error(
        Code::UnknownRegion,
        region.origin,
        format!("`{region}` is not a region of {cloud}"),
    );
    let names = geography.regions(Some(cloud)).map(|known| known.code);
    let elsewhere = geography
        .regions(None)
        .find(|known| known.code == region.value);
    match elsewhere {
        Some(known) => {
            let place = format!("it is one of {} ({})", known.cloud, known.name);
            match nearest(&region.value, names) {
                Some(name) => diagnostic.help(format!("did you mean `{name}`? {place}")),
                None => diagnostic.help(place),
            }
        }
        None => diagnostic.suggest(&region.value, names),
    }
}

/// What tells endpoints of a pool apart.
#[derive(PartialEq, Eq, Hash)]
enum Place<'a> {
    Address(SocketAddr),
    Dns(&'a DnsEndpoint),
}

/// Who serves.
fn endpoints(name: &At<Name>, pool: &Pool, found: &mut Vec<Diagnostic>) {
    if pool.endpoints.is_empty() {
        found.push(Diagnostic::error(
            Code::MissingKey,
            pool.origin,
            format!("the pool `{name}` has no endpoints"),
        ));
        return;
    }
    let mut seen: HashMap<Place<'_>, Origin> = HashMap::with_capacity(pool.endpoints.len());
    for endpoint in &pool.endpoints {
        let (text, place, origin, port): (&dyn fmt::Display, _, _, _) = match &endpoint.place {
            EndpointPlace::Address(at) => {
                let place = Place::Address(at.value);
                (at, place, at.origin, at.value.port())
            }
            EndpointPlace::Dns(at) => (at, Place::Dns(&at.value), at.origin, at.value.port),
        };
        if port == 0 {
            found.push(Diagnostic::error(
                Code::BadValue,
                origin,
                format!("`{text}` has port 0, which nothing can listen on"),
            ));
        }
        if let EndpointPlace::Address(at) = &endpoint.place
            && at.value.ip().is_unspecified()
        {
            found.push(Diagnostic::error(
                Code::BadValue,
                origin,
                format!("`{text}` is not an address that one can connect to"),
            ));
        }
        if let Some(first) = seen.insert(place, origin) {
            found.push(
                Diagnostic::error(
                    Code::DuplicateAddress,
                    origin,
                    format!("`{text}` stands in the pool `{name}` twice"),
                )
                .related(first, "first here")
                .help("to give it more traffic, give it a higher `weight`"),
            );
        }
        if endpoint.weight.value.get() == 0 {
            found.push(Diagnostic::warning(
                Code::WeightZero,
                endpoint.weight.origin,
                format!("`{text}` has weight 0 and gets no requests"),
            ));
        }
    }
    let primaries = pool
        .endpoints
        .iter()
        .filter(|endpoint| !endpoint.backup.value);
    if pool
        .endpoints
        .iter()
        .all(|endpoint| endpoint.weight.value.get() == 0)
    {
        found.push(Diagnostic::error(
            Code::ZeroWeights,
            pool.endpoints[0].weight.origin,
            format!("every endpoint of the pool `{name}` has weight 0"),
        ));
    }
    let only_addresses = pool
        .endpoints
        .iter()
        .all(|e| matches!(e.place, EndpointPlace::Address(_)));
    if let Quota::Count(wanted) = pool.min_healthy.value {
        let most = primaries.count().max(1);
        if only_addresses && wanted as usize > most {
            found.push(Diagnostic::error(
                Code::MinHealthy,
                pool.min_healthy.origin,
                format!("the pool `{name}` has {most} endpoints, and can never have {wanted} healthy ones"),
            ));
        }
        if wanted == 0 {
            found.push(Diagnostic::error(
                Code::MinHealthy,
                pool.min_healthy.origin,
                "a pool without a healthy endpoint cannot serve: `min_healthy` is at least 1",
            ));
        }
    }
}

/// How endpoints are spoken to.
fn transport(name: &At<Name>, pool: &Pool, found: &mut Vec<Diagnostic>) {
    let tls = match pool.tls.as_deref() {
        Some(UpstreamTls::On(tls)) => Some(tls),
        _ => None,
    };
    match (pool.protocol.value, tls) {
        (Protocol::H2, None) => found.push(
            Diagnostic::error(
                Code::BadValue,
                pool.protocol.origin,
                format!("`h2` is HTTP/2 over TLS, and the pool `{name}` has no `tls`"),
            )
            .help("write `h2c` for HTTP/2 without TLS"),
        ),
        (Protocol::H2c, Some(tls)) => found.push(
            Diagnostic::error(
                Code::BadValue,
                pool.protocol.origin,
                format!("`h2c` is HTTP/2 without TLS, and the pool `{name}` has `tls`"),
            )
            .related(tls.origin, "here")
            .help("write `h2`"),
        ),
        _ => {}
    }
    let Some(tls) = tls else {
        return;
    };
    if let (Some(one), None) | (None, Some(one)) = (&tls.client_cert, &tls.client_key) {
        found.push(Diagnostic::error(
            Code::MissingKey,
            one.origin,
            "`client_cert` and `client_key` go together",
        ));
    }
    if let Some(server_name) = &tls.server_name
        && server_name.value.is_empty()
    {
        found.push(Diagnostic::error(
            Code::BadValue,
            server_name.origin,
            "`server_name` is empty",
        ));
    }
    if tls.insecure.value {
        found.push(Diagnostic::warning(
            Code::Insecure,
            tls.insecure.origin,
            format!("the certificates of the pool `{name}` are not verified"),
        ));
    }
}

/// When endpoints that fail requests are left out.
fn outlier(outlier: &Outlier, found: &mut Vec<Diagnostic>) {
    // Shorter, and the endpoint is back before anything could have changed.
    if outlier.eject_for.value.duration().as_millis() < 100 {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                outlier.eject_for.origin,
                "`eject_for` is at least 100ms",
            )
            .help("write `outlier: off` to leave nobody out"),
        );
    }
}

/// How endpoints are probed.
fn probes(health: &Health, found: &mut Vec<Diagnostic>) {
    let tcp = health.tcp.as_ref().filter(|tcp| tcp.value);
    let kinds = [
        health.http.as_ref().map(|http| ("http", http.origin)),
        tcp.map(|tcp| ("tcp", tcp.origin)),
        health.grpc.as_ref().map(|grpc| ("grpc", grpc.origin)),
    ];
    let mut kinds = kinds.into_iter().flatten();
    if let (Some((first, at)), Some((second, origin))) = (kinds.next(), kinds.next()) {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                origin,
                format!("a probe is `{first}` or `{second}`, not both"),
            )
            .related(at, "the other one"),
        );
    }
    if let Some(tcp) = health.tcp.as_ref().filter(|tcp| !tcp.value)
        && health.http.is_none()
        && health.grpc.is_none()
    {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                tcp.origin,
                "`tcp: false` leaves no kind of probe",
            )
            .help("write `health: off` for no probes at all"),
        );
    }
    if let Some(path) = &health.http
        && !path.value.starts_with('/')
    {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                path.origin,
                format!("`{path}` is not a path: it does not begin with a slash"),
            )
            .help("the endpoint's address, the pool's `host` and `tls` say the rest"),
        );
    } else if let Some(path) = &health.http
        && path.value.parse::<http::uri::PathAndQuery>().is_err()
    {
        found.push(Diagnostic::error(
            Code::BadValue,
            path.origin,
            format!("`{path}` is not a path"),
        ));
    }
    if health.http.is_none() {
        let expect = &health.expect;
        let given = [
            expect.json.iter().next().map(|(key, _)| key.origin),
            expect.headers.iter().next().map(|(key, _)| key.origin),
            expect.body_contains.as_ref().map(|body| body.origin),
        ];
        if let Some(origin) = given.into_iter().flatten().next() {
            found.push(Diagnostic::error(
                Code::BadValue,
                origin,
                "`expect` looks at HTTP answers, and this probe is not `http`",
            ));
        }
    }
    let fast_every = health.fast_every.as_ref().unwrap_or(&health.every);
    for (name, span) in [
        ("every", &health.every),
        ("fast_every", fast_every),
        ("timeout", &health.timeout),
    ] {
        // Faster probes than this are an attack on the endpoints.
        let derived = name == "fast_every" && span.origin == Origin::Default;
        if span.value.duration().as_millis() < 10 && !derived {
            found.push(Diagnostic::error(
                Code::BadValue,
                span.origin,
                format!("`{name}` is at least 10ms"),
            ));
        }
    }
    if fast_every.value > health.every.value {
        found.push(Diagnostic::error(
            Code::BadValue,
            fast_every.origin,
            "`fast_every` is slower than `every`",
        ));
    }
    if health.timeout.value >= health.every.value {
        // Whichever of the two was written is the one to change.
        let (place, other) = match health.timeout.origin {
            Origin::Default => (health.every.origin, health.timeout.origin),
            written => (written, health.every.origin),
        };
        found.push(
            Diagnostic::warning(
                Code::ProbeOverlap,
                place,
                format!(
                    "a probe may take {} and the next is due after {}: probes then come late",
                    health.timeout, health.every
                ),
            )
            .related(other, "the other one"),
        );
    }
}
