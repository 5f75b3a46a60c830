//! Portolan as somebody would run it: clients steered by where they are, a 70/30 split with a cloud
//! to fall back on, probes, metrics, and a line in the access log for every request.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::peers::{Cloud, Files, PROBE_LIMIT, Peer, Task, first_line};
use crate::process::Process;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_portolan");

pub(crate) struct Portolan {
    pub(crate) name: &'static str,
    pub(crate) access_log: bool,
}

/// With everything.
pub(crate) const WHOLE: Portolan = Portolan {
    name: "Portolan",
    access_log: true,
};

/// Without a log, like the others.
pub(crate) const UNLOGGED: Portolan = Portolan {
    name: "Portolan, no access log",
    access_log: false,
};

impl Peer for Portolan {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> Result<String, String> {
        first_line(Command::new(BINARY).arg("--version"))
    }

    fn files(&self, task: &Task, folder: &Path) -> Files {
        let mut text = self.head(task, folder);
        if !task.hosts.is_empty() {
            write_hosts(&mut text, task);
            return vec![("portolan.yaml", text)];
        }
        text.push_str("pools:\n");
        let regions = [
            ("aws", "eu-central-1"),
            ("azure", "westeurope"),
            ("gcp", "us-central1"),
        ];
        for (cloud, (provider, region)) in task.clouds.iter().zip(regions) {
            let Cloud {
                name, endpoints, ..
            } = cloud;
            let endpoints = quoted(endpoints);
            let _ = writeln!(
                text,
                "  {name}: {{ cloud: {provider}, region: {region}, endpoints: [ {endpoints} ] }}"
            );
        }
        let [a, b, last] = &task.clouds[..] else {
            panic!("it is about three clouds");
        };
        let split = |one: &Cloud, other: &Cloud| {
            let (heavy, light) = (a.weight, b.weight);
            let (one, other) = (&one.name, &other.name);
            format!("{{ split: {{ {one}: {heavy}, {other}: {light} }} }}")
        };
        let _ = write!(
            text,
            "services:\n  \
               api: {{ tiers: [ {everybody}, {last} ] }}\n\
             routes:\n  \
             - name: api\n    \
               path: /\n    \
               to:\n      \
                 geo:\n        \
                 - clients: {{ continents: [EU] }}\n          \
                   to: {{ tiers: [ {europeans}, {last} ] }}\n        \
                 - to: api\n",
            everybody = split(a, b),
            europeans = split(b, a),
            last = last.name,
        );
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

impl Portolan {
    /// What every configuration begins with.
    fn head(&self, task: &Task, folder: &Path) -> String {
        let listen = task.listen;
        let tls = task.tls.as_ref().map_or_else(String::new, |(at, folder)| {
            let file = |name: &str| folder.join(name);
            let (cert, key) = (file("cert.pem"), file("key.pem"));
            format!("  - bind: '{at}'\n    tls: {{ certificates: [ {{ cert: {cert:?}, key: {key:?} }} ] }}\n")
        });
        let log = match self.access_log {
            true => format!("{{ to: {:?} }}", folder.join("access.log")),
            false => "off".to_owned(),
        };
        let state = folder.join("state");
        let health = task.probes.map_or_else(
            || "off".to_owned(),
            |every| {
                let (every, limit) = (every.as_millis(), PROBE_LIMIT.as_millis());
                format!(
                    "{{ http: /health, every: {every}ms, timeout: {limit}ms, down_after: 2, up_after: 2 }}"
                )
            },
        );
        let generation = task.generation.map_or_else(String::new, |number| {
            format!("  response_headers: {{ set: {{ x-generation: '{number}' }} }}\n")
        });
        format!(
            "listeners:\n  - bind: '{listen}'\n{tls}\
             client_ip: {{ trusted: [ 127.0.0.0/8 ] }}\n\
             admin: {{ bind: '127.0.0.1:0' }}\n\
             workers: 1\n\
             state_dir: {state:?}\n\
             log: {{ level: warn }}\n\
             access_log: {log}\n\
             defaults:\n  health: {health}\n{generation}"
        )
    }
}

/// A route for every host, to a pool.
fn write_hosts(text: &mut String, task: &Task) {
    text.push_str("pools:\n");
    for cloud in &task.clouds {
        let endpoints = quoted(&cloud.endpoints);
        let _ = writeln!(text, "  {}: {{ endpoints: [ {endpoints} ] }}", cloud.name);
    }
    text.push_str("routes:\n");
    for (host, cloud) in &task.hosts {
        let _ = writeln!(
            text,
            "  - {{ host: {host}, to: {} }}",
            task.clouds[*cloud].name
        );
    }
    let _ = writeln!(text, "  - {{ to: {} }}", task.clouds[0].name);
}

/// Addresses as they stand in a list.
fn quoted(addresses: &[std::net::SocketAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|at| format!("'{at}'")).collect();
    quoted.join(", ")
}
