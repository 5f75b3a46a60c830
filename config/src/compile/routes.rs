//! Routes, and the tests of a file.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::compile::alike::Alike;
use crate::document::{
    Affinity, Clients, FrameOptions, HeaderEdits, HedgeAfter, LimitKey, PathMatch, Redirect,
    RedirectScheme, RedirectStatus, ReferrerPolicy, Retry, RetryOn, Route, Test, UrlPath,
    WhenAllDown,
};
use crate::fields::Fields;
use crate::names::HostPattern;
use crate::plan::{
    AccessPlan, AffinityPlan, AuthPlan, BrowserPlan, ClientFacts, ClientSet, Conditions, CorsPlan,
    HeaderEditsPlan, HedgeAfterPlan, HedgePlan, LimitKeyPlan, LocationTable, PathRule, PoolId,
    RateLimitPlan, RedirectPath, RedirectPlan, RetryPlan, RouteId, RoutePlan, RouteTable,
    TargetGraph, TargetId, TargetKindPlan, TestPlan, WhenAllDownPlan,
};
use crate::resolve::{Definition, Names};

pub(crate) fn insert_route(table: &mut RouteTable, id: RouteId, route: &Route) {
    let hosts: Vec<HostPattern> = route
        .host
        .iter()
        .chain(&route.hosts)
        .map(|host| host.value.clone())
        .collect();
    let path = match &route.path {
        None => PathRule::Prefix("/".to_owned()),
        Some(PathMatch::Prefix(path)) => PathRule::Prefix(path.value.as_str().to_owned()),
        Some(PathMatch::Exact(path)) => PathRule::Exact(path.value.as_str().to_owned()),
        Some(PathMatch::Regex(pattern)) => {
            PathRule::Pattern(Arc::new(pattern.value.regex().clone()))
        }
    };
    let conditions = Conditions {
        methods: route
            .methods
            .iter()
            .map(|method| method.value.clone())
            .collect(),
        headers: route
            .headers
            .iter()
            .map(|(name, value)| (name.value.clone(), value.value.clone()))
            .collect(),
    };
    table.insert(id, &hosts, &path, conditions);
}

/// What many routes have alike: worked out once, and kept once.
#[derive(Default)]
pub(crate) struct Parts {
    pub(super) facts: Vec<Option<ClientFacts>>,
    pub(super) retry: Alike<RetryPlan>,
    pub(super) edits: Alike<HeaderEditsPlan>,
    /// For routes that say nothing about browsers.
    pub(super) browser: Arc<BrowserPlan>,
}

impl Parts {
    pub(crate) fn facts(&mut self, target: TargetId, graph: &TargetGraph) -> ClientFacts {
        if self.facts.len() < graph.len() {
            self.facts.resize(graph.len(), None);
        }
        *self.facts[target.index()].get_or_insert_with(|| facts(target, graph))
    }
}

pub(crate) fn route(
    id: RouteId,
    route: &Route,
    target: TargetId,
    mut needs: ClientFacts,
    locations: &Arc<LocationTable>,
    auth: Option<AuthPlan>,
    parts: &mut Parts,
) -> RoutePlan {
    let name = route.name.as_ref().map_or("", |name| name.value.as_str());
    // The client's country is part of what is exposed.
    needs.place |= route.expose.value;
    let access = access(route.allow.as_deref(), route.deny.as_deref(), locations);
    if let Some(access) = &access {
        needs.place |= access.needs.place;
        needs.system |= access.needs.system;
    }
    RoutePlan {
        id,
        name: name.into(),
        target,
        redirect: route
            .redirect
            .as_ref()
            .map(|written| Box::new(redirect(written, route))),
        needs,
        retry: parts.retry.of(&route.retry, retry),
        timeout: route.timeout.value.duration(),
        hedge: route.hedge.as_ref().map(|hedge| HedgePlan {
            after: hedge.after.as_ref().map(|after| match after.value {
                HedgeAfter::Time(time) => HedgeAfterPlan::Time(time.duration()),
                HedgeAfter::Percentile(percentile) => HedgeAfterPlan::Percentile(percentile),
            }),
            budget: hedge.budget.value.fraction(),
            methods: hedge
                .methods
                .iter()
                .map(|method| method.value.clone())
                .collect(),
        }),
        when_all_down: match &*route.when_all_down {
            WhenAllDown::Word(_) => WhenAllDownPlan::TryAll,
            WhenAllDown::Respond(respond) => WhenAllDownPlan::Respond {
                status: respond.status.value as u16,
                retry_after: respond.retry_after.value.duration(),
            },
        },
        affinity: route.affinity.on().and_then(|written| affinity(written)),
        expose: route.expose.value,
        access: access.map(Box::new),
        auth: auth.map(Box::new),
        rate_limits: rate_limits(route),
        browser: match (
            route.hsts.on(),
            route.security_headers.on(),
            route.cors.on(),
        ) {
            (None, None, None) => parts.browser.clone(),
            _ => Arc::new(browser(route)),
        },
        request_headers: parts.edits.of(&route.request_headers, header_edits),
        response_headers: parts.edits.of(&route.response_headers, header_edits),
        strip_prefix: route.rewrite.as_ref().map(|rewrite| {
            rewrite
                .strip_prefix
                .value
                .as_str()
                .trim_end_matches('/')
                .into()
        }),
    }
}

