//! What a request costs: Portolan beside HAProxy, nginx, Envoy, and the least that a proxy on the
//! same engine can be.
//!
//! Every proxy has one worker thread and a processor core of its own; the endpoints and the clients
//! share another one. Rounds take turns: each proxy once, then each again, begun afresh every time,
//! so that whatever else the machine does meets all of them. Only ratios within one run mean
//! anything on another machine.
//!
//! ```text
//! cargo bench --bench throughput -- [SCENARIO...] [ROUNDS]
//! ```
//!
//! This program is also the endpoints (`origin`) and the clients (`load`) that it starts.

#![expect(clippy::print_stdout, reason = "what was measured is the output")]

mod bare;
mod certificate;
mod contest;
mod load;
mod origin;
#[path = "../peers.rs"]
mod peers;
mod portolan;
#[path = "../process.rs"]
mod process;
#[path = "../report.rs"]
mod report;

use std::process::Command;
use std::time::Duration;

use contest::Contest;
use load::{Kind, Plan};
use peers::Peer;
use process::Cores;

const ROUNDS: usize = 5;

/// All of them, Portolan first.
const PEERS: [&dyn Peer; 6] = [
    &portolan::WHOLE,
    &portolan::UNLOGGED,
    &peers::haproxy::HaProxy,
    &peers::nginx::Nginx,
    &peers::envoy::Envoy,
    &bare::Bare,
];

const CONTESTS: [Contest; 3] = [
    Contest {
        name: "h1",
        about: "HTTP/1.1, connections kept, 1 KiB",
        kind: Kind::Small,
        connections: 64,
        tls: false,
    },
    Contest {
        name: "down",
        about: "HTTP/1.1, answers of 1 MiB",
        kind: Kind::Down,
        connections: 8,
        tls: false,
    },
    Contest {
        name: "up",
        about: "HTTP/1.1, requests of 1 MiB",
        kind: Kind::Up,
        connections: 8,
        tls: false,
    },
];

/// Starts this program in another role.
fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.arg(name);
    command
}

async fn drive(asked: &[&str]) {
    let rounds = asked.iter().find_map(|word| word.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let names: Vec<&str> = asked
        .iter()
        .copied()
        .filter(|word| word.parse::<usize>().is_err())
        .collect();
    let known: Vec<&str> = CONTESTS.iter().map(|contest| contest.name).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        println!("no scenario {unknown}; there are {}", known.join(", "));
        return;
    }
    let cores = Cores::share_out();
    let peers = peers::present(&PEERS);
    for contest in CONTESTS {
        if names.is_empty() || names.contains(&contest.name) {
            let table = contest.compare(&peers, rounds, &cores).await;
            let Contest { name, about, .. } = contest;
            println!("### {name}: {about}; rounds: {rounds}\n\n{table}");
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match arguments[..] {
        ["origin", count] => runtime.block_on(origin::serve(count.parse().expect("a number"))),
        ["load", kind, to, connections, warm_up, measure] => {
            let span = |text: &str| Duration::from_millis(text.parse().expect("a number"));
            runtime.block_on(load::run(Plan {
                kind: Kind::of_name(kind),
                to: to.parse().expect("an address"),
                connections: connections.parse().expect("a number"),
                warm_up: span(warm_up),
                measure: span(measure),
            }));
        }
        // `cargo bench` ends the arguments with its own.
        [ref asked @ .., "--bench"] => runtime.block_on(drive(asked)),
        // `cargo test --benches`: what takes half an hour is no test.
        _ => println!("benches/run builds what this needs and runs it"),
    }
}
