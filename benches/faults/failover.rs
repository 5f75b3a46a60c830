//! All endpoints of the cloud that has 70% of the traffic fail at once, and are well again later.

use std::time::Duration;

use portolan_control::clock::{Clock, Tick};
use serde_json::{Value, json};

use crate::clouds::{self, Cloud, Fault};
use crate::load::{Clients, End, Kind, PATIENCE, Plan, Record, Report};
use crate::peers::{self, Peer, Serving};
use crate::process::{self, Cores};
use crate::report::{self, Figures, Raw};

/// Probes give their first verdicts.
const SETTLE: Duration = Duration::from_secs(2);

/// From the first request on.
const FAULT_AT: Duration = Duration::from_secs(4);
const HEAL_AT: Duration = Duration::from_secs(11);
const END: Duration = Duration::from_secs(17);

/// Requests that are under way when the fault comes may be met by it.
const UNDER_WAY: Duration = Duration::from_millis(20);

/// So long is too long for one that survives.
const LATE: Duration = Duration::from_millis(100);

/// Back is who serves nine tenths of its share of the requests of such a window.
const WINDOW: Duration = Duration::from_millis(100);
const BACK: f64 = 0.9;

const WEIGHTS: [u32; 2] = [70, 30];

/// One proxy, once.
pub(crate) async fn run(
    peer: &'static dyn Peer,
    fault: Fault,
    round: usize,
    cores: &Cores,
) -> Value {
    let mut first = Cloud::start("aws", cores);
    let second = Cloud::start("azure", cores);
    let both = [first.described(WEIGHTS[0]), second.described(WEIGHTS[1])];
    let task = clouds::task(peers::free_address(), both, 1);
    let serving = Serving::start(peer, &task, cores.proxy()).await;
    tokio::time::sleep(SETTLE).await;

    let clock = Clock::start();
    let before = (process::busy(), serving.process.cpu());
    let plan = Plan {
        listen: task.listen,
        gets_per_second: 2_000,
        posts_per_second: 500,
        deletes_per_second: 0,
        path: "/",
        patience: PATIENCE,
        span: END,
        downloads: 0,
        download_every: Duration::ZERO,
        chats: 0,
    };
    let clients = Clients::start(plan, clock, cores.others());
    tokio::time::sleep(FAULT_AT).await;
    let failed = clock.now();
    first.fail(fault);
    tokio::time::sleep_until(clock.instant(Tick::after(HEAL_AT)).into()).await;
    let healed = clock.now();
    first.heal(fault, cores);
    let report = clients.done().await;
    let name = format!("{fault:?}-{}-{round}.csv", peer.name()).to_lowercase();
    keep(&name, &report);
    let mut figures = judge(&report, failed, healed);
    figures["proxy"] = json!(peer.name());
    figures["fault"] = json!(format!("{fault:?}"));
    figures["round"] = json!(round);
    figures["proxy_cores"] = json!((serving.process.cpu() - before.1) / END.as_secs_f64());
    figures["machine_cores"] = json!((process::busy() - before.0) / END.as_secs_f64());
    figures
}

/// Every request, in a file of its own.
pub(crate) fn keep(name: &str, report: &Report) {
    let mut text = String::from("kind,intended_us,took_us,status,cloud,generation\n");
    for record in &report.records {
        text.push_str(&record.line());
        text.push('\n');
    }
    std::fs::write(report::folder().join(name), text).expect("a file for the results");
}

