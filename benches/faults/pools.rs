//! A pool of some endpoints of which all or some refuse or fall silent, with another pool to fall
//! back on, and little or more to do: what that costs clients, and how soon the pool is back.

use std::collections::HashMap;
use std::time::Duration;

use portolan_control::clock::{Clock, Tick};
use serde_json::{Value, json};

use crate::clouds::{self, Fault, Pool};
use crate::load::{Clients, End, Kind, Plan, Record, Report};
use crate::peers::{Peer, Serving};
use crate::process::Cores;
use crate::report::{self, Raw};

/// Probes give their first verdicts.
const SETTLE: Duration = Duration::from_secs(2);

/// From the fault on.
const HEAL_AFTER: Duration = Duration::from_secs(8);
const END_AFTER: Duration = Duration::from_secs(14);

/// How long clients wait before they give up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whoever was under way when the fault came may be met by it.
const UNDER_WAY: Duration = Duration::from_millis(50);

/// So long is late.
const LATE: Duration = Duration::from_millis(100);
const VERY_LATE: Duration = Duration::from_secs(1);

/// A pool is back when nine of ten requests of such a window go there.
const WINDOW: Duration = Duration::from_millis(500);

/// How much there is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Traffic {
    /// 40 requests a second, of which some twenty were answered before.
    Cold,
    /// 200 a second, and a thousand answers.
    Warm,
}

impl Traffic {
    const BOTH: [Self; 2] = [Self::Cold, Self::Warm];

    fn name(self) -> &'static str {
        match self {
            Self::Cold => "40/s, cold",
            Self::Warm => "200/s, warm",
        }
    }

    fn rate(self) -> u32 {
        match self {
            Self::Cold => 40,
            Self::Warm => 200,
        }
    }

    fn before(self) -> Duration {
        match self {
            Self::Cold => Duration::from_millis(500),
            Self::Warm => Duration::from_secs(5),
        }
    }
}

/// What befalls the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) fault: Fault,
    /// How many endpoints there are, and how many of them fail: for each table row.
    pub(crate) pools: &'static [(usize, usize)],
}

pub(crate) const CASES: [Case; 3] = [
    Case {
        name: "refused",
        fault: Fault::Killed,
        pools: &[(1, 1), (2, 2), (3, 3), (8, 8)],
    },
    Case {
        name: "silent",
        fault: Fault::Stopped,
        pools: &[(1, 1), (2, 2), (4, 4)],
    },
    Case {
        name: "half-silent",
        fault: Fault::Stopped,
        pools: &[(4, 2)],
    },
];

/// One proxy, once.
async fn run(
    peer: &'static dyn Peer,
    fault: Fault,
    (endpoints, failing): (usize, usize),
    traffic: Traffic,
    cores: &Cores,
) -> Value {
    let mut first = Pool::start("aws", endpoints, cores);
    let second = Pool::start("azure", endpoints, cores);
    let task = clouds::tiers(first.described(100), second.described(0));
    let serving = Serving::start(peer, &task, cores.proxy()).await;
    tokio::time::sleep(SETTLE).await;

    let clock = Clock::start();
    let rate = traffic.rate();
    let plan = Plan {
        listen: task.listen,
        // One in ten is a POST, and one a DELETE.
        gets_per_second: rate * 8 / 10,
        posts_per_second: rate / 10,
        deletes_per_second: rate / 10,
        path: "/",
        patience: PATIENCE,
        span: traffic.before() + END_AFTER,
        downloads: 0,
        download_every: Duration::ZERO,
        chats: 0,
    };
    let clients = Clients::start(plan, clock, cores.others());
    tokio::time::sleep(traffic.before()).await;
    let failed = clock.now();
    for cloud in &mut first.0[..failing] {
        cloud.fail(fault);
    }
    let healed = failed + HEAL_AFTER;
    tokio::time::sleep_until(clock.instant(healed).into()).await;
    for cloud in &mut first.0[..failing] {
        cloud.heal(fault, cores);
    }
    let report = clients.done().await;
    let mut twice: HashMap<String, usize> = HashMap::new();
    for number in first.numbers().into_iter().chain(second.numbers()) {
        *twice.entry(number).or_default() += 1;
    }
    let posts_twice = twice
        .iter()
        .filter(|(number, times)| number.starts_with("POST") && **times > 1);
    let mut figures = judge(&report, failed, healed);
    figures["posts_twice"] = json!(posts_twice.count());
    figures["proxy"] = json!(peer.name());
    figures["endpoints"] = json!([endpoints, failing]);
    figures["traffic"] = json!(traffic.name());
    drop(serving);
    figures
}

