//! A hostile internet: what is malformed, ambiguous, endless or too much is refused, counted, and
//! never reaches an endpoint; everybody else is served meanwhile.

mod corpus;
mod frames;
mod h2_abuse;
mod limits;
mod proxy_protocol;
mod slow;

use crate::harness::Portolan;
use crate::harness::config::{PROBES, pool};
use crate::harness::recorder::Recorder;

/// A process with one listener of these settings in front of an endpoint that records.
async fn guarding(listener: &str, rest: &str) -> (Portolan, Recorder) {
    let recorder = Recorder::start().await;
    let config = [
        &format!("listeners: [ {{ bind: \"127.0.0.1:0\"{listener} }} ]\n"),
        rest,
        PROBES,
        "pools:\n",
        &pool("a", &[recorder.address], ""),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    (Portolan::start(&config).await, recorder)
}

/// Memory that a process holds, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}
