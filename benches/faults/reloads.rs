//! 50 reloads in 20 seconds, with as many long downloads open: shares change from 70/30 to 30/70 and
//! back. The same without reloads, for comparison.

use std::time::Duration;

use portolan_control::clock::{Clock, Tick};
use serde_json::{Value, json};

use crate::clouds::{self, Cloud};
use crate::failover::keep;
use crate::load::{Clients, End, PATIENCE, Plan, Report};
use crate::peers::{self, Peer, Serving};
use crate::process::{self, Cores, Process};
use crate::report::{self, Figures, Raw};

const RELOADS: u32 = 50;
const EVERY: Duration = Duration::from_millis(400);
const WARM_UP: Duration = Duration::from_secs(2);

/// Requests come for so long: before, during and after the reloads.
const SPAN: Duration = Duration::from_secs(24);

/// Between two looks at how much memory a proxy has.
const LOOK: Duration = Duration::from_millis(200);

/// The most memory and the most processes that a proxy had.
#[derive(Clone, Copy, Default)]
pub(crate) struct Most {
    pub(crate) mib: f64,
    pub(crate) processes: usize,
}

/// Looks again and again.
pub(crate) async fn watch(process: &Process, most: &std::cell::Cell<Most>) -> ! {
    loop {
        let before = most.get();
        most.set(Most {
            mib: before.mib.max(process.memory()),
            processes: before.processes.max(process.family().len()),
        });
        tokio::time::sleep(LOOK).await;
    }
}

/// How soon a change is seen, in milliseconds after the files were moved: the first answer by the new
/// configuration, and the last request after the move that was answered by an older one.
pub(crate) fn effects(report: &Report, moves: &[(u32, Tick)]) -> (Vec<f64>, Vec<f64>) {
    let answers = |record: &crate::load::Record| match record.end {
        End::Answered { generation, .. } => Some((record.intended, record.took, generation)),
        End::Failed(_) => None,
    };
    let answers: Vec<(Tick, Duration, u32)> = report.records.iter().filter_map(answers).collect();
    let milliseconds = |span: Duration| span.as_secs_f64() * 1e3;
    let first = |(number, moved): &(u32, Tick)| {
        let new = answers
            .iter()
            .filter(|(_, _, generation)| generation >= number);
        let seen = new.map(|(intended, took, _)| (*intended + *took).since(*moved));
        seen.min().map(milliseconds)
    };
    let last = |(number, moved): &(u32, Tick)| {
        let old = answers
            .iter()
            .filter(|(_, _, generation)| generation < number);
        let asked = old.map(|(intended, ..)| intended.since(*moved));
        asked.max().map(milliseconds)
    };
    (
        moves.iter().filter_map(first).collect(),
        moves.iter().filter_map(last).collect(),
    )
}

/// How requests fared, and what was open beside them.
pub(crate) fn summary(report: &Report) -> Value {
    let mut took: Vec<Duration> = report.records.iter().map(|record| record.took).collect();
    took.sort_unstable();
    let quantile = |of_thousand: usize| {
        let at = (took.len() * of_thousand / 1000).min(took.len() - 1);
        took[at].as_secs_f64() * 1e3
    };
    let failed: Vec<String> = report
        .records
        .iter()
        .filter(|record| !record.is_good())
        .map(crate::load::Record::line)
        .collect();
    json!({
        "requests": report.records.len(),
        "failed": failed.len(),
        "why": failed.into_iter().take(20).collect::<Vec<_>>(),
        "replaced": report.replaced,
        "downloads": report.downloads,
        "chats": report.chats,
        "broken": report.broken.len(),
        "broken_why": report.broken,
        "p50_ms": quantile(500),
        "p99_ms": quantile(990),
        "p999_ms": quantile(999),
    })
}

/// One proxy, with so many reloads.
async fn run(peer: &'static dyn Peer, reloads: u32, cores: &Cores) -> Value {
    let clouds = [Cloud::start("aws", cores), Cloud::start("azure", cores)];
    let listen = peers::free_address();
    let task = |generation: u32| {
        let weights = if generation.is_multiple_of(2) {
            [70, 30]
        } else {
            [30, 70]
        };
        let both = [
            clouds[0].described(weights[0]),
            clouds[1].described(weights[1]),
        ];
        clouds::task(listen, both, generation)
    };
    let serving = Serving::start(peer, &task(0), cores.proxy()).await;
    tokio::time::sleep(WARM_UP).await;
    let clock = Clock::start();
    let cpu = serving.process.cpu();
    let busy = process::busy();
    let plan = Plan {
        listen,
        gets_per_second: 2_000,
        posts_per_second: 0,
        deletes_per_second: 0,
        path: "/",
        patience: PATIENCE,
        span: SPAN,
        downloads: RELOADS,
        download_every: EVERY,
        chats: 0,
    };
    let clients = Clients::start(plan, clock, cores.others());
    let most = std::cell::Cell::default();
    let mut moves = Vec::new();
    let changing = async {
        tokio::time::sleep(WARM_UP).await;
        let began = clock.now();
        for number in 1..=reloads {
            tokio::time::sleep_until(clock.instant(began + EVERY * number).into()).await;
            let change = serving.prepare(serving.files(&task(number)));
            moves.push((number, clock.now()));
            change.apply();
        }
        clients.done().await
    };
    let report = tokio::select! {
        report = changing => report,
        never = watch(&serving.process, &most) => never,
    };
    let name = format!("reloads-{}-{reloads}.csv", peer.name()).to_lowercase();
    keep(&name, &report);
    let (first, last) = effects(&report, &moves);
    let mut line = summary(&report);
    line["proxy"] = json!(peer.name());
    line["reloads"] = json!(reloads);
    line["first_new_ms"] = json!(first);
    line["last_old_ms"] = json!(last);
    line["most_mib"] = json!(most.get().mib);
    line["most_processes"] = json!(most.get().processes);
    line["cpu_s"] = json!(serving.process.cpu() - cpu);
    line["machine_s"] = json!(process::busy() - busy);
    line
}

/// A list of numbers as figures.
pub(crate) fn figures(value: &Value) -> Figures {
    let values = value.as_array().into_iter().flatten();
    values.filter_map(Value::as_f64).collect()
}

/// Every proxy in turn, and a table.
pub(crate) async fn compare(peers: &[&'static dyn Peer], cores: &Cores) -> String {
    let mut raw = Raw::create("reloads.jsonl");
    let mut rows = Vec::new();
    for peer in peers {
        let without = run(*peer, 0, cores).await;
        raw.write(&without);
        let with = run(*peer, RELOADS, cores).await;
        raw.write(&with);
        let pair = |key: &str, decimals: usize| {
            let show = |line: &Value| format!("{:.decimals$}", line[key].as_f64().unwrap_or(0.0));
            format!("{} / {}", show(&without), show(&with))
        };
        rows.push([
            peer.name().to_owned(),
            pair("failed", 0),
            pair("broken", 0),
            pair("replaced", 0),
            figures(&with["first_new_ms"]).show(0),
            figures(&with["last_old_ms"]).show(0),
            pair("p99_ms", 2),
            pair("p999_ms", 2),
            pair("most_mib", 1),
            pair("most_processes", 0),
        ]);
    }
    report::table(
        [
            "proxy",
            "failed",
            "downloads broken",
            "connections replaced",
            "first new answer, ms",
            "last old answer, ms",
            "p99 ms",
            "p99.9 ms",
            "memory, MiB",
            "processes",
        ],
        &rows,
    )
}