fn redirect(redirect: &Redirect, route: &Route) -> RedirectPlan {
    let bare = |path: &UrlPath| -> Arc<str> { path.as_str().trim_end_matches('/').into() };
    RedirectPlan {
        status: match redirect.status.value {
            RedirectStatus::MovedPermanently => 301,
            RedirectStatus::Found => 302,
            RedirectStatus::SeeOther => 303,
            RedirectStatus::Temporary => 307,
            RedirectStatus::Permanent => 308,
        },
        scheme: redirect.scheme.as_ref().map(|scheme| match scheme.value {
            RedirectScheme::Http => "http",
            RedirectScheme::Https => "https",
        }),
        host: redirect
            .host
            .as_ref()
            .map(|host| host.value.as_str().into()),
        path: match (&redirect.path, &redirect.prefix) {
            (Some(path), _) => RedirectPath::Whole(path.value.as_str().into()),
            (None, Some(prefix)) => RedirectPath::Prefix {
                old: match &route.path {
                    Some(PathMatch::Prefix(path)) => bare(&path.value),
                    _ => "".into(),
                },
                new: bare(&prefix.value),
            },
            (None, None) => RedirectPath::Keep,
        },
        keep_query: !redirect.strip_query.value,
    }
}

pub(crate) fn access(
    allow: Option<&Clients>,
    deny: Option<&Clients>,
    locations: &Arc<LocationTable>,
) -> Option<AccessPlan> {
    let set = |clients: &Clients| ClientSet::new(clients, locations);
    AccessPlan::new(allow.map(set), deny.map(set), locations)
}

fn browser(route: &Route) -> BrowserPlan {
    let security = route.security_headers.on().map(|written| &written.0);
    BrowserPlan {
        hsts: route.hsts.on().and_then(|hsts| {
            let mut text = format!("max-age={}", hsts.max_age.value.duration().as_secs());
            if hsts.include_subdomains.value {
                text.push_str("; includeSubDomains");
            }
            if hsts.preload.value {
                text.push_str("; preload");
            }
            HeaderValue::try_from(text).ok()
        }),
        security: security.map_or_else(Vec::new, |headers| {
            let frame = match headers.frame_options.value {
                FrameOptions::SameOrigin => "SAMEORIGIN",
                FrameOptions::Deny => "DENY",
            };
            let referrer = match headers.referrer_policy.value {
                ReferrerPolicy::NoReferrer => "no-referrer",
                ReferrerPolicy::SameOrigin => "same-origin",
                ReferrerPolicy::StrictOrigin => "strict-origin",
                ReferrerPolicy::StrictOriginWhenCrossOrigin => "strict-origin-when-cross-origin",
            };
            [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", frame),
                ("referrer-policy", referrer),
                ("x-permitted-cross-domain-policies", "none"),
            ]
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .to_vec()
        }),
        overwrite: security.is_some_and(|headers| headers.overwrite.value),
        cors: route.cors.on().map(|cors| Box::new(CorsPlan::new(cors))),
    }
}

fn rate_limits(route: &Route) -> Vec<RateLimitPlan> {
    let written = route.rate_limit.iter().flat_map(|limits| &limits.0);
    written
        .enumerate()
        .map(|(at, limit)| RateLimitPlan {
            name: match &limit.name {
                Some(name) => name.value.shared(),
                None if at == 0 => "limit".into(),
                None => format!("limit-{}", at + 1).into(),
            },
            requests: limit.requests.value.get(),
            per: limit.per.value.duration(),
            burst: limit.burst.as_ref().unwrap_or(&limit.requests).value.get(),
            on: match &limit.on {
                LimitKey::ClientIp(_) => LimitKeyPlan::ClientIp,
                LimitKey::Header(name) => LimitKeyPlan::Header(name.value.clone()),
                LimitKey::Cookie(name) => LimitKeyPlan::Cookie(name.value.shared()),
                LimitKey::JwtClaim(name) => LimitKeyPlan::JwtClaim(name.value.shared()),
            },
            headers: limit.headers.value,
            clients: limit.clients.value.get() as usize,
        })
        .collect()
}

