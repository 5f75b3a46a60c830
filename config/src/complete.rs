//! Defaults that depend on other values: filled in after reading, before checking.

use std::collections::HashMap;

use crate::document::{Document, EndpointPlace, PathMatch, Pool, Route};
use crate::geography::Geography;
use crate::source::{At, Origin};
use crate::units::TimeSpan;

/// The slowest default of `fast_every`.
const SLOWEST_FAST_EVERY: TimeSpan = TimeSpan::from_millis(1000);

/// Fills them in.
pub(crate) fn complete(document: &mut Document) {
    for (_, pool) in &mut document.pools.0 {
        complete_pool(pool);
    }
    name_routes(&mut document.routes);
}

fn complete_pool(pool: &mut Pool) {
    if let crate::decode::Switch::On(health) = &mut pool.health {
        let every = health.every.value;
        health
            .fast_every
            .get_or_insert(At::default_value(every.min(SLOWEST_FAST_EVERY)));
        if let (None, None, None) = (&health.http, &health.tcp, &health.grpc) {
            health.tcp = Some(At::default_value(true));
        }
    }
    if let (Some(cloud), Some(region)) = (&pool.cloud, &pool.region) {
        let geography = Geography::get();
        if let Some(known) = geography.region(&cloud.value, &region.value) {
            // Half a coordinate is a mistake that the checks name; it must not be mended here.
            if pool.latitude.is_none() && pool.longitude.is_none() {
                pool.latitude = Some(At::default_value(known.place.latitude));
                pool.longitude = Some(At::default_value(known.place.longitude));
            }
            if pool.country.is_none() {
                pool.country = crate::leaf::Leaf::parse(known.country)
                    .ok()
                    .map(At::default_value);
            }
        }
    }
    if let Some(crate::document::UpstreamTls::On(tls)) = &mut pool.tls
        && tls.server_name.is_none()
    {
        let name = pool
            .host
            .as_ref()
            .map(|host| host_without_port(&host.value))
            .or_else(|| {
                // With several endpoints of different names there is no one name to ask for; each is
                // then verified by its own name or address.
                let mut names = pool.endpoints.iter().map(|endpoint| match &endpoint.place {
                    EndpointPlace::Dns(dns) => Some(dns.value.host.clone()),
                    EndpointPlace::Address(_) => None,
                });
                let first = names.next()??;
                names
                    .all(|name| name.as_ref() == Some(&first))
                    .then_some(first)
            });
        tls.server_name = name.map(At::default_value);
    }
}

/// `example.com:8443` → `example.com`; IPv6 literals lose their brackets.
pub(crate) fn host_without_port(host: &str) -> String {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default().to_owned();
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name.to_owned(),
        _ => host.to_owned(),
    }
}

/// Gives every route without a name one that tells it apart: host and path, numbered when several
/// would have the same.
fn name_routes(routes: &mut [Route]) {
    let mut seen: HashMap<String, u32> = routes
        .iter()
        .filter_map(|route| route.name.as_ref())
        .map(|name| (name.value.clone(), 1))
        .collect();
    for route in routes {
        if route.name.is_some() {
            continue;
        }
        let host = route
            .host
            .as_ref()
            .or(route.hosts.first())
            .map_or_else(|| "*".to_owned(), |host| host.value.to_string());
        let path = match &route.path {
            None => "/".to_owned(),
            Some(PathMatch::Prefix(path) | PathMatch::Exact(path)) => {
                path.value.as_str().to_owned()
            }
            Some(PathMatch::Regex(pattern)) => format!("/~{}", pattern.value.regex().as_str()),
        };
        let base = format!("{host}{path}");
        let mut name = base.clone();
        let count = seen.entry(base.clone()).or_insert(0);
        *count += 1;
        let mut number = *count;
        while number > 1 {
            name = format!("{base}#{number}");
            if seen.contains_key(&name) {
                number += 1;
            } else {
                break;
            }
        }
        if name != base {
            seen.insert(name.clone(), 1);
        }
        route.name = Some(At::new(name, Origin::Default));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_brackets_are_not_part_of_a_host() {
        assert_eq!(host_without_port("api.internal:8443"), "api.internal");
        assert_eq!(host_without_port("[::1]:8443"), "::1");
        assert_eq!(host_without_port("api.internal"), "api.internal");
    }
}
