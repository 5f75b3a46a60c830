//! A checked document → the plan: every name resolved, every value in the runtime's own type.

mod acme;
mod alike;
mod auth;
mod files;

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use self::alike::Alike;
use crate::compile::files::file;
use crate::decode::Encode;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::{
    AccessLog, Affinity, Balance, BalanceWord, Certificate, ClientAuth, Clients, Document,
    Endpoint, EndpointPlace, Expect, FrameOptions, GeoRule, HashKey, HeaderEdits, Health,
    HedgeAfter, LimitKey, Listener, OnDown, PathMatch, Pool, Redirect, RedirectScheme,
    RedirectStatus, ReferrerPolicy, Retry, RetryOn, Route, Target, TargetKind, Test, UpstreamTls,
    UrlPath, WhenAllDown,
};
use crate::fields::Fields;
use crate::geography::{Coordinates, Geography};
use crate::names::{HostPattern, Name};
use crate::plan::{
    AccessLogPlan, AccessPlan, AdminPlan, AdminTokenPlan, AffinityPlan, AuthPlan, BalancePlan,
    BrowserPlan, CertificateFiles, CertificateSource, ClassMaker, ClientAuthPlan, ClientClasses,
    ClientFacts, ClientIpPlan, ClientSet, Conditions, ConfigHash, CorsPlan, EndpointPlan, GeoAsked,
    GeoIpPlan, GeoRulePlan, HashProperty, HeaderEditsPlan, HedgeAfterPlan, HedgePlan, LimitKeyPlan,
    LimitsPlan, ListenerPlan, ListenerTlsPlan, LocationTable, LogPlan, LogSink, OutlierPlan,
    PathRule, PathsPlan, PlacePatch, Plan, PoolId, PoolPlan, ProbeExpect, ProbeKind, ProbePlan,
    ProcessPlan, RateLimitPlan, RedirectPath, RedirectPlan, ResolverPlan, RetryPlan, RouteId,
    RoutePlan, RouteTable, ServiceId, ServicePlan, SplitMemberPlan, TargetGraph, TargetId,
    TargetKindPlan, TestPlan, TimeoutsPlan, UpstreamTlsPlan, WhenAllDownPlan,
};
use crate::resolve::{Definition, Names};
use crate::source::{At, Origin, Sources};

