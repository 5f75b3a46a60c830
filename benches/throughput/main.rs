//! Requests through Portolan beside the same requests through the least that a proxy on the same
//! engine can be (`proxy/examples/bare_round_robin.rs`).
//!
//! Every proxy has one worker thread and a processor core of its own; the endpoints and the clients
//! share another one. Rounds take turns: each proxy once, then each again, begun afresh every time,
//! so that whatever else the machine does meets all of them. Only ratios within one run mean
//! anything on another machine.
//!
//! This program is also the endpoints (`origin`) and the clients (`load`) that it starts.

#![expect(clippy::print_stdout, reason = "what was measured is the output")]

#[path = "../estate.rs"]
mod estate;
mod load;
mod origin;
#[path = "../process.rs"]
mod process;
mod proxies;
#[path = "../report.rs"]
mod report;

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use process::{Cores, Process};
use proxies::{PROXIES, Proxy};
use report::{Figures, Raw};

const ROUNDS: usize = 9;

/// Clients that send one request after another, each on a connection that it keeps.
const CONNECTIONS: usize = 64;

/// How long a proxy is warmed up, and how long it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(4);

/// Starts this program in another role.
fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.arg(name);
    command
}

/// One proxy, once.
async fn measure(proxy: &Proxy, round: usize, cores: &Cores) -> Value {
    let mut endpoints = Process::start(&mut role("origin"), cores.others());
    let addresses = [endpoints.line(), endpoints.line()];
    let (running, listen) = proxy.start(&addresses, cores.proxy()).await;
    let mut clients = Process::start(
        role("load").args([
            listen.to_string(),
            CONNECTIONS.to_string(),
            WARM_UP.as_millis().to_string(),
            MEASURE.as_millis().to_string(),
        ]),
        cores.others(),
    );
    clients.line();
    let before = [running.cpu(), endpoints.cpu(), clients.cpu()];
    let machine_before = process::busy();
    let said: Value = serde_json::from_str(&clients.line()).expect("the clients say what they saw");
    let after = [running.cpu(), endpoints.cpu(), clients.cpu()];
    let machine = process::busy() - machine_before;
    let [cpu, cpu_endpoints, cpu_clients] = std::array::from_fn(|at| after[at] - before[at]);

    let number = |key: &str| said[key].as_f64().expect("a number");
    let (requests, seconds) = (number("requests"), number("seconds"));
    assert!(requests > 0.0, "{}: no answers at all", proxy.name);
    json!({
        "proxy": proxy.name,
        "round": round,
        "requests": requests,
        "seconds": seconds,
        "per_second": requests / seconds,
        "cpu_us": cpu * 1e6 / requests,
        "core_busy": cpu / seconds,
        "p50_ms": number("p50_ms"),
        "p99_ms": number("p99_ms"),
        "rss_mib": running.memory(),
        // What neither the proxy nor its clients and endpoints did.
        "foreign_cores": (machine - cpu - cpu_endpoints - cpu_clients).max(0.0) / seconds,
    })
}

async fn drive() {
    let cores = Cores::share_out();
    let mut raw = Raw::create("throughput.jsonl");
    let mut runs: Vec<Vec<Value>> = vec![Vec::new(); PROXIES.len()];
    for round in 0..ROUNDS {
        // Each round begins with another one: nobody is always the first, or after the same.
        for turn in 0..PROXIES.len() {
            let at = (round + turn) % PROXIES.len();
            let line = measure(&PROXIES[at], round, &cores).await;
            raw.write(&line);
            runs[at].push(line);
        }
    }
    let values = |at: usize, key: &str| -> Vec<f64> {
        let values = runs[at].iter().map(|line| line[key].as_f64());
        values.map(|value| value.expect("a number")).collect()
    };
    let figures = |at: usize, key: &str| -> Figures { values(at, key).into_iter().collect() };
    // Compared with the bare proxy of the same round.
    let ratio = |at: usize, key: &str| -> Figures {
        let pairs = values(at, key).into_iter().zip(values(0, key));
        pairs.map(|(this, bare)| this / bare).collect()
    };
    let rows: Vec<[String; 9]> = PROXIES
        .iter()
        .enumerate()
        .map(|(at, proxy)| {
            [
                proxy.name.to_owned(),
                figures(at, "cpu_us").show(1),
                ratio(at, "cpu_us").show(2),
                figures(at, "per_second").show(0),
                ratio(at, "per_second").show(2),
                figures(at, "core_busy").show(2),
                figures(at, "p50_ms").show(2),
                figures(at, "p99_ms").show(2),
                figures(at, "rss_mib").show(0),
            ]
        })
        .collect();
    println!(
        "{}",
        report::table(
            [
                "proxy",
                "CPU µs/request",
                "× bare",
                "requests/s",
                "× bare",
                "core busy",
                "p50 ms",
                "p99 ms",
                "RSS MiB",
            ],
            &rows
        )
    );
    let foreign: Figures = (0..PROXIES.len())
        .flat_map(|at| values(at, "foreign_cores"))
        .collect();
    println!("foreign load, cores: {}", foreign.show(2));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["origin"] => runtime.block_on(origin::serve()),
        ["load", listen, connections, warm_up, measure] => {
            let number = |text: &str| text.parse::<u64>().expect("a number");
            runtime.block_on(load::run(
                listen.parse().expect("an address"),
                number(connections),
                Duration::from_millis(number(warm_up)),
                Duration::from_millis(number(measure)),
            ));
        }
        ["--bench", ..] => runtime.block_on(drive()),
        // `cargo test --benches`: the bare proxy need not have been built.
        _ => println!("benches/run builds what this needs and runs it"),
    }
}
