//! Which route a request takes.
//!
//! An exact host before a wildcard (the longest first) before none; an exact path before a pattern
//! before the longest prefix; more conditions before fewer; then the order of the file. A request
//! that no route of its host takes is offered to the less exact hosts as well. Every step is a
//! hash look-up or walks a list of candidates that share host and path, so the number of routes
//! does not matter.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fmt::Write;
use std::net::Ipv6Addr;
use std::sync::Arc;

use http::{HeaderName, Method};
use regex::Regex;

use super::id::RouteId;
use crate::fields::Fields;
use crate::names::HostPattern;

/// What routing looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The host as [`normal_host`] gives it.
    pub host: &'a str,
    /// The path, without the query.
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a Fields,
}

/// Finds the route of a request.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact: HashMap<String, Paths>,
    /// By suffix, with its leading dot.
    below: HashMap<String, Paths>,
    any: Paths,
}

/// The routes of one host.
#[derive(Clone, Debug, Default)]
struct Paths {
    exact: HashMap<String, Vec<Candidate>>,
    patterns: Vec<(Arc<Regex>, Vec<Candidate>)>,
    /// Without their trailing slash; the root is the empty text.
    prefixes: HashMap<String, Vec<Candidate>>,
    /// The most slashes any prefix has.
    deepest: usize,
}

/// A route, and what else must hold.
#[derive(Clone, Debug)]
struct Candidate {
    route: RouteId,
    conditions: Arc<Conditions>,
}

/// What must hold besides host and path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) methods: Vec<Method>,
    pub(crate) headers: Vec<(HeaderName, String)>,
}

impl Conditions {
    fn hold(&self, head: &RequestHead<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(head.method))
            && self.headers.iter().all(|(name, value)| {
                head.headers
                    .get_all(name)
                    .any(|have| have.as_bytes() == value.as_bytes())
            })
    }

    fn count(&self) -> usize {
        usize::from(!self.methods.is_empty()) + self.headers.len()
    }
}

/// The paths of one route.
#[derive(Clone, Debug)]
pub(crate) enum PathRule {
    Exact(String),
    Prefix(String),
    Pattern(Arc<Regex>),
}

impl RouteTable {
    /// Adds a route. Routes are added in the order of the file.
    pub(crate) fn insert(
        &mut self,
        route: RouteId,
        hosts: &[HostPattern],
        path: &PathRule,
        conditions: Conditions,
    ) {
        let candidate = Candidate {
            route,
            conditions: Arc::new(conditions),
        };
        if hosts.is_empty() {
            self.any.insert(path, candidate);
            return;
        }
        for host in hosts {
            let paths = match host {
                HostPattern::Exact(host) => self.exact.entry(host.clone()).or_default(),
                HostPattern::Below(suffix) => self.below.entry(suffix.clone()).or_default(),
            };
            paths.insert(path, candidate.clone());
        }
    }

    /// The route of a request, if it has one.
    pub fn find(&self, head: &RequestHead<'_>) -> Option<RouteId> {
        if let Some(route) = self.exact.get(head.host).and_then(|paths| paths.find(head)) {
            return Some(route);
        }
        if !self.below.is_empty() {
            for (at, _) in head.host.match_indices('.') {
                let found = self
                    .below
                    .get(&head.host[at..])
                    .and_then(|paths| paths.find(head));
                if found.is_some() {
                    return found;
                }
            }
        }
        self.any.find(head)
    }
}

impl Paths {
    fn insert(&mut self, path: &PathRule, candidate: Candidate) {
        let candidates = match path {
            PathRule::Exact(path) => self.exact.entry(path.clone()).or_default(),
            PathRule::Prefix(path) => {
                let prefix = path.trim_end_matches('/');
                self.deepest = self.deepest.max(prefix.matches('/').count());
                self.prefixes.entry(prefix.to_owned()).or_default()
            }
            PathRule::Pattern(pattern) => {
                let same = self
                    .patterns
                    .iter()
                    .position(|(p, _)| p.as_str() == pattern.as_str());
                let at = same.unwrap_or_else(|| {
                    self.patterns.push((pattern.clone(), Vec::new()));
                    self.patterns.len() - 1
                });
                &mut self.patterns[at].1
            }
        };
        candidates.push(candidate);
        // Stable, so that equals keep the order of the file.
        candidates.sort_by_key(|c| std::cmp::Reverse(c.conditions.count()));
    }