/// Makes the plan.
///
/// # Errors
/// When a target would need too many client classes: the one thing that cannot be known before its
/// shape is compiled.
pub(crate) fn compile(document: &Document, sources: &Sources) -> Result<Plan, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let names = crate::resolve::names(document);
    let locations = Arc::new(LocationTable::new(subdivisions(document)));
    let pools: Vec<Arc<PoolPlan>> = document
        .pools
        .iter()
        .enumerate()
        .map(|(at, (name, plan))| Arc::new(pool(PoolId::new(at), name, plan, sources)))
        .collect();

    let mut targets = Targets {
        document,
        names: &names,
        locations: &locations,
        places: pools.iter().map(|pool| pool.place).collect(),
        graph: TargetGraph::default(),
        services: vec![None; document.services.0.len()],
    };
    let services: Vec<ServicePlan> = (0..document.services.0.len())
        .map(|at| ServicePlan {
            name: document.services.0[at].0.value.clone(),
            target: targets.service(at),
        })
        .collect();
    let mut route_table = RouteTable::default();
    let mut parts = Parts::default();
    let routes: Vec<RoutePlan> = document
        .routes
        .iter()
        .enumerate()
        .map(|(at, written)| {
            let id = RouteId::new(at);
            let target = match &written.to {
                Some(to) => targets.target(to),
                None => targets.nowhere(),
            };
            insert_route(&mut route_table, id, written);
            let needs = parts.facts(target, &targets.graph);
            let auth = written.auth.on();
            let auth = auth.and_then(|written| auth::auth(written, &names, sources));
            route(
                id,
                written,
                target,
                needs,
                targets.locations,
                auth,
                &mut parts,
            )
        })
        .collect();
    let graph = targets.graph.finished();

    let mut classes: Vec<Option<Arc<ClientClasses>>> = vec![None; graph.len()];
    let mut maker = ClassMaker::new(&graph, &locations);
    let of_services = services
        .iter()
        .map(|service| service.target)
        .zip(document.services.iter().map(|(_, written)| written.origin));
    let of_routes = routes
        .iter()
        .map(|route| route.target)
        .zip(document.routes.iter().map(|written| {
            let to = written.to.as_ref();
            to.map_or(written.origin, |to| to.origin)
        }));
    for (target, origin) in of_services.chain(of_routes) {
        if classes[target.index()].is_some() {
            continue;
        }
        match maker.classes_of(target) {
            Ok(found) => classes[target.index()] = Some(found),
            Err(error) => found.push(
                Diagnostic::error(
                    Code::TooManyClientClasses,
                    origin,
                    format!("this target tells too many kinds of clients apart: {error}"),
                )
                .help(
                    "join rules that lead to the same place, or networks under their common prefix",
                ),
            ),
        }
    }
    if !found.is_empty() {
        return Err(found);
    }

    let tests = document
        .tests
        .iter()
        .map(|t| test(t, &names, &locations))
        .collect();
    Ok(Plan {
        hash: hash(document, sources),
        listeners: document
            .listeners
            .iter()
            .map(|l| listener(document, l, sources, &locations))
            .collect(),
        acme: acme::issuers(document, sources),
        client_ip: ClientIpPlan {
            header: document.client_ip.header.value.clone(),
            trusted: document
                .client_ip
                .trusted
                .iter()
                .map(|net| net.value)
                .collect(),
        },
        paths: PathsPlan::of(&document.paths),
        header_case: document.header_case.value,
        geoip: GeoIpPlan {
            database: document
                .geoip
                .database
                .as_ref()
                .map(|path| file(path, sources)),
            asn_database: document
                .geoip
                .asn_database
                .as_ref()
                .map(|path| file(path, sources)),
            patch: {
                let entries = document.geoip.patch.iter();
                let entries = entries.map(|(net, country)| (net.value, country.value.id()));
                Arc::new(PlacePatch::new(entries))
            },
            asked: asked(document),
        },
        admin: AdminPlan {
            bind: document.admin.bind.value,
            origin: document.admin.bind.origin,
            tokens: document
                .admin
                .tokens
                .iter()
                .map(|token| AdminTokenPlan {
                    name: token.name.value.as_str().into(),
                    role: token.role.value,
                    token: token.token.value.clone(),
                })
                .collect(),
        },
        resolver: ResolverPlan {
            servers: document
                .resolver
                .servers
                .iter()
                .map(|server| server.value)
                .collect(),
            timeout: document.resolver.timeout.value.duration(),
            min_ttl: document.resolver.min_ttl.value.duration(),
            max_ttl: document.resolver.max_ttl.value.duration(),
        },
        process: ProcessPlan {
            state_dir: file(&document.state_dir, sources).value,
            workers: document.workers.as_ref().map(|workers| workers.value.get()),
            lame_duck: document.lame_duck.value.duration(),
            shutdown_timeout: document.shutdown_timeout.value.duration(),
            startup_grace: document.startup_grace.value.duration(),
        },
        access_log: document.access_log.on().map(|log| access_log(log, sources)),
        log: LogPlan {
            level: document.log.level.value,
            format: document.log.format.value,
        },
        pools,
        services,
        targets: graph,
        classes,
        locations,
        routes,
        route_table,
        tests,
    })
}

/// What the configuration is known by: changes when any value changes, secrets included, however
/// the files are laid out.
fn hash(document: &Document, sources: &Sources) -> ConfigHash {
    // Room for what is usual: what is not used costs nothing.
    let written: usize = sources.iter().map(|source| source.text.len()).sum();
    let mut text = Vec::with_capacity(written.saturating_mul(4));
    document.canonical(&mut text);
    let digest = Sha256::digest(&text);
    let digits: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    ConfigHash::new(&digits)
}

