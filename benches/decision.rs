//! What a decision costs: from a request's head and a client's address to an endpoint.
//!
//! The whole of it, and each of its parts alone, with 1, 100 and 10,000 routes. The snapshot is one
//! that the engine published, and what is called is what the data plane calls. Requests are prepared
//! beforehand and drawn at random, so that the processor's caches see as many hosts, services and
//! networks as they would.

#![expect(clippy::print_stdout, reason = "what was measured is the output")]

mod deciding;
mod estate;
mod report;

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use portolan_config::plan::normal_host;
use portolan_control::clock::Tick;
use portolan_control::decision::decide::look_up;
use portolan_control::pool::balance::Criteria;
use portolan_control::snapshot::Snapshot;
use serde_json::json;

use deciding::{REQUESTS, Requests, publish, whole};
use report::{Figures, Raw};

/// How many routes there are.
const SIZES: [usize; 3] = [1, 100, 10_000];

const PARTS: [&str; 6] = [
    "the whole decision",
    "route match",
    "client's place",
    "client's class",
    "draw",
    "endpoint",
];

fn measure(criterion: &mut Criterion, routes: usize) {
    let published = publish(routes);
    let requests = Requests::new(routes);
    let next = Cell::new(0);
    let index = || {
        next.set((next.get() + 1) % REQUESTS);
        next.get()
    };
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
            let at = index();
            whole(&published, &requests, &requests.all[at], &mut random)
        });
    });
    group.bench_function(name_route, |bencher| {
        bencher.iter(|| {
            let at = index();
            let head = requests.head(&requests.all[at], &hosts[at]);
            snapshot.route(&head).map(|route| route.id)
        });
    });
    group.bench_function(name_place, |bencher| {
        bencher.iter(|| {
            let at = index();
            snapshot.locate(routes_taken[at], requests.all[at].client)
        });
    });
    group.bench_function(name_class, |bencher| {
        bencher.iter(|| {
            let at = index();
            let (target, client) = (routes_taken[at].target, requests.all[at].client);
            black_box(snapshot.tables_for(target, Some(client), &places[at]));
        });
    });
    group.bench_function(name_draw, |bencher| {
        bencher.iter(|| {
            let at = index();
            let (route, tables) = (routes_taken[at], &tables[at]);
            let state = &snapshot.routes[route.id.index()];
            let draw = state.sequence(tables.rule()).draw();
            look_up(tables.tables(), route.when_all_down, draw)
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
            let (pool, basis) = pools[index()];
            let mut wish = Criteria {
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
