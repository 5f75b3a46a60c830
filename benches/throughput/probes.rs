//! What it costs to watch 2,000 endpoints.

use std::time::Duration;

use portolan_control::clock::Clock;
use serde_json::{Value, json};

use crate::contest::{LIMIT, Runs, start_endpoints, turns};
use crate::load::host;
use crate::peers::{self, Cloud, Peer, Serving, Task};
use crate::process::{Cores, Process};
use crate::{origin, report};

const ENDPOINTS: usize = 2_000;

/// How often each is probed: Portolan's default.
const EVERY: Duration = Duration::from_secs(5);

/// All have their first verdicts, and those who spread probes have spread them.
const SETTLE: Duration = Duration::from_secs(6);
const MEASURE: Duration = Duration::from_secs(10);

/// Every proxy that probes in turn, and a table.
pub(crate) async fn compare(peers: &[&'static dyn Peer], rounds: usize, cores: &Cores) -> String {
    let peers: Vec<&'static dyn Peer> = peers
        .iter()
        .copied()
        // These two do not.
        .filter(|peer| !["nginx", "bare pingora"].contains(&peer.name()))
        .collect();
    let names: Vec<&'static str> = peers.iter().map(|peer| peer.name()).collect();
    let mut runs = Runs::create("probes", &names);
    for round in 0..rounds {
        for at in turns(round, names.len()) {
            let mut line = measure(peers[at], cores).await;
            line["proxy"] = json!(names[at]);
            line["round"] = json!(round);
            runs.add(at, line);
        }
    }
    let rows: Vec<[String; 5]> = (0..names.len())
        .map(|at| {
            [
                names[at].to_owned(),
                runs.show(at, "per_second", 0),
                runs.show(at, "percent_of_a_core", 1),
                runs.show(at, "cpu_us", 0),
                runs.show(at, "rss_mib", 0),
            ]
        })
        .collect();
    report::table(
        [
            "proxy",
            "probes/s",
            "% of a core",
            "CPU µs/probe",
            "RSS MiB",
        ],
        &rows,
    )
}

async fn measure(peer: &'static dyn Peer, cores: &Cores) -> Value {
    let (endpoints, addresses) = start_endpoints(ENDPOINTS, cores);
    let pools = addresses.chunks_exact(2).enumerate();
    let clouds: Vec<Cloud> = pools
        .map(|(number, its)| Cloud {
            name: format!("p{number}"),
            endpoints: its.to_vec(),
            weight: 1,
        })
        .collect();
    let task = Task {
        listen: peers::free_address(),
        tls: None,
        hosts: (0..clouds.len()).map(|at| (host(at), at)).collect(),
        clouds,
        probes: Some(EVERY),
        limit: LIMIT,
        streams: false,
        generation: None,
        h2c: false,
    };
    let serving = Serving::start(peer, &task, cores.proxy()).await;
    tokio::time::sleep(SETTLE).await;
    let clock = Clock::start();
    let count = |_: &Process| origin::probed(addresses[0]) as f64;
    let before = (serving.process.cpu(), count(&endpoints));
    tokio::time::sleep(MEASURE).await;
    let cpu = serving.process.cpu() - before.0;
    let probes = count(&endpoints) - before.1;
    let seconds = clock.now().since_start().as_secs_f64();
    json!({
        "probes": probes,
        "per_second": probes / seconds,
        "percent_of_a_core": cpu / seconds * 100.0,
        "cpu_us": cpu * 1e6 / probes,
        "rss_mib": serving.process.memory(),
    })
}
