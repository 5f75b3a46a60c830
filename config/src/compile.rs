//! A checked document → the plan: every name resolved, every value in the runtime's own type.

mod acme;
mod alike;
mod auth;
mod files;
mod listeners;
pub(crate) mod pools;
mod routes;
mod targets;

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::compile::files::file;
use crate::compile::listeners::{access_log, listener};
use crate::compile::pools::pool;
use crate::compile::routes::{Parts, insert_route, route, test};
use crate::compile::targets::{Targets, asked, subdivisions};
use crate::decode::encode::Encode;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::Document;
use crate::plan::{
    AdminPlan, AdminTokenPlan, ClassMaker, ClientClasses, ClientIpPlan, ConfigHash, GeoIpPlan,
    LocationTable, LogPlan, PathsPlan, PlacePatch, Plan, PoolId, PoolPlan, ProcessPlan,
    ResolverPlan, RouteId, RoutePlan, RouteTable, ServicePlan, TargetGraph,
};
use crate::source::Sources;

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