fn retry(retry: &Retry) -> RetryPlan {
    let on = |wanted: RetryOn| retry.on.iter().any(|on| on.value == wanted);
    RetryPlan {
        tries: retry.tries.value.get(),
        on_connect: on(RetryOn::Connect),
        on_reset: on(RetryOn::Reset),
        on_timeout: on(RetryOn::Timeout),
        on_statuses: retry
            .on
            .iter()
            .filter_map(|on| match on.value {
                RetryOn::Status(status) => Some(status),
                _ => None,
            })
            .collect(),
        per_try: retry.per_try.as_ref().map(|time| time.value.duration()),
        budget: retry.budget.value.fraction(),
        max_body: retry.max_body.value.bytes(),
    }
}

/// The checks have made sure that it is one of them.
fn affinity(affinity: &Affinity) -> Option<AffinityPlan> {
    match (&affinity.cookie, &affinity.header) {
        (Some(cookie), _) => Some(AffinityPlan::Cookie(cookie.value.shared())),
        (None, Some(header)) => Some(AffinityPlan::Header(header.value.clone())),
        (None, None) => affinity.client_ip.as_ref().map(|_| AffinityPlan::ClientIp),
    }
}

pub(crate) fn facts(target: TargetId, graph: &TargetGraph) -> ClientFacts {
    let mut facts = ClientFacts::default();
    for id in graph.reachable(target) {
        match &graph.node(id).kind {
            TargetKindPlan::Geo(rules) => {
                for set in rules.iter().filter_map(|rule| rule.clients.as_ref()) {
                    facts.place |= !set.locations.is_empty();
                    facts.system |= !set.systems.is_empty();
                }
            }
            TargetKindPlan::Nearest(_) => {
                facts.place = true;
                facts.coordinates = true;
            }
            _ => {}
        }
    }
    facts
}

fn header_edits(edits: &HeaderEdits) -> HeaderEditsPlan {
    HeaderEditsPlan {
        remove: edits.remove.iter().map(|name| name.value.clone()).collect(),
        set: edits
            .set
            .iter()
            .map(|(n, v)| (n.value.clone(), v.value.clone()))
            .collect(),
        add: edits
            .add
            .iter()
            .map(|(n, v)| (n.value.clone(), v.value.clone()))
            .collect(),
    }
}

pub(crate) fn test(test: &Test, names: &Names<'_>, locations: &LocationTable) -> TestPlan {
    let pool = |name: &str| match names.get(name) {
        Some(Definition::Pool(at)) => Some(PoolId::new(at)),
        _ => None,
    };
    let client = &test.client;
    let mut headers = Fields::new();
    for (name, value) in &test.request.headers {
        if let Ok(value) = value.value.parse() {
            headers.append(name.value.clone(), value);
        }
    }
    TestPlan {
        name: test.name.value.clone(),
        origin: test.name.origin,
        ip: client.ip.as_ref().map(|ip| ip.value),
        location: match (&client.subdivision, &client.country) {
            (Some(part), _) => Some(locations.subdivision(part.value.country(), part.value.code())),
            (None, Some(country)) => Some(locations.country(country.value.id())),
            (None, None) => None,
        },
        asn: client.asn.as_ref().map(|asn| asn.value.number()),
        host: test.request.host.value.clone(),
        path: test.request.path.value.clone(),
        method: test.request.method.value.clone(),
        headers,
        pools_down: test
            .down
            .iter()
            .filter_map(|down| pool(&down.value))
            .collect(),
        endpoints_down: test
            .down
            .iter()
            .filter_map(|down| {
                let (name, address) = down.value.split_once('/')?;
                Some((pool(name)?, address.parse().ok()?))
            })
            .collect(),
        only: (!test.expect.only.is_empty()).then(|| {
            test.expect
                .only
                .iter()
                .filter_map(|name| pool(&name.value))
                .collect()
        }),
        share: test
            .expect
            .share
            .iter()
            .filter_map(|(name, share)| Some((pool(&name.value)?, share.value.fraction())))
            .collect(),
        status: test.expect.status.as_ref().map(|status| status.value),
        route: test.expect.route.as_ref().map(|route| route.value.clone()),
    }
}
