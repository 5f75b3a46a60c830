//! What a decision costs: from a request's head and a client's address to an endpoint.
//!
//! The whole of it, and each of its parts alone, with 1, 100 and 10,000 routes. The snapshot is one
//! that the engine published, and what is called is what the data plane calls. Requests are prepared
//! beforehand and drawn at random, so that the processor's caches see as many hosts, services and
//! networks as they would.

#![expect(clippy::print_stdout, reason = "what was measured is the output")]

mod estate;
mod report;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use http::{HeaderMap, Method};
use portolan_certs::{Material, UpstreamIdentity};
use portolan_config::plan::{PoolPlan, RequestHead, normal_host};
use portolan_config::{Machine, check_text};
use portolan_control::affinity::Tie;
use portolan_control::balance::Wish;
use portolan_control::clock::{Clock, Tick};
use portolan_control::decide::{Fate, decide, fate};
use portolan_control::dial::{Dial, Dialer, Probing};
use portolan_control::engine::{Beginning, Engine, Published};
use portolan_control::geo::Locator;
use portolan_control::handover::Handover;
use portolan_control::journal::Journal;
use portolan_control::resolve::NameServers;
use portolan_control::snapshot::Snapshot;
use serde_json::json;

use estate::Estate;
use report::{Figures, Raw};

/// How many routes there are.
const SIZES: [usize; 3] = [1, 100, 10_000];

/// Different requests: enough that no branch is learnt by heart.
const REQUESTS: usize = 1 << 14;

const PARTS: [&str; 6] = [
    "the whole decision",
    "route match",
    "client's place",
    "client's class",
    "draw",
    "endpoint",
];

/// What is known of a request when it is to be decided.
struct Request {
    host: String,
    path: String,
    client: IpAddr,
}

/// The requests, again and again.
struct Requests {
    all: Vec<Request>,
    next: usize,
    method: Method,
    headers: HeaderMap,
}

impl Requests {
    fn new(routes: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let mut request = || Request {
            // As clients write it.
            host: format!("{}:8443", estate::host(random.usize(..routes))),
            path: format!("/v1/items/{}", random.u32(..)),
            client: public_address(&mut random),
        };
        Self {
            all: std::iter::repeat_with(&mut request)
                .take(REQUESTS)
                .collect(),
            next: 0,
            method: Method::GET,
            headers: HeaderMap::new(),
        }
    }

    fn index(&mut self) -> usize {
        self.next = (self.next + 1) % REQUESTS;
        self.next
    }

    fn head<'a>(&'a self, request: &'a Request, host: &'a str) -> RequestHead<'a> {
        RequestHead {
            host,
            path: &request.path,
            method: &self.method,
            headers: &self.headers,
        }
    }
}

/// An address of the public Internet, as far as a glance tells.
fn public_address(random: &mut fastrand::Rng) -> IpAddr {
    loop {
        let address = Ipv4Addr::from_bits(random.u32(..));
        let first = address.octets()[0];
        if (1..224).contains(&first) && !address.is_private() && !address.is_loopback() {
            return IpAddr::V4(address);
        }
    }
}

/// Nothing is connected to here.
#[derive(Debug)]
struct NoConnections;

impl Dialer for NoConnections {
    fn prepare(
        &self,
        _: &Arc<PoolPlan>,
        _: Option<&Arc<UpstreamIdentity>>,
        _: SocketAddr,
        _: Option<&str>,
    ) -> Dial {
        Dial::new(())
    }

    fn probe(&self, _: &Arc<PoolPlan>, _: &Dial) -> Probing {
        unreachable!("probes are off")
    }
}

/// Has the engine run a configuration with so many routes.
fn publish(routes: usize) -> Published {
    let estate = Estate {
        routes,
        pools: (routes / 5).max(5),
        endpoints_per_pool: 4,
        probes: false,
    };
    let text = format!(
        "listeners: [ {{ bind: '127.0.0.1:0' }} ]\n{}",
        estate.yaml(&[])
    );
    let checked = check_text("estate.yaml", text, &Machine::default());
    let plan = checked.plan.expect("the estate is sound");
    let locator = Locator::load(&plan.geoip, plan.needs()).expect("the built-in database is sound");
    let clock = Clock::start();
    let engine = Engine::start(Beginning {
        plan,
        material: Arc::new(Material::default()),
        locator: Arc::new(locator),
        dialer: Arc::new(NoConnections),
        resolver: Arc::new(NameServers::default()),
        clock,
        journal: Journal::new(clock),
        handed: Handover::default(),
    });
    engine.published().clone()
}

/// From a request to an endpoint: the pool's index, and the endpoint's in the pool.
fn whole(
    published: &Published,
    requests: &Requests,
    request: &Request,
    random: &mut fastrand::Rng,
) -> Option<(usize, usize)> {
    let snapshot = published.load_full();
    let host = normal_host(&request.host);
    let route = snapshot.route(&requests.head(request, &host))?;
    let found = snapshot.locate(route, request.client);
    match decide(&snapshot, route, Some(request.client), &found, &Tie::Free) {
        Fate::Pool { pool, basis, .. } => {
            let mut wish = Wish {
                hash: None,
                excluded: &[],
                random,
                now: Tick::ZERO,
            };
            let endpoint = snapshot.pools[pool.index()].pick(basis, &mut wish)?;
            Some((pool.index(), endpoint))
        }
        _ => None,
    }
}

