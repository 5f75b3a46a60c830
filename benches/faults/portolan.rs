//! Portolan itself, with what is its default wherever the task does not say otherwise.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::peers::{Cloud, Files, PROBE_LIMIT, Peer, Task, first_line};
use crate::process::Process;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portolan");

pub(crate) struct Portolan;

impl Peer for Portolan {
    fn name(&self) -> &'static str {
        "Portolan"
    }

    fn version(&self) -> Result<String, String> {
        first_line(Command::new(BINARY).arg("--version"))
    }

    fn files(&self, task: &Task, folder: &Path) -> Files {
        let head = head(task, folder, ([127, 0, 0, 1], 0).into());
        let text = match task.generation {
            Some(_) => format!("{head}  - to: all\n    {RETRY}\n    {}\n", generation(task)),
            None => format!("{head}  - to: all\n"),
        };
        vec![("portolan.yaml", text)]
    }

    fn command(&self, _: &Path) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["run", "--config", "portolan.yaml"]);
        command
    }

    /// It watches its file.
    fn reload(&self, _: &Process) {}
}

/// One try and three more, as with the others. Everything else is as it comes; where configurations
/// are not told apart, this is, too.
pub(crate) const RETRY: &str = "retry: { tries: 4, per_try: 500ms }";

/// The header that tells configurations apart.
pub(crate) fn generation(task: &Task) -> String {
    let number = task.generation.expect("configurations are told apart");
    format!("response_headers: {{ set: {{ x-generation: '{number}' }} }}")
}

/// A configuration, up to its first route.
pub(crate) fn head(task: &Task, folder: &Path, admin: SocketAddr) -> String {
    let listen = task.listen;
    let (every, timeout) = (
        task.probes.expect("endpoints are probed").as_millis(),
        PROBE_LIMIT.as_millis(),
    );
    let [a, b] = &task.clouds[..] else {
        panic!("it is about two clouds");
    };
    let protocol = if task.h2c { ", protocol: h2c" } else { "" };
    let pool = |cloud: &Cloud| {
        let endpoints = cloud.endpoints.iter().map(|at| format!("'{at}'"));
        let endpoints: Vec<String> = endpoints.collect();
        format!(
            "  {}: {{ endpoints: [ {} ]{protocol} }}\n",
            cloud.name,
            endpoints.join(", ")
        )
    };
    let all = match b.weight {
        0 => format!("tiers: [ {}, {} ]", a.name, b.name),
        _ => format!(
            "split: {{ {}: {}, {}: {} }}",
            a.name, a.weight, b.name, b.weight
        ),
    };
    format!(
        "listeners: [ {{ bind: '{listen}' }} ]\n\
         admin: {{ bind: '{admin}' }}\n\
         workers: 1\n\
         state_dir: {:?}\n\
         log: {{ level: warn }}\n\
         access_log: off\n\
         defaults:\n  \
           health: {{ http: /health, every: {every}ms, fast_every: 250ms, timeout: {timeout}ms, down_after: 2, up_after: 2 }}\n\
         pools:\n{}{}\
         services:\n  all: {{ {all} }}\n\
         routes:\n",
        folder.join("state"),
        pool(a),
        pool(b),
    )
}