fn judge(report: &Report, failed: Tick, healed: Tick) -> Value {
    let met = Tick::after(failed.since_start().saturating_sub(UNDER_WAY));
    let during = |record: &&Record| record.intended >= met && record.intended < healed;
    let after = |record: &&Record| record.intended >= healed;
    let bad = |record: &&Record| !record.is_good();
    let lost = |kind: Kind| {
        let records = report.records.iter().filter(during).filter(bad);
        records.filter(|record| record.kind == kind).count()
    };
    let late: Vec<&Record> = report
        .records
        .iter()
        .filter(during)
        .filter(|record| record.is_good() && record.took > LATE)
        .collect();
    let gets_late = late.iter().filter(|record| record.kind == Kind::Get);
    // Until the last request that met the fault was to leave: later ones do not notice it.
    let moved = report
        .records
        .iter()
        .filter(during)
        .filter(|record| !record.is_good() || record.took > LATE)
        .map(|record| record.intended.since(failed))
        .max()
        .unwrap_or_default();
    let mut why: Vec<String> = report
        .records
        .iter()
        .filter(|record| !record.is_good())
        .map(|record| match &record.end {
            End::Answered { status: 200, .. } => "late".to_owned(),
            End::Answered { status, .. } => status.to_string(),
            End::Failed(why) => (*why).to_owned(),
        })
        .collect();
    why.sort_unstable();
    why.dedup();
    json!({
        "requests": report.records.len(),
        "lost_before": report.records.iter().filter(|record| record.intended < met).filter(bad).count(),
        "gets_lost": lost(Kind::Get),
        "posts_lost": lost(Kind::Post),
        "gets_late": gets_late.count(),
        "late": late.len(),
        "moved_ms": moved.as_secs_f64() * 1e3,
        "lost_after": report.records.iter().filter(after).filter(bad).count(),
        "back_s": back(report, healed).map(|back| back.as_secs_f64()),
        "why": why,
    })
}

/// When the cloud that was gone has its share again.
fn back(report: &Report, healed: Tick) -> Option<Duration> {
    let windows = (END.saturating_sub(HEAL_AT).as_millis() / WINDOW.as_millis()) as usize;
    let mut requests = vec![(0_u32, 0_u32); windows];
    for record in report
        .records
        .iter()
        .filter(|record| record.intended >= healed)
    {
        let at = (record.intended.since(healed).as_millis() / WINDOW.as_millis()) as usize;
        if let Some((all, its)) = requests.get_mut(at) {
            *all += 1;
            *its += u32::from(matches!(&record.end, End::Answered { cloud, .. } if cloud == "aws"));
        }
    }
    let share = f64::from(WEIGHTS[0]) / f64::from(WEIGHTS[0] + WEIGHTS[1]);
    let at = requests
        .iter()
        .position(|(all, its)| *all > 0 && f64::from(*its) >= BACK * share * f64::from(*all))?;
    Some(WINDOW * (at as u32 + 1))
}

/// Every proxy in turn, and a table.
pub(crate) async fn compare(
    peers: &[&'static dyn Peer],
    fault: Fault,
    rounds: usize,
    cores: &Cores,
) -> String {
    let mut raw = Raw::create(&format!("{fault:?}.jsonl").to_lowercase());
    let mut runs: Vec<Vec<Value>> = vec![Vec::new(); peers.len()];
    for round in 0..rounds {
        for (at, peer) in peers.iter().enumerate() {
            let line = run(*peer, fault, round, cores).await;
            raw.write(&line);
            runs[at].push(line);
        }
    }
    let rows: Vec<[String; 8]> = peers
        .iter()
        .zip(&runs)
        .map(|(peer, lines)| {
            let show = |key: &str, decimals| {
                let values = lines.iter().map(|line| line[key].as_f64());
                values.collect::<Option<Figures>>().map_or_else(
                    || "not within the time".to_owned(),
                    |figures| figures.show(decimals),
                )
            };
            [
                peer.name().to_owned(),
                show("gets_lost", 0),
                show("posts_lost", 0),
                show("gets_late", 0),
                show("moved_ms", 0),
                show("lost_after", 0),
                show("back_s", 1),
                show("lost_before", 0),
            ]
        })
        .collect();
    report::table(
        [
            "proxy",
            "GETs lost",
            "POSTs lost",
            "GETs over 100 ms",
            "noticed for, ms",
            "lost in recovery",
            "back after, s",
            "lost before",
        ],
        &rows,
    )
}