// === Listeners and logs ===

fn listener(
    document: &Document,
    listener: &Listener,
    sources: &Sources,
    locations: &Arc<LocationTable>,
) -> ListenerPlan {
    let limits = &listener.limits;
    ListenerPlan {
        bind: listener.bind.value,
        origin: listener.bind.origin,
        redirect_to_https: listener.redirect_to_https.value,
        access: access(
            listener.allow.as_deref(),
            listener.deny.as_deref(),
            locations,
        ),
        tls: listener.tls.as_ref().map(|tls| ListenerTlsPlan {
            certificates: tls
                .certificates
                .iter()
                .filter_map(|certificate| certificate_source(document, certificate, sources))
                .collect(),
            managed: tls
                .certificates
                .iter()
                .filter_map(|certificate| acme::managed(document, certificate, sources))
                .collect(),
            profile: tls.profile.value,
            min_version: tls.min_version.value,
            client: tls.client_ca.as_ref().map(|ca| ClientAuthPlan {
                ca: file(ca, sources),
                crl: tls.client_crl.as_ref().map(|crl| file(crl, sources)),
                optional: tls
                    .client_auth
                    .as_ref()
                    .is_some_and(|auth| auth.value == ClientAuth::Optional),
            }),
        }),
        proxy_protocol: listener.proxy_protocol.value,
        limits: LimitsPlan {
            header_bytes: limits.header_bytes.value.bytes() as usize,
            headers: limits.headers.value.get() as usize,
            header_timeout: limits.header_timeout.value.duration(),
            idle_timeout: limits.idle_timeout.value.duration(),
            body_bytes: limits.body_bytes.as_ref().map(|size| size.value.bytes()),
            connections: limits.connections.value.get() as usize,
            connections_per_client: limits
                .connections_per_client
                .as_ref()
                .map(|count| count.value.get() as usize),
            requests_per_connection: limits
                .requests_per_connection
                .as_ref()
                .map(|count| u64::from(count.value.get())),
            uri_bytes: limits.uri_bytes.value.bytes() as usize,
            min_body_rate: limits.min_body_rate.on().map(|size| size.value.bytes()),
        },
    }
}

fn certificate_source(
    document: &Document,
    certificate: &Certificate,
    sources: &Sources,
) -> Option<CertificateSource> {
    if let Some(issuer) = &certificate.acme {
        let managed = acme::managed(document, certificate, sources)?;
        return Some(CertificateSource::Directory {
            path: At::new(managed.folder, issuer.origin),
            awaited: true,
        });
    }
    if let Some(directory) = &certificate.directory {
        return Some(CertificateSource::Directory {
            path: file(directory, sources),
            awaited: false,
        });
    }
    let cert = certificate.cert.as_ref()?;
    Some(CertificateSource::Pair(CertificateFiles {
        cert: file(cert, sources),
        key: file(certificate.key.as_ref().unwrap_or(cert), sources),
        ocsp: certificate.ocsp.as_ref().map(|ocsp| file(ocsp, sources)),
    }))
}

fn access_log(log: &AccessLog, sources: &Sources) -> AccessLogPlan {
    AccessLogPlan {
        to: match log.to.value.as_str() {
            "stdout" => LogSink::Stdout,
            "stderr" => LogSink::Stderr,
            path => LogSink::File(sources.resolve(log.to.origin, path.as_ref())),
        },
        sample: log.sample.value.fraction(),
    }
}

// === Pools ===

