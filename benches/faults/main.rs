//! What a fault, a reload and an upgrade cost clients: Portolan beside HAProxy, nginx, Envoy and Caddy.
//!
//! Every proxy has one worker thread and a processor core of its own; the clients and the two clouds
//! share another one. Proxies take turns, each begun afresh. Without arguments everything is
//! measured, in an hour and a half; with names only that, and with a number so many rounds of each of
//! the first three; with names of proxies only those take turns:
//!
//! - `killed`, `stopped`, `unavailable`: a cloud fails under load ([`failover`]);
//! - `refused`, `silent`, `half-silent`: pools of all sizes, little and more to do ([`pools`]);
//! - `slow-delete`, `by-design`, `all-fail`: requests that are nobody's fault, or everybody's
//!   ([`requests`]);
//! - `slow-readers`, `goaway`, `cookie`: endpoints that speak HTTP/2 ([`streams`]);
//! - `reloads`, `changes`, `upgrades`.
//!
//! This program is also the clouds (`origin`) that it starts.

#![expect(clippy::print_stdout, reason = "what was measured is the output")]

#[path = "../peers/caddy.rs"]
mod caddy;
mod changes;
mod clouds;
mod failover;
mod load;
mod origin;
mod origin2;
#[path = "../peers.rs"]
mod peers;
mod pools;
mod portolan;
#[path = "../process.rs"]
mod process;
mod reloads;
#[path = "../report.rs"]
mod report;
mod requests;
mod streams;
mod upgrades;

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use clouds::Fault;
use peers::Peer;
use process::Cores;

const ROUNDS: usize = 3;

/// All of them, Portolan first.
const PEERS: [&dyn Peer; 5] = [
    &portolan::Portolan,
    &peers::haproxy::HaProxy,
    &peers::nginx::Nginx,
    &peers::envoy::Envoy,
    &caddy::Caddy,
];

/// Starts this program in another role.
fn role(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
    command.arg(name);
    command
}

/// Whatever this program began ends with it, also what was begun by those that have ended already.
struct Everybody;

impl Everybody {
    fn of_this_process() -> Self {
        nix::sys::prctl::set_child_subreaper(true).expect("this is Linux");
        Self
    }
}

impl Drop for Everybody {
    fn drop(&mut self) {
        for pid in process::family(std::process::id()).into_iter().skip(1) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

async fn drive(asked: &[&str]) {
    let rounds = asked.iter().find_map(|word| word.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let names: Vec<&str> = asked
        .iter()
        .copied()
        .filter(|word| word.parse::<usize>().is_err() && !word.starts_with('-'))
        .collect();
    let (proxies, names): (Vec<&str>, Vec<&str>) = names
        .into_iter()
        .partition(|name| PEERS.iter().any(|peer| peer.name() == *name));
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let cores = Cores::share_out();
    let mut peers = peers::present(&PEERS);
    peers.retain(|peer| proxies.is_empty() || proxies.contains(&peer.name()));
    let faults = [
        ("killed", Fault::Killed),
        ("stopped", Fault::Stopped),
        ("unavailable", Fault::Unavailable),
    ];
    // Caddy knows no weights.
    let weighing: Vec<&'static dyn Peer> = peers
        .iter()
        .copied()
        .filter(|peer| peer.name() != "Caddy")
        .collect();
    for (name, fault) in faults {
        if wanted(name) {
            let table = failover::compare(&weighing, fault, rounds, &cores).await;
            println!("### {name}, {rounds} rounds\n\n{table}");
        }
    }
    for case in pools::CASES {
        if wanted(case.name) {
            let table = pools::compare(&peers, case, &cores).await;
            println!("### {}\n\n{table}", case.name);
        }
    }
    for case in requests::Case::ALL {
        if wanted(case.0) {
            let table = requests::compare(&peers, case, &cores).await;
            println!("### {}\n\n{table}", case.0);
        }
    }
    // nginx speaks HTTP/2 to clients alone.
    let speaking: Vec<&'static dyn Peer> = peers
        .iter()
        .copied()
        .filter(|peer| peer.name() != "nginx")
        .collect();
    for case in streams::Case::ALL {
        if wanted(case.0) {
            let table = streams::compare(&speaking, case, &cores).await;
            println!("### {}\n\n{table}", case.0);
        }
    }
    if wanted("reloads") {
        let table = reloads::compare(&weighing, &cores).await;
        println!("### reloads\n\n{table}");
    }
    if wanted("changes") {
        println!("### changes\n\n{}", changes::measure(&cores).await);
    }
    if wanted("upgrades") {
        println!("### upgrades\n\n{}", upgrades::measure(&cores).await);
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
        ["origin", name, ref addresses @ ..] => {
            let addresses = addresses.iter().map(|at| at.parse().expect("an address"));
            runtime.block_on(origin::serve(name, addresses.collect()));
        }
        ["origin2", name, ref addresses @ ..] => {
            let addresses = addresses.iter().map(|at| at.parse().expect("an address"));
            runtime.block_on(origin2::serve(name, addresses.collect()));
        }
        // `cargo bench` ends the arguments with its own.
        [ref asked @ .., "--bench"] => {
            let _everybody = Everybody::of_this_process();
            runtime.block_on(async {
                let mut terminate = signal(SignalKind::terminate()).expect("a signal");
                tokio::select! {
                    () = drive(asked) => {}
                    _ = terminate.recv() => println!("ended early"),
                    _ = tokio::signal::ctrl_c() => println!("ended early"),
                }
            });
        }
        // `cargo test --benches`: what takes half an hour is no test.
        _ => println!("benches/run builds what this needs and runs it"),
    }
}
