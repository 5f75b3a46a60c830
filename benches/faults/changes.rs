//! 1,000 reloads of different fields, one every 50 ms, with WebSocket conversations and long
//! downloads open. The same without, for comparison.

use std::path::Path;
use std::time::Duration;

use portolan_control::clock::Clock;
use serde_json::{Value, json};

use crate::clouds::{self, Cloud};
use crate::failover::keep;
use crate::load::{Clients, PATIENCE, Plan};
use crate::peers::{self, Files, Peer, Serving, Task};
use crate::portolan;
use crate::process::Cores;
use crate::reloads::{Most, effects, figures, summary, watch};
use crate::report::{self, Raw};

const CHANGES: u32 = 1_000;

/// More than the quiet after which a change is applied: every one is on its own.
const EVERY: Duration = Duration::from_millis(50);

const WARM_UP: Duration = Duration::from_secs(2);
const SPAN: Duration = Duration::from_secs(54);

/// What a change is of: each in turn, there and back.
const FIELDS: [[&str; 2]; 10] = [
    ["timeout: 40s", "timeout: 50s"],
    [
        "when_all_down: try_all",
        "when_all_down: { respond: { status: 503 } }",
    ],
    [
        "request_headers: { set: { x-a: '1' } }",
        "request_headers: { set: { x-a: '2' } }",
    ],
    ["expose: false", "expose: true"],
    [
        "hedge: { after: p99, budget: 1% }",
        "hedge: { after: 300ms, budget: 1% }",
    ],
    ["methods: [ GET, POST ]", "methods: [ GET, POST, PUT ]"],
    ["affinity: off", "affinity: { header: x-session }"],
    ["rto: 10s", "rto: 20s"],
    [
        "rewrite: { strip_prefix: /v1 }",
        "rewrite: { strip_prefix: /v2 }",
    ],
    ["name: all-requests", "name: every-request"],
];

/// And of a pool.
const POOL_FIELDS: [[&str; 2]; 6] = [
    ["balance: round_robin", "balance: least_requests"],
    [
        "timeouts: { first_byte: 20s }",
        "timeouts: { first_byte: 30s }",
    ],
    [
        "outlier: { consecutive_failures: 4 }",
        "outlier: { consecutive_failures: 5 }",
    ],
    ["overprovision: 1.5", "overprovision: 1.6"],
    ["min_healthy: 1", "min_healthy: 50%"],
    ["health: { every: 1s }", "health: { every: 2s }"],
];

fn files(task: &Task, chat: &Cloud, folder: &Path) -> Files {
    let number = task.generation.expect("configurations are told apart") as usize;
    let value = |fields: [&'static str; 2]| fields[number / (FIELDS.len() + POOL_FIELDS.len()) % 2];
    let at = number % (FIELDS.len() + POOL_FIELDS.len());
    let (field, pool_field) = match FIELDS.get(at) {
        Some(fields) => (value(*fields), "drain: false"),
        None => ("expose: false", value(POOL_FIELDS[at - FIELDS.len()])),
    };
    let text = portolan::head(task, folder, ([127, 0, 0, 1], 0).into());
    let pools = format!(
        "pools:\n  chat: {{ endpoints: [ '{}' ], health: off }}\n",
        chat.chat()
    );
    let text = text.replacen("pools:\n", &pools, 1).replacen(
        "  aws: { ",
        &format!("  aws: {{ {pool_field}, "),
        1,
    );
    let text = format!(
        "{text}  - {{ path: /chat, to: chat }}\n  - to: all\n    {}\n    {}\n    {field}\n",
        portolan::RETRY,
        portolan::generation(task),
    );
    vec![("portolan.yaml", text)]
}

async fn run(changes: u32, cores: &Cores) -> Value {
    let peer: &dyn Peer = &portolan::Portolan;
    let clouds = [Cloud::start("aws", cores), Cloud::start("azure", cores)];
    let listen = peers::free_address();
    let task = |generation: u32| {
        let both = [clouds[0].described(70), clouds[1].described(30)];
        clouds::task(listen, both, generation)
    };
    let folder = peers::empty_folder(peer);
    let first = files(&task(0), &clouds[0], &folder);
    let serving = Serving::begin(&portolan::Portolan, first, folder, listen, cores.proxy()).await;
    tokio::time::sleep(WARM_UP).await;
    let clock = Clock::start();
    let plan = Plan {
        listen,
        gets_per_second: 1_600,
        posts_per_second: 400,
        deletes_per_second: 0,
        path: "/",
        patience: PATIENCE,
        span: SPAN,
        downloads: 50,
        download_every: Duration::from_secs(1),
        chats: 20,
    };
    let clients = Clients::start(plan, clock, cores.others());
    let most = std::cell::Cell::<Most>::default();
    let mut moves = Vec::new();
    let changing = async {
        tokio::time::sleep(WARM_UP).await;
        let began = clock.now();
        for number in 1..=changes {
            tokio::time::sleep_until(clock.instant(began + EVERY * number).into()).await;
            let change = serving.prepare(files(&task(number), &clouds[0], &serving.folder));
            moves.push((number, clock.now()));
            change.apply();
        }
        clients.done().await
    };
    let report = tokio::select! {
        report = changing => report,
        never = watch(&serving.process, &most) => never,
    };
    keep(&format!("changes-{changes}.csv"), &report);
    let (first, last) = effects(&report, &moves);
    assert_eq!(first.len(), moves.len(), "a change that never came");
    let mut line = summary(&report);
    line["changes"] = json!(changes);
    line["first_new_ms"] = json!(first);
    line["last_old_ms"] = json!(last);
    line["most_mib"] = json!(most.get().mib);
    line
}

/// Without and with, and a table.
pub(crate) async fn measure(cores: &Cores) -> String {
    let mut raw = Raw::create("changes.jsonl");
    let mut rows = Vec::new();
    for changes in [0, CHANGES] {
        let line = run(changes, cores).await;
        raw.write(&line);
        let number = |key: &str, decimals: usize| {
            format!("{:.decimals$}", line[key].as_f64().unwrap_or(f64::NAN))
        };
        let effect = |key: &str| match changes {
            0 => "–".to_owned(),
            _ => figures(&line[key]).show(0),
        };
        rows.push([
            changes.to_string(),
            number("requests", 0),
            number("failed", 0),
            number("broken", 0),
            number("replaced", 0),
            number("p50_ms", 2),
            number("p99_ms", 2),
            number("p999_ms", 2),
            effect("first_new_ms"),
            number("most_mib", 1),
        ]);
    }
    report::table(
        [
            "reloads",
            "requests",
            "failed",
            "streams broken",
            "connections replaced",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "first new answer, ms",
            "memory, MiB",
        ],
        &rows,
    )
}