fn pool(id: PoolId, name: &At<Name>, pool: &Pool, sources: &Sources) -> PoolPlan {
    PoolPlan {
        id,
        name: name.value.clone(),
        cloud: pool.cloud.as_ref().map(|cloud| cloud.value.as_str().into()),
        region: pool
            .region
            .as_ref()
            .map(|region| region.value.as_str().into()),
        place: pool
            .latitude
            .as_ref()
            .zip(pool.longitude.as_ref())
            .map(|(latitude, longitude)| Coordinates {
                latitude: latitude.value,
                longitude: longitude.value,
            }),
        endpoints: pool.endpoints.iter().map(endpoint).collect(),
        balance: balance(&pool.balance),
        protocol: pool.protocol.value,
        tls: match pool.tls.as_deref() {
            Some(UpstreamTls::On(tls)) => Some(UpstreamTlsPlan {
                server_name: tls
                    .server_name
                    .as_ref()
                    .map(|name| name.value.as_str().into()),
                ca: tls.ca.as_ref().map(|path| file(path, sources)),
                client: tls
                    .client_cert
                    .as_ref()
                    .zip(tls.client_key.as_ref())
                    .map(|(cert, key)| (file(cert, sources), file(key, sources))),
                insecure: tls.insecure.value,
                origin: tls.origin,
            }),
            _ => None,
        },
        probe: pool.health.on().map(|health| probe(health)),
        outlier: pool.outlier.on().map(|outlier| OutlierPlan {
            consecutive_failures: outlier.consecutive_failures.value.get(),
            eject_for: outlier.eject_for.value.duration(),
            max_ejected: outlier.max_ejected.value.fraction(),
        }),
        releases: pool.on_down.value == OnDown::Release,
        slow_start: pool.slow_start.on().map(|span| span.value.duration()),
        min_healthy: pool.min_healthy.value,
        overprovision: pool.overprovision.value,
        drain: pool.drain.value,
        host: pool.host.as_ref().and_then(|host| host.value.parse().ok()),
        timeouts: TimeoutsPlan {
            connect: pool.timeouts.connect.value.duration(),
            first_byte: pool
                .timeouts
                .first_byte
                .as_ref()
                .map(|time| time.value.duration()),
            idle: pool.timeouts.idle.value.duration(),
            keep_alive: pool.timeouts.keep_alive.value.duration(),
            upgrade_idle: pool.timeouts.upgrade_idle.value.duration(),
            upgrade_lifetime: pool
                .timeouts
                .upgrade_lifetime
                .as_ref()
                .map(|lifetime| lifetime.value.duration()),
        },
        capacity_in_flight: pool
            .capacity
            .as_ref()
            .map(|capacity| capacity.in_flight.value.get()),
        send_proxy: pool.send_proxy.as_ref().map(|version| version.value),
    }
}

fn endpoint(endpoint: &Endpoint) -> EndpointPlan {
    let weight = endpoint.weight.value.get();
    let backup = endpoint.backup.value;
    match &endpoint.place {
        EndpointPlace::Address(address) => EndpointPlan::Address {
            address: address.value,
            weight,
            backup,
        },
        EndpointPlace::Dns(dns) => EndpointPlan::Dns {
            host: dns.value.host.as_str().into(),
            port: dns.value.port,
            weight,
            backup,
        },
    }
}

fn balance(balance: &Balance) -> BalancePlan {
    match balance {
        Balance::Word(word) => match word.value {
            BalanceWord::LeastRequests => BalancePlan::LeastRequests,
            BalanceWord::RoundRobin => BalancePlan::RoundRobin,
            BalanceWord::Random => BalancePlan::Random,
            BalanceWord::Fastest => BalancePlan::Fastest,
        },
        Balance::Hash { on, .. } => BalancePlan::Hash(match on {
            HashKey::ClientIp(_) => HashProperty::ClientIp,
            HashKey::Path(_) => HashProperty::Path,
            HashKey::Header(name) => HashProperty::Header(name.value.clone()),
            HashKey::Cookie(name) => HashProperty::Cookie(name.value.as_str().into()),
        }),
    }
}

pub(crate) fn probe(health: &Health) -> ProbePlan {
    let kind = match (&health.http, &health.grpc) {
        (Some(path), _) => ProbeKind::Http {
            path: path.value.as_str().into(),
            expect: expect(&health.expect),
        },
        (None, Some(service)) => ProbeKind::Grpc {
            service: service.value.as_str().into(),
        },
        (None, None) => ProbeKind::Tcp,
    };
    let every = health.every.value.duration();
    ProbePlan {
        kind,
        port: health.port.as_ref().map(|port| port.value.get()),
        host: health
            .host
            .as_ref()
            .and_then(|host| host.value.parse().ok()),
        every,
        fast_every: health
            .fast_every
            .as_ref()
            .map_or(every, |fast| fast.value.duration()),
        timeout: health.timeout.value.duration(),
        down_after: health.down_after.value.get(),
        up_after: health.up_after.value.get(),
    }
}