fn measure(criterion: &mut Criterion, routes: usize) {
    let published = publish(routes);
    let mut requests = Requests::new(routes);
    let mut random = fastrand::Rng::with_seed(2);
    for request in &requests.all {
        assert!(
            whole(&published, &requests, request, &mut random).is_some(),
            "every request is served"
        );
    }
    // What each part gets from the one before it.
    let snapshot: &Snapshot = &published.load_full();
    let hosts: Vec<String> = requests
        .all
        .iter()
        .map(|request| normal_host(&request.host).into_owned())
        .collect();
    let routes_taken: Vec<_> = requests
        .all
        .iter()
        .zip(&hosts)
        .map(|(request, host)| {
            let route = snapshot.route(&requests.head(request, host));
            route.expect("every request has a route")
        })
        .collect();
    let places: Vec<_> = requests
        .all
        .iter()
        .zip(&routes_taken)
        .map(|(request, route)| snapshot.locate(route, request.client))
        .collect();
    let tables: Vec<_> = (0..REQUESTS)
        .map(|at| {
            let (target, client) = (routes_taken[at].target, requests.all[at].client);
            snapshot.tables_for(target, Some(client), &places[at])
        })
        .collect();

    let mut group = criterion.benchmark_group(format!("{routes} routes"));
    group.throughput(Throughput::Elements(1));
    let [
        name_whole,
        name_route,
        name_place,
        name_class,
        name_draw,
        name_endpoint,
    ] = PARTS;
    group.bench_function(name_whole, |bencher| {
        bencher.iter(|| {
            let at = requests.index();
            whole(&published, &requests, &requests.all[at], &mut random)
        });
    });
    group.bench_function(name_route, |bencher| {
        bencher.iter(|| {
            let at = requests.index();
            let head = requests.head(&requests.all[at], &hosts[at]);
            snapshot.route(&head).map(|route| route.id)
        });
    });
    group.bench_function(name_place, |bencher| {
        bencher.iter(|| {
            let at = requests.index();
            snapshot.locate(routes_taken[at], requests.all[at].client)
        });
    });
    group.bench_function(name_class, |bencher| {
        bencher.iter(|| {
            let at = requests.index();
            let (target, client) = (routes_taken[at].target, requests.all[at].client);
            black_box(snapshot.tables_for(target, Some(client), &places[at]));
        });
    });
    group.bench_function(name_draw, |bencher| {
        bencher.iter(|| {
            let at = requests.index();
            let (route, tables) = (routes_taken[at], &tables[at]);
            let state = &snapshot.routes[route.id.index()];
            let draw = state.sequence(tables.rule()).draw();
            fate(tables.tables(), route.when_all_down, draw)
        });
    });
    let pools: Vec<_> = tables
        .iter()
        .map(|tables| {
            let main = &tables.tables().main;
            (&snapshot.pools[main.entries()[0].pool.index()], main.basis)
        })
        .collect();
    group.bench_function(name_endpoint, |bencher| {
        bencher.iter(|| {
            let (pool, basis) = pools[requests.index()];
            let mut wish = Wish {
                hash: None,
                excluded: &[],
                random: &mut random,
                now: Tick::ZERO,
            };
            pool.pick(basis, &mut wish)
        });
    });
    group.finish();
}

/// Nanoseconds a time of every sample that was taken, or nothing if this run took none.
fn samples(folder: &Path, routes: usize, part: &str) -> Option<Figures> {
    let file = folder.join(format!("{routes} routes/{part}/new/sample.json"));
    let sample: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let numbers = |key: &str| -> Option<Vec<f64>> {
        let numbers = sample[key].as_array()?;
        numbers.iter().map(serde_json::Value::as_f64).collect()
    };
    let samples = numbers("times")?.into_iter().zip(numbers("iters")?);
    Some(samples.map(|(time, times)| time / times).collect())
}

fn main() {
    // The engine's loop runs here; with probes off it has nothing to do.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    let folder = report::folder().join("decision");
    let mut criterion = Criterion::default()
        .output_directory(&folder)
        .without_plots()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    for routes in SIZES {
        measure(&mut criterion, routes);
    }
    criterion.final_summary();
    let mut raw = Raw::create("decision.jsonl");
    let mut rows = Vec::new();
    for part in PARTS {
        let figures = SIZES.map(|routes| samples(&folder, routes, part));
        for (routes, figures) in SIZES.into_iter().zip(figures.iter().flatten()) {
            raw.write(&json!({ "routes": routes, "part": part, "median_ns": figures.median() }));
        }
        if let [Some(one), Some(hundred), Some(many)] = figures {
            rows.push([part.to_owned(), one.show(0), hundred.show(0), many.show(0)]);
        }
    }
    println!(
        "\n{}",
        report::table(["ns", "1 route", "100 routes", "10,000 routes"], &rows)
    );
}