fn judge(report: &Report, failed: Tick, healed: Tick) -> Value {
    let met = Tick::after(failed.since_start().saturating_sub(UNDER_WAY));
    let during = |record: &&Record| record.intended >= met && record.intended < healed;
    let after = |record: &&Record| record.intended >= healed;
    let good = |record: &&Record| matches!(record.end, End::Answered { status: 200, .. });
    let lost = |kind: Kind| {
        let records = report.records.iter().filter(during);
        records
            .filter(|record| record.kind == kind && !good(record))
            .count()
    };
    let gets = || {
        let records = report.records.iter().filter(during).filter(good);
        records.filter(|record| record.kind == Kind::Get)
    };
    let later_than = |limit: Duration| gets().filter(|record| record.took > limit).count();
    let longest = gets().map(|record| record.took).max();
    json!({
        "gets_lost": lost(Kind::Get),
        "posts_lost": lost(Kind::Post),
        "deletes_lost": lost(Kind::Delete),
        "late": later_than(LATE),
        "very_late": later_than(VERY_LATE),
        "longest_s": longest.unwrap_or_default().as_secs_f64(),
        "lost_after": report.records.iter().filter(after).filter(|r| !good(r)).count(),
        "back_s": back(report, healed).map(|back| back.as_secs_f64()),
    })
}

/// When the pool that was gone has its traffic again.
fn back(report: &Report, healed: Tick) -> Option<Duration> {
    let windows = (END_AFTER.saturating_sub(HEAL_AFTER).as_millis() / WINDOW.as_millis()) as usize;
    let mut requests = vec![(0_u32, 0_u32); windows];
    for record in &report.records {
        let at = (record.intended.since(healed).as_millis() / WINDOW.as_millis()) as usize;
        if let (true, Some((all, its))) = (record.intended >= healed, requests.get_mut(at)) {
            *all += 1;
            *its += u32::from(matches!(&record.end, End::Answered { cloud, .. } if cloud == "aws"));
        }
    }
    let at = requests
        .iter()
        .position(|(all, its)| *all > 0 && f64::from(*its) >= 0.9 * f64::from(*all))?;
    Some(WINDOW * (at as u32 + 1))
}

/// Every proxy, every pool, little and more to do.
pub(crate) async fn compare(peers: &[&'static dyn Peer], case: Case, cores: &Cores) -> String {
    let mut raw = Raw::create(&format!("pools-{}.jsonl", case.name));
    let mut rows = Vec::new();
    for traffic in Traffic::BOTH {
        for pool in case.pools {
            for peer in peers {
                let line = run(*peer, case.fault, *pool, traffic, cores).await;
                raw.write(&line);
                let whole = |key: &str| {
                    line[key]
                        .as_u64()
                        .map_or_else(String::new, |n| n.to_string())
                };
                let seconds = |key: &str| {
                    let seconds = line[key].as_f64();
                    seconds.map_or_else(|| "not yet".to_owned(), |seconds| format!("{seconds:.2}"))
                };
                rows.push([
                    format!("{} of {}, {}", pool.1, pool.0, traffic.name()),
                    peer.name().to_owned(),
                    whole("gets_lost"),
                    whole("late"),
                    whole("very_late"),
                    seconds("longest_s"),
                    whole("posts_lost"),
                    whole("posts_twice"),
                    whole("deletes_lost"),
                    whole("lost_after"),
                    seconds("back_s"),
                ]);
            }
        }
    }
    report::table(
        [
            "endpoints",
            "proxy",
            "GETs lost",
            "GETs over 100 ms",
            "GETs over 1 s",
            "longest GET, s",
            "POSTs lost",
            "POSTs twice",
            "DELETEs lost",
            "lost after",
            "back after, s",
        ],
        &rows,
    )
}
