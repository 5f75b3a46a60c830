//! Defaults that depend on other values: filled in after reading, before checking.

use std::collections::HashMap;

use crate::decode::collections::Shared;
use crate::decode::switch::Switch;
use crate::document::{Document, EndpointPlace, Health, PathMatch, Pool, Route, UpstreamTls};
use crate::geography::Geography;
use crate::scalar::FromScalar as _;
use crate::source::{At, Origin};
use crate::units::TimeSpan;

/// The slowest default of `fast_every`.
const SLOWEST_FAST_EVERY: TimeSpan = TimeSpan::from_millis(1000);

/// Fills them in.
pub(crate) fn complete(document: &mut Document) {
    let mut completed = None;
    for (_, pool) in &mut document.pools.0 {
        if let Switch::On(health) = &mut pool.health {
            complete_health(health, &mut completed);
        }
        complete_pool(pool);
    }
    name_routes(&mut document.routes);
}

/// What pools have alike stays one: `last` is the last one, before and after.
fn complete_health(
    health: &mut Shared<Health>,
    last: &mut Option<(Shared<Health>, Shared<Health>)>,
) {
    if let Some((before, after)) = last
        && before.is(health)
    {
        *health = after.clone();
        return;
    }
    let before = health.clone();
    let completed = health.to_mut();
    let every = completed.every.value;
    completed
        .fast_every
        .get_or_insert(At::default_value(every.min(SLOWEST_FAST_EVERY)));
    if let (None, None, None) = (&completed.http, &completed.tcp, &completed.grpc) {
        completed.tcp = Some(At::default_value(true));
    }
    *last = Some((before, health.clone()));
}

fn complete_pool(pool: &mut Pool) {
    if let (Some(cloud), Some(region)) = (&pool.cloud, &pool.region) {
        let geography = Geography::get();
        if let Some(known) = geography.region(&cloud.value, &region.value) {
            // Half a coordinate is a mistake that the checks name; it must not be mended here.
            if pool.latitude.is_none() && pool.longitude.is_none() {
                pool.latitude = Some(At::default_value(known.place.latitude));
                pool.longitude = Some(At::default_value(known.place.longitude));
            }
            if pool.country.is_none() {
                pool.country = crate::scalar::FromScalar::parse(known.country)
                    .ok()
                    .map(At::default_value);
            }
        }
    }
    let unnamed = pool
        .tls
        .as_mut()
        .filter(|tls| matches!(&***tls, UpstreamTls::On(tls) if tls.server_name.is_none()));
    if let Some(shared) = unnamed {
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
        if let (Some(name), UpstreamTls::On(tls)) = (name, shared.to_mut()) {
            tls.server_name = Some(At::default_value(name));
        }
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
    let mut seen: HashMap<String, u32> = HashMap::with_capacity(routes.len());
    let given = routes.iter().filter_map(|route| route.name.as_ref());
    seen.extend(given.map(|name| (name.value.clone(), 1)));
    for route in routes.iter_mut().filter(|route| route.name.is_none()) {
        let mut name = host_and_path(route);
        let count = seen.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            let free = (*count..)
                .map(|number| format!("{name}#{number}"))
                .find(|name| !seen.contains_key(name));
            name = free.unwrap_or(name);
            seen.insert(name.clone(), 1);
        }
        route.name = Some(At::new(name, Origin::Default));
    }
}

fn host_and_path(route: &Route) -> String {
    let mut name = match route.host.as_ref().or(route.hosts.first()) {
        None => "*".to_owned(),
        Some(host) => host.value.show(),
    };
    match &route.path {
        None => name.push('/'),
        Some(PathMatch::Prefix(path) | PathMatch::Exact(path)) => {
            name.push_str(path.value.as_str());
        }
        Some(PathMatch::Regex(pattern)) => {
            name.push_str("/~");
            name.push_str(pattern.value.regex().as_str());
        }
    }
    name
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
