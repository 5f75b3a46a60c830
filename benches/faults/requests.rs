//! Requests that are no fault of anybody's, or everybody's: a DELETE that takes its time, an address
//! that says 503 by design, and two clouds that fail every request.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use hyper::body::Bytes;
use portolan_control::clock::Clock;
use serde_json::{Value, json};

use crate::clouds::{self, Cloud, Fault};
use crate::load::{Clients, End, PATIENCE, Plan, Report, single};
use crate::peers::{Peer, Serving, Task};
use crate::process::Cores;
use crate::report::{self, Raw};

/// Probes give their first verdicts.
const SETTLE: Duration = Duration::from_secs(2);

/// Two clouds, a proxy in front, and whoever uses it.
struct Stage {
    clouds: [Cloud; 2],
    task: Task,
    _serving: Serving,
}

impl Stage {
    async fn new(peer: &'static dyn Peer, limit: Duration, cores: &Cores) -> Self {
        let clouds = [Cloud::start("aws", cores), Cloud::start("azure", cores)];
        let task = clouds::tiers(clouds[0].described(100), clouds[1].described(0));
        let task = Task { limit, ..task };
        let serving = Serving::start(peer, &task, cores.proxy()).await;
        tokio::time::sleep(SETTLE).await;
        Self {
            clouds,
            task,
            _serving: serving,
        }
    }

    /// So many GETs a second, for so long.
    fn gets(&self, per_second: u32, span: Duration, cores: &Cores) -> Clients {
        let plan = Plan {
            listen: self.task.listen,
            gets_per_second: per_second,
            posts_per_second: 0,
            deletes_per_second: 0,
            path: "/",
            patience: PATIENCE,
            span,
            downloads: 0,
            download_every: Duration::ZERO,
            chats: 0,
        };
        Clients::start(plan, Clock::start(), cores.others())
    }
}

fn request(method: &str, path: &str, number: u64) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "bench.test")
        .header("x-number", number)
        .body(Full::default())
        .expect("a request")
}

fn lost(report: &Report) -> usize {
    let good = |end: &End| matches!(end, End::Answered { status: 200, .. });
    report.records.iter().filter(|r| !good(&r.end)).count()
}

/// How often each of these ends came.
pub(crate) fn tally(ends: impl IntoIterator<Item = Result<(u16, String), &'static str>>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for end in ends {
        let word = end.map_or_else(str::to_owned, |(status, _)| status.to_string());
        *counts.entry(word).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(word, count)| format!("{count} × {word}"))
        .collect();
    counts.join(", ")
}

/// DELETEs of 3 s each of a service that has answered everything else in no time, and is quiet now.
async fn slow_delete(peer: &'static dyn Peer, cores: &Cores) -> Value {
    const DELETES: u64 = 5;
    /// No number of a GET.
    const FIRST: u64 = 1_000_000;
    // Nobody wants a DELETE to be cut short.
    let stage = Stage::new(peer, Duration::from_secs(30), cores).await;
    let clients = stage.gets(40, Duration::from_secs(5), cores);
    let report = clients.done().await;
    let mut ends = Vec::new();
    for number in FIRST..FIRST + DELETES {
        let delete = request("DELETE", "/takes-3s", number);
        ends.push(single(stage.task.listen, delete, Duration::from_secs(10)).await);
    }
    let seen: Vec<String> = stage.clouds.iter().flat_map(Cloud::numbers).collect();
    let most = (FIRST..FIRST + DELETES)
        .map(|number| format!("DELETE {number}"))
        .map(|wanted| seen.iter().filter(|seen| **seen == wanted).count())
        .max();
    json!({
        "proxy": peer.name(),
        "answers": tally(ends),
        "times": most,
        "gets_lost": lost(&report),
    })
}