    fn find(&self, head: &RequestHead<'_>) -> Option<RouteId> {
        let first = |candidates: &[Candidate]| {
            candidates
                .iter()
                .find(|c| c.conditions.hold(head))
                .map(|c| c.route)
        };
        if let Some(route) = self.exact.get(head.path).and_then(|c| first(c)) {
            return Some(route);
        }
        for (pattern, candidates) in &self.patterns {
            if pattern.is_match(head.path)
                && let Some(route) = first(candidates)
            {
                return Some(route);
            }
        }
        self.prefixes_of(head.path)
            .find_map(|prefix| self.prefixes.get(prefix).and_then(|c| first(c)))
    }

    /// The prefixes of a path that could be in the table, the longest first.
    fn prefixes_of<'a>(&self, path: &'a str) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut end = path.len();
        if let Some((at, _)) = path.match_indices('/').nth(self.deepest) {
            end = at;
        }
        let mut next = Some(path[..end].trim_end_matches('/'));
        std::iter::from_fn(move || {
            let prefix = next?;
            next = prefix.rfind('/').map(|at| &prefix[..at]);
            Some(prefix)
        })
    }
}

/// A host as routes compare it: lower case, without port and trailing dot; IPv6 addresses in brackets,
/// as short as they get (RFC 5952).
pub fn normal_host(host: &str) -> Cow<'_, str> {
    let name = if let Some(rest) = host.strip_prefix('[') {
        let inside = rest.find(']').map(|end| &rest[..end]);
        if let Some(address) = inside.and_then(|inside| inside.parse::<Ipv6Addr>().ok()) {
            let name = &host[..inside.unwrap_or_default().len() + 2];
            return if is_written(name, address) {
                Cow::Borrowed(name)
            } else {
                Cow::Owned(format!("[{address}]"))
            };
        }
        inside.map_or(host, |inside| &host[..inside.len() + 2])
    } else {
        host.split(':').next().unwrap_or_default()
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Whether this text is how the address is written, found out without making one.
fn is_written(text: &str, address: Ipv6Addr) -> bool {
    /// What is left of the text behind what was written so far.
    struct Rest<'a>(&'a str);

    impl Write for Rest<'_> {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
            Ok(())
        }
    }

    let mut rest = Rest(text);
    write!(rest, "[{address}]").is_ok() && rest.0.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scalar::FromScalar;

    fn table(routes: &[(&str, PathRule, &[&str])]) -> RouteTable {
        let mut table = RouteTable::default();
        for (at, (host, path, methods)) in routes.iter().enumerate() {
            let hosts: Vec<HostPattern> = host
                .split_whitespace()
                .map(|host| HostPattern::parse(host).unwrap())
                .collect();
            let conditions = Conditions {
                methods: methods.iter().map(|m| m.parse().unwrap()).collect(),
                headers: Vec::new(),
            };
            table.insert(RouteId::new(at), &hosts, path, conditions);
        }
        table
    }

    fn find(table: &RouteTable, method: &str, host: &str, path: &str) -> Option<usize> {
        let method = method.parse().unwrap();
        let head = RequestHead {
            host: &normal_host(host),
            path,
            method: &method,
            headers: &Fields::new(),
        };
        table.find(&head).map(RouteId::index)
    }

    fn prefix(path: &str) -> PathRule {
        PathRule::Prefix(path.to_owned())
    }

    #[test]
    fn the_more_exact_host_wins_and_falls_through() {
        let table = table(&[
            ("", prefix("/"), &[]),
            ("*.example.com", prefix("/"), &[]),
            ("*.api.example.com", prefix("/"), &[]),
            ("www.example.com", prefix("/shop"), &[]),
        ]);
        assert_eq!(find(&table, "GET", "www.example.com", "/shop/1"), Some(3));
        assert_eq!(
            find(&table, "GET", "WWW.Example.Com.:8080", "/other"),
            Some(1)
        );
        assert_eq!(find(&table, "GET", "v1.api.example.com", "/"), Some(2));
        assert_eq!(find(&table, "GET", "example.com", "/"), Some(0));
        assert_eq!(find(&table, "GET", "[::1]:80", "/"), Some(0));
    }

    #[test]
    fn addresses_are_found_in_every_spelling() {
        let table = table(&[
            ("2001:DB8:0::1", prefix("/"), &[]),
            ("[::ffff:192.0.2.1]", prefix("/"), &[]),
            ("192.0.2.1", prefix("/"), &[]),
        ]);
        for (host, route) in [
            ("[2001:db8::1]", Some(0)),
            ("[2001:db8::1]:8080", Some(0)),
            ("[2001:DB8::1]", Some(0)),
            ("[2001:0db8:0000:0:0:0:0:1]:443", Some(0)),
            ("[2001:db8::0.0.0.1]", Some(0)),
            ("[::ffff:c000:201]", Some(1)),
            ("[::FFFF:192.0.2.1]:80", Some(1)),
            ("192.0.2.1:80", Some(2)),
            ("[2001:db8::2]", None),
            ("[2001:db8::1%25eth0]", None),
            ("[2001:db8::1", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(find(&table, "GET", host, "/"), route, "{host}");
        }
        assert!(matches!(normal_host("[2001:db8::1]:80"), Cow::Borrowed(_)));
    }

    #[test]
    fn paths_go_from_exact_over_patterns_to_the_longest_prefix() {
        let table = table(&[
            ("", prefix("/v1"), &[]),
            ("", prefix("/v1/users/"), &[]),
            ("", PathRule::Exact("/v1/users".to_owned()), &[]),
            (
                "",
                PathRule::Pattern(Arc::new(Regex::new("^/v1/[0-9]+$").unwrap())),
                &[],
            ),
        ]);
        assert_eq!(find(&table, "GET", "x", "/v1/users"), Some(2));
        assert_eq!(find(&table, "GET", "x", "/v1/users/7/posts"), Some(1));
        assert_eq!(find(&table, "GET", "x", "/v1/users/"), Some(1));
        assert_eq!(find(&table, "GET", "x", "/v1/42"), Some(3));
        assert_eq!(find(&table, "GET", "x", "/v1"), Some(0));
        assert_eq!(find(&table, "GET", "x", "/v1/"), Some(0));
        assert_eq!(find(&table, "GET", "x", "/v10"), None);
        assert_eq!(find(&table, "GET", "x", ""), None);
    }

    #[test]
    fn more_conditions_win_then_the_order_of_the_file() {
        let table = table(&[
            ("", prefix("/"), &[]),
            ("", prefix("/"), &["POST"]),
            ("", prefix("/"), &["POST", "PUT"]),
        ]);
        assert_eq!(find(&table, "POST", "x", "/a"), Some(1));
        assert_eq!(find(&table, "PUT", "x", "/a"), Some(2));
        assert_eq!(find(&table, "GET", "x", "/a"), Some(0));
    }

    #[test]
    fn headers_must_have_the_value() {
        let mut table = RouteTable::default();
        let conditions = Conditions {
            methods: Vec::new(),
            headers: vec![(HeaderName::from_static("x-tenant"), "acme".to_owned())],
        };
        table.insert(RouteId::new(0), &[], &prefix("/"), conditions);
        let mut headers = Fields::new();
        let find = |headers: &Fields| {
            let head = RequestHead {
                host: "x",
                path: "/",
                method: &Method::GET,
                headers,
            };
            table.find(&head)
        };
        assert_eq!(find(&headers), None);
        headers.append(
            HeaderName::from_static("x-tenant"),
            "other".parse().unwrap(),
        );
        assert_eq!(find(&headers), None);
        headers.append(HeaderName::from_static("x-tenant"), "acme".parse().unwrap());
        assert_eq!(find(&headers), Some(RouteId::new(0)));
    }
}
