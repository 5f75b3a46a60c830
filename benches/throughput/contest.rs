//! One kind of load on every proxy in turn, and what it cost each of them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::certificate;
use crate::load::{Kind, Plan};
use crate::peers::{self, Cloud, Peer, Serving, Task};
use crate::process::{self, Cores, Process};
use crate::report::{self, Figures, Raw};
use crate::role;

/// How long a proxy is warmed up, and how long it is measured.
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(3);

/// Probes give their first verdicts.
pub(crate) const SETTLE: Duration = Duration::from_millis(300);

/// The clouds, each with two endpoints: names and shares. The last one is to fall back on.
const CLOUDS: [(&str, u32); 3] = [("aws", 70), ("azure", 30), ("gcp", 0)];

/// How often endpoints are probed, by those who do.
pub(crate) const PROBE_EVERY: Duration = Duration::from_secs(1);

/// How long an endpoint may be silent: long enough for whatever happens here.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

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
        let (process, addresses) = start_endpoints(CLOUDS.len() * 2, cores);
        let clouds = CLOUDS.iter().zip(addresses.chunks_exact(2));
        let clouds = clouds.map(|((name, weight), its)| Cloud {
            name: (*name).to_owned(),
            endpoints: its.to_vec(),
            weight: *weight,
        });
        Self {
            clouds: clouds.collect(),
            process,
        }
    }
}

/// So many endpoints, in one process.
pub(crate) fn start_endpoints(count: usize, cores: &Cores) -> (Process, Vec<SocketAddr>) {
    let mut process = Process::start(role("origin").arg(count.to_string()), cores.others());
    let addresses = (0..count).map(|_| process.line().parse().expect("an address"));
    let addresses = addresses.collect();
    (process, addresses)
}

/// What every proxy is to do with these endpoints.
pub(crate) fn task(endpoints: &Endpoints, tls: bool, streams: bool) -> Task {
    Task {
        listen: peers::free_address(),
        tls: tls.then(|| (peers::free_address(), certificate::folder())),
        clouds: endpoints.clouds.clone(),
        hosts: Vec::new(),
        probes: Some(PROBE_EVERY),
        limit: LIMIT,
        streams,
        generation: None,
        h2c: false,
    }
}

/// Where clients go.
pub(crate) fn front(task: &Task) -> SocketAddr {
    task.tls.as_ref().map_or(task.listen, |(at, _)| *at)
}

/// Clients that do as they are told. They say `measuring` when they are warm, and what they saw when
/// they are done.
pub(crate) fn start_load(plan: &Plan, cores: &Cores) -> Process {
    Process::start(
        role("load").args([
            plan.kind.name().to_owned(),
            plan.hosts.start.to_string(),
            plan.hosts.end.to_string(),
            plan.to.to_string(),
            plan.tls.to_string(),
            plan.connections.to_string(),
            plan.warm_up.as_millis().to_string(),
            plan.measure.as_millis().to_string(),
        ]),
        cores.others(),
    )
}

/// What clients saw, and what their requests cost.
pub(crate) fn observe(plan: &Plan, proxy: &Process, endpoints: &Process, cores: &Cores) -> Value {
    let mut clients = start_load(plan, cores);
    clients.line();
    let before = [proxy.cpu(), endpoints.cpu(), clients.cpu()];
    let machine_before = process::busy();
    let said = clients.line();
    let mut line: Value = serde_json::from_str(&said).expect("the clients say what they saw");
    let after = [proxy.cpu(), endpoints.cpu(), clients.cpu()];
    let machine = process::busy() - machine_before;
    let [cpu, cpu_endpoints, cpu_clients] = std::array::from_fn(|at| after[at] - before[at]);

    let number = |key: &str| line[key].as_f64().expect("a number");
    let (requests, seconds) = (number("requests"), number("seconds"));
    assert!(requests > 0.0, "no answers at all");
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

impl Contest {
    /// One proxy, once.
    async fn measure(&self, peer: &'static dyn Peer, cores: &Cores) -> Value {
        let endpoints = Endpoints::start(cores);
        let streams = matches!(self.kind, Kind::Down | Kind::Up);
        let task = task(&endpoints, self.tls, streams);
        let serving = Serving::start(peer, &task, cores.proxy()).await;
        tokio::time::sleep(SETTLE).await;
        let plan = Plan {
            kind: self.kind,
            hosts: 0..0,
            to: front(&task),
            tls: self.tls,
            connections: self.connections,
            warm_up: WARM_UP,
            measure: MEASURE,
        };
        observe(&plan, &serving.process, &endpoints.process, cores)
    }

    /// Every proxy in turn, and a table.
    pub(crate) async fn compare(
        &self,
        peers: &[&'static dyn Peer],
        rounds: usize,
        cores: &Cores,
    ) -> String {
        let names: Vec<&'static str> = peers.iter().map(|peer| peer.name()).collect();
        let mut runs = Runs::create(self.name, &names);
        for round in 0..rounds {
            for at in turns(round, peers.len()) {
                let mut line = self.measure(peers[at], cores).await;
                line["proxy"] = json!(names[at]);
                line["round"] = json!(round);
                runs.add(at, line);
            }
        }
        let rows: Vec<[String; 12]> = (0..names.len())
            .map(|at| {
                let [haproxy, nginx, bare] = REFERENCES.map(|to| runs.ratio(at, to, "cpu_us"));
                [
                    names[at].to_owned(),
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
        let mut text = format!("{table}\nForeign load, cores: {foreign}\n");
        if self.kind == Kind::Resumed {
            text.push_str("Sessions gone on with, of all connections:");
            for (at, name) in names.iter().enumerate() {
                let share = runs.quotient(at, "resumed", "requests").show(3);
                let _ = write!(text, " {name} {share};");
            }
            text.push('\n');
        }
        text
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
    pub(crate) fn create(scenario: &str, names: &[&'static str]) -> Self {
        Self {
            raw: Raw::create(&format!("throughput-{scenario}.jsonl")),
            names: names.to_vec(),
            lines: vec![Vec::new(); names.len()],
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
    fn compared(
        &self,
        at: usize,
        to: &str,
        key: &str,
        decimals: usize,
        compare: fn(f64, f64) -> f64,
    ) -> String {
        let Some(to) = self.names.iter().position(|name| *name == to) else {
            return "–".to_owned();
        };
        let pairs = self.values(at, key).into_iter().zip(self.values(to, key));
        let compared: Figures = pairs.map(|(this, other)| compare(this, other)).collect();
        compared.show(decimals)
    }

    pub(crate) fn ratio(&self, at: usize, to: &str, key: &str) -> String {
        self.compared(at, to, key, 2, |this, other| this / other)
    }

    pub(crate) fn added(&self, at: usize, to: &str, key: &str, decimals: usize) -> String {
        self.compared(at, to, key, decimals, |this, other| this - other)
    }

    /// One figure of a proxy by another one of the same run.
    pub(crate) fn quotient(&self, at: usize, key: &str, by: &str) -> Figures {
        let pairs = self.values(at, key).into_iter().zip(self.values(at, by));
        pairs.map(|(this, by)| this / by).collect()
    }

    /// Over all proxies.
    fn all(&self, key: &str) -> Figures {
        let each = (0..self.lines.len()).flat_map(|at| self.values(at, key));
        each.collect()
    }
}