/// One client that asks for an address that says 503 by design, five times a second, beside two
/// good requests.
async fn by_design(peer: &'static dyn Peer, cores: &Cores) -> Value {
    const SPAN: Duration = Duration::from_secs(40);
    let stage = Stage::new(peer, Duration::from_secs(1), cores).await;
    let clients = stage.gets(2, SPAN, cores);
    let listen = stage.task.listen;
    let mut every = tokio::time::interval(Duration::from_millis(200));
    let mut ends = Vec::new();
    while ends.len() < SPAN.as_secs() as usize * 5 {
        every.tick().await;
        ends.push(single(listen, request("GET", "/by-design", 0), PATIENCE).await);
    }
    let report = clients.done().await;
    let moved = report
        .records
        .iter()
        .filter(|r| matches!(&r.end, End::Answered { cloud, .. } if cloud == "azure"))
        .count();
    json!({
        "proxy": peer.name(),
        "answers": tally(ends),
        "good": report.records.len(),
        "lost": lost(&report),
        "moved_percent": 100.0 * moved as f64 / report.records.len() as f64,
    })
}

/// Both clouds say 503 to every request, and are well by their probes.
async fn all_fail(peer: &'static dyn Peer, cores: &Cores) -> Value {
    let mut stage = Stage::new(peer, Duration::from_secs(1), cores).await;
    // Whoever asked whether it serves is not counted.
    let count = |stage: &Stage| stage.clouds.iter().map(Cloud::count).sum::<u64>();
    for cloud in &mut stage.clouds {
        cloud.fail(Fault::Erring);
    }
    let before = count(&stage);
    let clients = stage.gets(500, Duration::from_secs(10), cores);
    let report = clients.done().await;
    let tries = (count(&stage) - before) as f64;
    json!({
        "proxy": peer.name(),
        "requests": report.records.len(),
        "tries": tries / report.records.len() as f64,
    })
}

/// What is compared here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Case {
    SlowDelete,
    ByDesign,
    AllFail,
}

impl Case {
    pub(crate) const ALL: [(&'static str, Self); 3] = [
        ("slow-delete", Self::SlowDelete),
        ("by-design", Self::ByDesign),
        ("all-fail", Self::AllFail),
    ];
}

pub(crate) async fn compare(
    peers: &[&'static dyn Peer],
    (name, case): (&str, Case),
    cores: &Cores,
) -> String {
    let mut raw = Raw::create(&format!("{name}.jsonl"));
    let mut lines = Vec::new();
    for peer in peers {
        let line = match case {
            Case::SlowDelete => slow_delete(*peer, cores).await,
            Case::ByDesign => by_design(*peer, cores).await,
            Case::AllFail => all_fail(*peer, cores).await,
        };
        raw.write(&line);
        lines.push(line);
    }
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let whole = |line: &Value, key: &str| line[key].as_u64().unwrap_or_default().to_string();
    let number = |line: &Value, key: &str, decimals: usize| {
        format!("{:.decimals$}", line[key].as_f64().unwrap_or_default())
    };
    match case {
        Case::SlowDelete => {
            let rows = lines.iter().map(|line| {
                [
                    text(line, "proxy"),
                    whole(line, "times"),
                    text(line, "answers"),
                    whole(line, "gets_lost"),
                ]
            });
            let head = ["proxy", "sent to so many", "answers", "GETs lost"];
            report::table(head, &rows.collect::<Vec<_>>())
        }
        Case::ByDesign => {
            let rows = lines.iter().map(|line| {
                [
                    text(line, "proxy"),
                    number(line, "moved_percent", 1),
                    whole(line, "lost"),
                    text(line, "answers"),
                ]
            });
            let head = [
                "proxy",
                "good traffic moved, %",
                "of it lost",
                "answers by design",
            ];
            report::table(head, &rows.collect::<Vec<_>>())
        }
        Case::AllFail => {
            let rows = lines
                .iter()
                .map(|line| [text(line, "proxy"), number(line, "tries", 2)]);
            let head = ["proxy", "tries for each request"];
            report::table(head, &rows.collect::<Vec<_>>())
        }
    }
}