fn expect(expect: &Expect) -> ProbeExpect {
    ProbeExpect {
        status: expect.status.0.iter().map(|range| range.value).collect(),
        headers: expect
            .headers
            .iter()
            .map(|(name, value)| (name.value.clone(), value.value.as_str().into()))
            .collect(),
        json: expect
            .json
            .iter()
            .map(|(pointer, value)| (pointer.value.as_str().into(), value.value.as_str().into()))
            .collect(),
        body_contains: expect
            .body_contains
            .as_ref()
            .map(|text| text.value.as_str().into()),
    }
}

// === Targets ===

/// Every subdivision that some rule or test names, and those that decide between the Cloudflare
/// regions that some rule names.
fn subdivisions(document: &Document) -> Vec<(&str, crate::geography::CountryId)> {
    let mut found = Vec::new();
    let mut cloudflare = false;
    each_clients(document, &mut |clients| {
        cloudflare |= !clients.cloudflare_regions.is_empty();
        let named = clients.subdivisions.iter().map(|part| &part.value);
        found.extend(named.map(|part| (part.code(), part.country())));
    });
    for test in &document.tests {
        if let Some(subdivision) = &test.client.subdivision {
            found.push((subdivision.value.code(), subdivision.value.country()));
        }
    }
    if cloudflare {
        let geography = Geography::get();
        found.extend(
            geography
                .cloudflare_subdivisions()
                .iter()
                .filter_map(|(code, _)| Some((*code, geography.country(code.split('-').next()?)?))),
        );
    }
    found
}

/// Where the first rules stand that ask a database for something.
fn asked(document: &Document) -> GeoAsked {
    fn first<T>(slot: &mut Option<Origin>, rules: &[At<T>]) {
        *slot = slot.or_else(|| rules.first().map(|rule| rule.origin));
    }
    let mut asked = GeoAsked::default();
    each_clients(document, &mut |clients| {
        first(&mut asked.country, &clients.continents);
        first(&mut asked.country, &clients.countries);
        first(&mut asked.country, &clients.subdivisions);
        first(&mut asked.country, &clients.cloudflare_regions);
        first(&mut asked.country, clients.in_eu.as_slice());
        first(&mut asked.subdivision, &clients.subdivisions);
        first(&mut asked.system, &clients.asns);
    });
    asked
}

/// Every set of clients that a rule names.
fn each_clients<'a>(document: &'a Document, visit: &mut dyn FnMut(&'a Clients)) {
    each_target(document, &mut |target| {
        each_rule(target, &mut |rule| {
            rule.clients.iter().for_each(&mut *visit);
        });
    });
    let of_listeners = document.listeners.iter().map(|l| (&l.allow, &l.deny));
    let of_routes = document.routes.iter().map(|r| (&r.allow, &r.deny));
    for (allow, deny) in of_listeners.chain(of_routes) {
        allow.as_deref().into_iter().for_each(&mut *visit);
        deny.as_deref().into_iter().for_each(&mut *visit);
    }
}

/// The outermost target of every service and route.
fn each_target<'a>(document: &'a Document, visit: &mut dyn FnMut(&'a Target)) {
    let services = document.services.iter().map(|(_, target)| target);
    let routes = document.routes.iter().filter_map(|route| route.to.as_ref());
    services.chain(routes).for_each(visit);
}

