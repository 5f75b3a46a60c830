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
mod h2;
mod idle;
mod load;
mod origin;
#[path = "../peers.rs"]
mod peers;
mod portolan;
mod probes;
#[path = "../process.rs"]
mod process;
mod rate;
#[path = "../report.rs"]
mod report;
mod routes;
mod tls;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use contest::Contest;
use load::{Kind, Plan};
use peers::Peer;
use process::Cores;
use rustix::process::{Resource, getrlimit, setrlimit};

const ROUNDS: usize = 5;

/// Rounds of what hardly differs from one to the next.
const FEW: usize = 2;

/// All of them, Portolan first.
const PEERS: [&dyn Peer; 6] = [
    &portolan::WHOLE,
    &portolan::UNLOGGED,
    &peers::haproxy::HaProxy,
    &peers::nginx::Nginx,
    &peers::envoy::Envoy,
    &bare::Bare,
];

const fn contest(
    name: &'static str,
    about: &'static str,
    kind: Kind,
    connections: usize,
    tls: bool,
) -> Contest {
    Contest {
        name,
        about,
        kind,
        connections,
        tls,
    }
}

const CONTESTS: [Contest; 7] = [
    contest(
        "h1",
        "HTTP/1.1, 64 connections kept, 1 KiB",
        Kind::Small,
        64,
        false,
    ),
    contest("tls", "the same over TLS 1.3", Kind::Small, 64, true),
    contest(
        "handshakes",
        "a connection and a full TLS 1.3 handshake for every request",
        Kind::Handshakes,
        32,
        true,
    ),
    contest(
        "resumed",
        "the same, going on with the session before",
        Kind::Resumed,
        32,
        true,
    ),
    contest(
        "h2",
        "HTTP/2 over TLS, 16 connections with 10 requests at once, 1 KiB",
        Kind::H2,
        16,
        true,
    ),
    contest(
        "down",
        "HTTP/1.1, 8 connections, answers of 1 MiB",
        Kind::Down,
        8,
        false,
    ),
    contest(
        "up",
        "HTTP/1.1, 8 connections, requests of 1 MiB",
        Kind::Up,
        8,
        false,
    ),
];

/// The others: names, and what they are about.
const OTHERS: [(&str, &str); 5] = [
    ("rate", "4,000 requests/s at fixed times"),
    (
        "routes",
        "1 route and 1 pool, 10,000 routes and 2,000 pools",
    ),
    ("probes", "2,000 endpoints, each probed every 5 s"),
    ("idle", "10,000 connections that were used once"),
    ("slow", "5,000 connections that send a byte a second"),
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
    let contests = CONTESTS.iter().map(|contest| contest.name);
    let known: Vec<&str> = contests.chain(OTHERS.map(|(name, _)| name)).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        println!("no scenario {unknown}; there are {}", known.join(", "));
        return;
    }
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    as_many_files_as_possible();
    let cores = Cores::share_out();
    let all = peers::present(&PEERS);
    let unlogged = portolan::UNLOGGED.name();
    // One Portolan is enough for most.
    let peers: Vec<&'static dyn Peer> = all
        .iter()
        .copied()
        .filter(|peer| peer.name() != unlogged)
        .collect();
    for contest in CONTESTS {
        if wanted(contest.name) {
            let peers = if contest.name == "h1" { &all } else { &peers };
            let table = contest.compare(peers, rounds, &cores).await;
            print_table(contest.name, contest.about, rounds, &table);
        }
    }
    for (name, about) in OTHERS {
        if wanted(name) {
            let few = rounds.min(FEW);
            let (rounds, table) = match name {
                "rate" => (rounds, rate::compare(&peers, rounds, &cores).await),
                "routes" => (rounds, routes::compare(&peers, rounds, &cores).await),
                "probes" => (few, probes::compare(&peers, few, &cores).await),
                "idle" => (few, idle::compare_held(&peers, few, &cores).await),
                _ => (few, idle::compare_slow(&peers, few, &cores).await),
            };
            print_table(name, about, rounds, &table);
        }
    }
}

fn print_table(name: &str, about: &str, rounds: usize, table: &str) {
    println!("### {name}: {about}; rounds: {rounds}\n\n{table}");
}

/// For this process, and all that it starts.
fn as_many_files_as_possible() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("what is allowed may be asked for");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let number = |text: &str| -> usize { text.parse().expect("a number") };
    let span = |text: &str| Duration::from_millis(number(text) as u64);
    let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    match arguments[..] {
        ["origin", count] => runtime.block_on(origin::serve(number(count))),
        [
            "load",
            kind,
            first,
            end,
            to,
            tls,
            connections,
            warm_up,
            measure,
        ] => {
            runtime.block_on(load::run(Plan {
                kind: Kind::of_name(kind),
                hosts: number(first)..number(end),
                to: address(to),
                tls: tls == "true",
                connections: number(connections),
                warm_up: span(warm_up),
                measure: span(measure),
            }));
        }
        ["rate", to, per_second, warm_up, measure] => {
            let per_second = number(per_second) as u32;
            rate::run(address(to), per_second, span(warm_up), span(measure));
        }
        ["hold", to, count, tls] => {
            runtime.block_on(idle::hold(address(to), number(count), tls == "true"));
        }
        ["drip", to, count, _] => runtime.block_on(idle::drip(address(to), number(count))),
        // `cargo bench` ends the arguments with its own.
        [ref asked @ .., "--bench"] => runtime.block_on(drive(asked)),
        // `cargo test --benches`: what takes half an hour is no test.
        _ => println!("benches/run builds what this needs and runs it"),
    }
}
