//! One kind of load on every proxy in turn, and what it cost each of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Kind;
use crate::peers::{self, Cloud, Peer, Serving, Task};
use crate::process::{self, Cores, Process};
use crate::report::{self, Figures, Raw};
use crate::role;

/// How long a proxy is warmed up, and how long it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(3);

/// Probes give their first verdicts.
const SETTLE: Duration = Duration::from_millis(300);

/// The clouds, each with two endpoints: names and shares. The last one is to fall back on.
const CLOUDS: [(&str, u32); 3] = [("aws", 70), ("azure", 30), ("gcp", 0)];

/// Whom the others are compared with.
const REFERENCES: [&str; 3] = ["HAProxy", "nginx", "bare pingora"];

/// A load that many clients make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contest {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    pub(crate) tls: bool,
}

/// Endpoints that run.
pub(crate) struct Endpoints {
    pub(crate) process: Process,
    pub(crate) clouds: Vec<Cloud>,
}

impl Endpoints {
    pub(crate) fn start(cores: &Cores) -> Self {
        let mut command = role("origin");
        command.arg((CLOUDS.len() * 2).to_string());
        let mut process = Process::start(&mut command, cores.others());
        let mut address = || -> SocketAddr { process.line().parse().expect("an address") };
        let clouds = CLOUDS.map(|(name, weight)| Cloud {
            name,
            endpoints: [address(), address()],
            weight,
        });
        Self {
            clouds: clouds.into(),
            process,
        }
    }
}

/// What every proxy is to do with these endpoints.
pub(crate) fn task(endpoints: &Endpoints, tls: Option<PathBuf>, streams: bool) -> Task {
    Task {
        listen: peers::free_address(),
        tls: tls.map(|folder| (peers::free_address(), folder)),
        clouds: endpoints.clouds.clone(),
        limit: Duration::from_secs(30),
        streams,
        generation: None,
    }
}

impl Contest {
    /// One proxy, once.
    async fn measure(&self, peer: &'static dyn Peer, round: usize, cores: &Cores) -> Value {
        let endpoints = Endpoints::start(cores);
        let tls = self.tls.then(crate::certificate::folder);
        let streams = matches!(self.kind, Kind::Down | Kind::Up);
        let task = task(&endpoints, tls, streams);
        let serving = Serving::start(peer, &task, cores.proxy()).await;
        tokio::time::sleep(SETTLE).await;
        let to = match &task.tls {
            Some((at, _)) => *at,
            None => task.listen,
        };
        let mut clients = Process::start(
            role("load").args([
                self.kind.name().to_owned(),
                to.to_string(),
                self.connections.to_string(),
                WARM_UP.as_millis().to_string(),
                MEASURE.as_millis().to_string(),
            ]),
            cores.others(),
        );
        clients.line();
        let proxy = &serving.process;
        let before = [proxy.cpu(), endpoints.process.cpu(), clients.cpu()];
        let machine_before = process::busy();
        let mut line: Value =
            serde_json::from_str(&clients.line()).expect("the clients say what they saw");
        let after = [proxy.cpu(), endpoints.process.cpu(), clients.cpu()];
        let machine = process::busy() - machine_before;
        let [cpu, cpu_endpoints, cpu_clients] = std::array::from_fn(|at| after[at] - before[at]);

        let number = |key: &str| line[key].as_f64().expect("a number");
        let (requests, seconds) = (number("requests"), number("seconds"));
        assert!(requests > 0.0, "{}: no answers at all", peer.name());
        line["scenario"] = json!(self.name);
        line["proxy"] = json!(peer.name());
        line["round"] = json!(round);
        line["per_second"] = json!(requests / seconds);
        line["cpu_us"] = json!(cpu * 1e6 / requests);
        line["core_busy"] = json!(cpu / seconds);
        line["load_busy"] = json!((cpu_endpoints + cpu_clients) / seconds);
        line["rss_mib"] = json!(proxy.memory());
        // What neither the proxy nor its clients and endpoints did.
        let foreign = (machine - cpu - cpu_endpoints - cpu_clients).max(0.0);
        line["foreign_cores"] = json!(foreign / seconds);
        line
    }

    /// Every proxy in turn, and a table.
    pub(crate) async fn compare(
        &self,
        peers: &[&'static dyn Peer],
        rounds: usize,
        cores: &Cores,
    ) -> String {
        let mut runs = Runs::create(self.name, peers);
        for round in 0..rounds {
            for at in turns(round, peers.len()) {
                let line = self.measure(peers[at], round, cores).await;
                runs.add(at, line);
            }
        }
        let rows: Vec<[String; 12]> = (0..peers.len())
            .map(|at| {
                let [haproxy, nginx, bare] = REFERENCES.map(|to| runs.ratio(at, to, "cpu_us"));
                [
                    peers[at].name().to_owned(),
                    runs.show(at, "cpu_us", 1),
                    haproxy,
                    nginx,
                    bare,
                    runs.show(at, "per_second", 0),
                    runs.show(at, "core_busy", 2),
                    runs.show(at, "load_busy", 2),
                    runs.show(at, "p50_ms", 2),
                    runs.show(at, "p99_ms", 2),
                    runs.show(at, "p999_ms", 2),
                    runs.show(at, "rss_mib", 0),
                ]
            })
            .collect();
        let table = report::table(
            [
                "proxy",
                "CPU µs/request",
                "× HAProxy",
                "× nginx",
                "× bare",
                "requests/s",
                "core busy",
                "load busy",
                "p50 ms",
                "p99 ms",
                "p99.9 ms",
                "RSS MiB",
            ],
            &rows,
        );
        let foreign = runs.all("foreign_cores").show(2);
        format!("{table}\nForeign load, cores: {foreign}\n")
    }
}

/// Each round begins with another one: nobody is always the first, or after the same.
pub(crate) fn turns(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (round + turn) % count)
}

/// What was measured of every proxy, round by round.
pub(crate) struct Runs {
    raw: Raw,
    names: Vec<&'static str>,
    lines: Vec<Vec<Value>>,
}

impl Runs {
    pub(crate) fn create(scenario: &str, peers: &[&'static dyn Peer]) -> Self {
        Self {
            raw: Raw::create(&format!("throughput-{scenario}.jsonl")),
            names: peers.iter().map(|peer| peer.name()).collect(),
            lines: vec![Vec::new(); peers.len()],
        }
    }

    pub(crate) fn add(&mut self, at: usize, line: Value) {
        self.raw.write(&line);
        self.lines[at].push(line);
    }

    fn values(&self, at: usize, key: &str) -> Vec<f64> {
        let values = self.lines[at].iter().map(|line| line[key].as_f64());
        values.map(|value| value.expect("a number")).collect()
    }

    pub(crate) fn show(&self, at: usize, key: &str, decimals: usize) -> String {
        let figures: Figures = self.values(at, key).into_iter().collect();
        figures.show(decimals)
    }

    /// Compared with another proxy in the same round, if that one is there.
    pub(crate) fn ratio(&self, at: usize, to: &str, key: &str) -> String {
        let Some(to) = self.names.iter().position(|name| *name == to) else {
            return "–".to_owned();
        };
        let pairs = self.values(at, key).into_iter().zip(self.values(to, key));
        let ratios: Figures = pairs.map(|(this, other)| this / other).collect();
        ratios.show(2)
    }

    /// Over all proxies.
    pub(crate) fn all(&self, key: &str) -> Figures {
        let each = (0..self.lines.len()).flat_map(|at| self.values(at, key));
        each.collect()
    }
}