fn each_rule<'a>(target: &'a Target, visit: &mut dyn FnMut(&'a GeoRule)) {
    match &target.kind {
        TargetKind::Name(_) => {}
        TargetKind::Split(members) => {
            members
                .iter()
                .for_each(|member| each_rule(&member.to, visit));
        }
        TargetKind::Tiers(members)
        | TargetKind::Nearest(members)
        | TargetKind::Fastest(members)
        | TargetKind::LeastLoaded(members) => {
            members.iter().for_each(|member| each_rule(member, visit));
        }
        TargetKind::Geo(rules) => {
            for rule in rules {
                visit(rule);
                each_rule(&rule.to, visit);
            }
        }
    }
}

struct Targets<'a> {
    document: &'a Document,
    names: &'a Names<'a>,
    locations: &'a Arc<LocationTable>,
    places: Vec<Option<Coordinates>>,
    graph: TargetGraph,
    /// The node of every service that was needed so far.
    services: Vec<Option<TargetId>>,
}

impl Targets<'_> {
    fn intern(&mut self, kind: TargetKindPlan) -> TargetId {
        let places = &self.places;
        self.graph.intern(kind, |pool| places[pool.index()])
    }

    /// A service, with its name around what it stands for. Services are not in a circle: the
    /// checks said so.
    fn service(&mut self, at: usize) -> TargetId {
        if let Some(id) = self.services[at] {
            return id;
        }
        let document = self.document;
        let inner = self.target(&document.services.0[at].1);
        let id = self.intern(TargetKindPlan::Service(ServiceId::new(at), inner));
        self.services[at] = Some(id);
        id
    }

    fn target(&mut self, target: &Target) -> TargetId {
        let kind = match &target.kind {
            TargetKind::Name(name) => match self.names.get(name.value.as_str()) {
                Some(Definition::Service(at)) => return self.service(at),
                Some(Definition::Pool(at)) => TargetKindPlan::Pool(PoolId::new(at)),
                None => unreachable!("the checks found every name"),
            },
            TargetKind::Split(members) => TargetKindPlan::Split(
                members
                    .iter()
                    .map(|member| SplitMemberPlan {
                        to: self.target(&member.to),
                        weight: member.weight.value.get(),
                        if_down: member.if_down.value,
                    })
                    .collect(),
            ),
            TargetKind::Tiers(members) => TargetKindPlan::Tiers(self.all(members)),
            TargetKind::Nearest(members) => TargetKindPlan::Nearest(self.all(members)),
            TargetKind::Fastest(members) => TargetKindPlan::Fastest(self.all(members)),
            TargetKind::LeastLoaded(members) => TargetKindPlan::LeastLoaded(self.all(members)),
            TargetKind::Geo(rules) => TargetKindPlan::Geo(
                rules
                    .iter()
                    .map(|rule| GeoRulePlan {
                        clients: rule
                            .clients
                            .as_ref()
                            .map(|c| ClientSet::new(c, self.locations)),
                        to: self.target(&rule.to),
                    })
                    .collect(),
            ),
        };
        self.intern(kind)
    }

    /// What leads to no pool.
    fn nowhere(&mut self) -> TargetId {
        self.intern(TargetKindPlan::Tiers(Vec::new()))
    }

    fn all(&mut self, members: &[Target]) -> Vec<TargetId> {
        members.iter().map(|member| self.target(member)).collect()
    }
}

// === Routes ===

fn insert_route(table: &mut RouteTable, id: RouteId, route: &Route) {
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
struct Parts {
    facts: Vec<Option<ClientFacts>>,
    retry: Alike<RetryPlan>,
    edits: Alike<HeaderEditsPlan>,
    /// For routes that say nothing about browsers.
    browser: Arc<BrowserPlan>,
}

impl Parts {
    fn facts(&mut self, target: TargetId, graph: &TargetGraph) -> ClientFacts {
        if self.facts.len() < graph.len() {
            self.facts.resize(graph.len(), None);
        }
        *self.facts[target.index()].get_or_insert_with(|| facts(target, graph))
    }
}

fn route(
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

fn access(
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

fn facts(target: TargetId, graph: &TargetGraph) -> ClientFacts {
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

// === Tests ===

fn test(test: &Test, names: &Names<'_>, locations: &LocationTable) -> TestPlan {
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
