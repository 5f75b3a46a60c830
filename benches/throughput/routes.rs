//! One route and one pool, and 10,000 routes and 2,000 pools: how soon they serve, how soon a change
//! is in effect, what they need, and whether requests notice.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use portolan_control::clock::Clock;
use serde_json::{Value, json};

use crate::contest::{Endpoints, LIMIT, Runs, SETTLE, observe, turns};
use crate::load::{Kind, Plan, host};
use crate::peers::{self, Cloud, Peer, Serving, Task};
use crate::process::Cores;
use crate::report;

const ROUTES: usize = 10_000;
const POOLS: usize = 2_000;

const WARM_UP: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(2);

/// How long a change may take to be in effect.
const PATIENCE: Duration = Duration::from_secs(120);

/// So often a client looks whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Every proxy in turn, and a table.
pub(crate) async fn compare(peers: &[&'static dyn Peer], rounds: usize, cores: &Cores) -> String {
    let peers: Vec<&'static dyn Peer> = peers
        .iter()
        .copied()
        // It has no routes.
        .filter(|peer| peer.name() != "bare pingora")
        .collect();
    let names: Vec<&'static str> = peers.iter().map(|peer| peer.name()).collect();
    let mut runs = Runs::create("routes", &names);
    for round in 0..rounds {
        for at in turns(round, names.len()) {
            let mut line = measure(peers[at], cores).await;
            line["proxy"] = json!(names[at]);
            line["round"] = json!(round);
            runs.add(at, line);
        }
    }
    let rows: Vec<[String; 11]> = (0..names.len())
        .map(|at| {
            let many = |key: &str| runs.quotient(at, key, "one_per_second").show(2);
            [
                names[at].to_owned(),
                runs.show(at, "start_s", 3),
                runs.show(at, "change_ms", 0),
                runs.show(at, "change_cpu_ms", 0),
                runs.show(at, "one_rss_mib", 0),
                runs.show(at, "rss_mib", 0),
                runs.show(at, "rss_changed_mib", 0),
                runs.show(at, "one_per_second", 0),
                many("per_second_last"),
                many("per_second_all"),
                runs.show(at, "cpu_us_all", 1),
            ]
        })
        .collect();
    report::table(
        [
            "proxy",
            "serves after, s",
            "change in effect after, ms",
            "CPU of it, ms",
            "RSS with 1 route, MiB",
            "with 10,000, MiB",
            "after the change, MiB",
            "requests/s with 1 route",
            "× with 10,000, for one host",
            "for all hosts",
            "CPU µs/request",
        ],
        &rows,
    )
}

/// So many hosts over so many pools.
fn task(endpoints: &Endpoints, routes: usize, pools: usize) -> Task {
    let given = &endpoints.clouds;
    let pool = |number: usize| Cloud {
        name: format!("p{number}"),
        endpoints: given[number % given.len()].endpoints.clone(),
        weight: 1,
    };
    Task {
        listen: peers::free_address(),
        tls: None,
        clouds: (0..pools).map(pool).collect(),
        hosts: (0..routes).map(|at| (host(at), at % pools)).collect(),
        probes: None,
        limit: LIMIT,
        streams: false,
        generation: Some(1),
        h2c: false,
    }
}

async fn measure(peer: &'static dyn Peer, cores: &Cores) -> Value {
    let endpoints = Endpoints::start(cores);
    let plan = |task: &Task, hosts: Range<usize>| Plan {
        kind: Kind::Small,
        hosts,
        to: task.listen,
        tls: false,
        connections: 64,
        warm_up: WARM_UP,
        measure: MEASURE,
    };
    let one = {
        let task = task(&endpoints, 1, 1);
        let serving = Serving::start(peer, &task, cores.proxy()).await;
        tokio::time::sleep(SETTLE).await;
        let plan = plan(&task, 0..1);
        observe(&plan, &serving.process, &endpoints.process, cores)
    };
    let mut task = task(&endpoints, ROUTES, POOLS);
    let clock = Clock::start();
    let serving = Serving::start(peer, &task, cores.proxy()).await;
    let start = clock.now().since_start();
    tokio::time::sleep(SETTLE).await;
    let rss = serving.process.memory();

    task.generation = Some(2);
    let change = serving.prepare(serving.files(&task));
    let cpu = serving.process.cpu();
    let changing = clock.now();
    change.apply();
    while answered_by(task.listen) != Some(2) {
        let waited = clock.now().since(changing);
        assert!(waited < PATIENCE, "{}: no change", peer.name());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let changed = clock.now().since(changing);
    // What it still does about it.
    tokio::time::sleep(SETTLE).await;
    let change_cpu = serving.process.cpu() - cpu;
    let rss_changed = serving.process.memory();

    let last = plan(&task, ROUTES - 1..ROUTES);
    let last = observe(&last, &serving.process, &endpoints.process, cores);
    let all = plan(&task, 0..ROUTES);
    let all = observe(&all, &serving.process, &endpoints.process, cores);
    json!({
        "one_per_second": one["per_second"],
        "one_cpu_us": one["cpu_us"],
        "one_rss_mib": one["rss_mib"],
        "start_s": start.as_secs_f64(),
        "rss_mib": rss,
        "change_ms": changed.as_secs_f64() * 1e3,
        "change_cpu_ms": change_cpu * 1e3,
        "rss_changed_mib": rss_changed,
        "per_second_last": last["per_second"],
        "cpu_us_last": last["cpu_us"],
        "per_second_all": all["per_second"],
        "cpu_us_all": all["cpu_us"],
    })
}

/// The generation of the configuration that answers now, if anybody does.
fn answered_by(listen: SocketAddr) -> Option<u32> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(listen)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let host = host(ROUTES - 1);
        write!(
            stream,
            "GET /v1/now HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().ok()?.to_ascii_lowercase();
    let (_, after) = answer.split_once("x-generation: ")?;
    after.lines().next()?.trim().parse().ok()
}
