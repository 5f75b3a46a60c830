//! `portolan upgrade`, twenty times under load: what clients notice of it.

use std::process::Command;
use std::time::Duration;

use portolan_control::clock::Clock;
use serde_json::{Value, json};

use crate::clouds::{self, Cloud};
use crate::failover::keep;
use crate::load::{Clients, PATIENCE, Plan};
use crate::peers::{self, Peer, Serving};
use crate::portolan;
use crate::process::Cores;
use crate::reloads::{figures, summary};
use crate::report::{self, Raw};

const UPGRADES: u32 = 20;

/// From one to the next, if it takes no longer.
const EVERY: Duration = Duration::from_secs(2);

const WARM_UP: Duration = Duration::from_secs(2);
const SPAN: Duration = Duration::from_secs(44);

async fn run(upgrades: u32, cores: &Cores) -> Value {
    let clouds = [Cloud::start("aws", cores), Cloud::start("azure", cores)];
    let both = [clouds[0].described(70), clouds[1].described(30)];
    let task = clouds::task(peers::free_address(), both, 0);
    let admin = peers::free_address();
    let folder = peers::empty_folder(&portolan::Portolan);
    let text = format!(
        "{}  - to: all\n    {}\n",
        portolan::head(&task, &folder, admin),
        portolan::RETRY
    );
    let peer: &'static dyn Peer = &portolan::Portolan;
    let files = vec![("portolan.yaml", text)];
    let _first = Serving::begin(peer, files, folder, task.listen, cores.proxy()).await;
    tokio::time::sleep(WARM_UP).await;
    let clock = Clock::start();
    let plan = Plan {
        listen: task.listen,
        gets_per_second: 1_600,
        posts_per_second: 400,
        deletes_per_second: 0,
        path: "/",
        patience: PATIENCE,
        span: SPAN,
        downloads: UPGRADES,
        download_every: EVERY,
        chats: 0,
    };
    let clients = Clients::start(plan, clock, cores.others());
    tokio::time::sleep(WARM_UP).await;
    let began = clock.now();
    let mut took = Vec::new();
    for number in 0..upgrades {
        tokio::time::sleep_until(clock.instant(began + EVERY * number).into()).await;
        let asked = clock.now();
        took.push(upgrade(admin).await);
        took[number as usize]["ms"] = json!(clock.now().since(asked).as_secs_f64() * 1e3);
    }
    let report = clients.done().await;
    keep(&format!("upgrades-{upgrades}.csv"), &report);
    let mut line = summary(&report);
    line["upgrades"] = json!(upgrades);
    line["took_ms"] = took.iter().map(|answer| answer["ms"].clone()).collect();
    line
}

/// Asks for an upgrade, and waits until it is done.
async fn upgrade(admin: std::net::SocketAddr) -> Value {
    let asking = tokio::task::spawn_blocking(move || {
        let mut command = Command::new(portolan::BINARY);
        command.args(["upgrade", "--json", "--admin", &format!("http://{admin}")]);
        command.output()
    });
    let output = asking.await.expect("no panic").expect("it runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("an answer")
}

/// Without and with, and a table.
pub(crate) async fn measure(cores: &Cores) -> String {
    let mut raw = Raw::create("upgrades.jsonl");
    let mut rows = Vec::new();
    for upgrades in [0, UPGRADES] {
        let line = run(upgrades, cores).await;
        raw.write(&line);
        let number = |key: &str, decimals: usize| {
            format!("{:.decimals$}", line[key].as_f64().unwrap_or(f64::NAN))
        };
        rows.push([
            upgrades.to_string(),
            number("requests", 0),
            number("failed", 0),
            number("broken", 0),
            number("replaced", 0),
            number("p50_ms", 2),
            number("p99_ms", 2),
            number("p999_ms", 2),
            match upgrades {
                0 => "–".to_owned(),
                _ => figures(&line["took_ms"]).show(0),
            },
        ]);
    }
    report::table(
        [
            "upgrades",
            "requests",
            "failed",
            "downloads broken",
            "connections replaced",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "an upgrade, ms",
        ],
        &rows,
    )
}
