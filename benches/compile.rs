//! What a configuration costs: time from text to a plan and from a plan to a snapshot, the same
//! again as a reload, and memory.
//!
//! Every measurement is a process of its own (this program again, with other arguments), because
//! memory that was given back to the allocator still counts for a process.

#![expect(clippy::print_stdout, reason = "what was measured is the output")]

mod estate;
mod report;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::{Material, UpstreamIdentity};
use portolan_config::plan::{Plan, PoolPlan};
use portolan_config::{Machine, check_text};
use portolan_control::clock::{Clock, Tick};
use portolan_control::engine::core::{Core, Effect, EngineEvent};
use portolan_control::geo::Locator;
use portolan_control::health::verdict::ProbeFailure;
use portolan_control::pool::dial::{Dial, Dialer, ProbeOutcome, Probing};
use portolan_control::pool::endpoint::EndpointKey;
use serde_json::{Value, json};

use estate::Estate;
use report::{Figures, Raw};

/// Routes and pools.
const SIZES: [(usize, usize); 2] = [(1_000, 200), (10_000, 2_000)];

const ROUNDS: usize = 11;

/// The argument that makes this program measure once and say so.
const ONCE: &str = "--once";

/// Nothing is connected to here.
#[derive(Debug)]
struct NoConnections;

impl Dialer for NoConnections {
    fn prepare(
        &self,
        _: &Arc<PoolPlan>,
        _: Option<&Arc<UpstreamIdentity>>,
        _: SocketAddr,
        _: Option<&str>,
    ) -> Dial {
        Dial::new(())
    }

    fn probe(&self, _: &Arc<PoolPlan>, _: &Dial) -> Probing {
        unreachable!("effects are not performed")
    }
}

fn plan(text: &str) -> Arc<Plan> {
    let checked = check_text("estate.yaml", text.to_owned(), &Machine::default());
    checked.plan.expect("the estate is sound")
}

/// A line of `/proc/self/status`, in MiB.
fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let kib = status
        .lines()
        .find_map(|found| found.strip_prefix(line)?.split_whitespace().nth(1))
        .and_then(|number| number.parse::<f64>().ok());
    kib.expect("a number of KiB") / 1024.0
}

fn milliseconds(clock: &Clock, since: Tick) -> f64 {
    clock.now().since(since).as_secs_f64() * 1000.0
}

/// Has every endpoint answer its first probe, and the last one badly: the milliseconds from that
/// answer to the snapshot that knows.
fn verdict(core: &mut Core, clock: &Clock) -> f64 {
    let mut probes: Vec<(EndpointKey, u64)> = core
        .step(EngineEvent::Woken, clock.now())
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Probe { key, serial, .. } => Some((key, serial)),
            _ => None,
        })
        .collect();
    let last = probes.pop().expect("endpoints are probed");
    let finish = |core: &mut Core, (key, serial), result| {
        let took = Duration::from_millis(1);
        let event = EngineEvent::ProbeFinished {
            key,
            serial,
            outcome: ProbeOutcome { result, took },
        };
        // What operators are told, and when the next probe is due, is of no interest here.
        drop(core.step(event, clock.now()));
    };
    for probe in probes {
        finish(core, probe, Ok(()));
    }
    core.publish(clock.now());
    let began = clock.now();
    finish(core, last, Err(ProbeFailure::Broken(String::new())));
    core.publish(clock.now());
    milliseconds(clock, began)
}

/// Measures once, in a fresh process.
fn once(routes: usize, pools: usize) -> Value {
    let estate = Estate {
        routes,
        pools,
        endpoints_per_pool: 4,
        probes: true,
    };
    let text = format!(
        "listeners: [ {{ bind: '127.0.0.1:0' }} ]\n{}",
        estate.yaml(&[])
    );
    // The built-in tables and the geo database belong to every configuration: not counted.
    let small = plan(
        "listeners: [ { bind: '127.0.0.1:0' } ]\n\
         pools: { p: { endpoints: [ '10.0.0.1:80' ] } }\n\
         routes: [ { to: p } ]\n",
    );
    drop(small);
    let clock = Clock::start();
    let before = memory("VmRSS");

    let began = clock.now();
    let first = plan(&text);
    let compiled = milliseconds(&clock, began);
    let locator = Arc::new(Locator::default());
    let material = Arc::new(Material::default());
    let began = clock.now();
    let mut core = Core::new(
        first,
        material.clone(),
        locator.clone(),
        Arc::new(NoConnections),
        clock.now(),
    );
    let snapshot = core.publish(clock.now());
    let published = milliseconds(&clock, began);
    let running = memory("VmRSS") - before;
    assert_eq!(snapshot.plan.routes.len(), routes);

    let verdict = verdict(&mut core, &clock);

    // One route less, so that it is another configuration.
    let changed = text.trim_end().rsplit_once('\n').expect("many lines").0;
    let began = clock.now();
    let second = plan(changed);
    let compiled_again = milliseconds(&clock, began);
    let began = clock.now();
    // What is to be done after it (probes) is nobody's business here.
    drop(core.step(
        EngineEvent::PlanAccepted {
            plan: second,
            material,
            locator,
        },
        clock.now(),
    ));
    let again = core.publish(clock.now());
    let published_again = milliseconds(&clock, began);
    assert_eq!(again.plan.routes.len(), routes - 1);
    drop(snapshot);
    json!({
        "routes": routes,
        "pools": pools,
        "text_kib": text.len() as f64 / 1024.0,
        "compile_ms": compiled,
        "publish_ms": published,
        "verdict_ms": verdict,
        "reload_compile_ms": compiled_again,
        "reload_publish_ms": published_again,
        "memory_mib": running,
        "peak_mib": memory("VmHWM") - before,
    })
}

/// What is shown, by its name in the raw data.
const SHOWN: [(&str, &str, usize); 8] = [
    ("text, KiB", "text_kib", 0),
    ("start: text → plan, ms", "compile_ms", 1),
    ("start: plan → snapshot, ms", "publish_ms", 1),
    ("a verdict: probe result → snapshot, ms", "verdict_ms", 3),
    ("reload: text → plan, ms", "reload_compile_ms", 1),
    ("reload: plan → snapshot, ms", "reload_publish_ms", 1),
    ("memory after the start, MiB", "memory_mib", 1),
    ("most memory during the reload, MiB", "peak_mib", 1),
];

fn in_a_process(routes: usize, pools: usize) -> Value {
    let myself = std::env::current_exe().expect("the path of this program");
    let output = Command::new(myself)
        .args([ONCE, &routes.to_string(), &pools.to_string()])
        .output()
        .expect("this program runs once more");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("it says what it measured")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, routes, pools] = arguments.as_slice()
        && first == ONCE
    {
        let number = |text: &String| text.parse().expect("a number");
        println!("{}", once(number(routes), number(pools)));
        return;
    }
    // Without `--bench`, as `cargo test --benches` calls it: whether it works at all.
    let rounds = if arguments.iter().any(|argument| argument == "--bench") {
        ROUNDS
    } else {
        1
    };
    let mut raw = Raw::create("compile.jsonl");
    let mut runs: Vec<[Value; 2]> = Vec::new();
    for _ in 0..rounds {
        let round = SIZES.map(|(routes, pools)| in_a_process(routes, pools));
        round.iter().for_each(|line| raw.write(line));
        runs.push(round);
    }
    let rows: Vec<[String; 4]> = SHOWN
        .into_iter()
        .map(|(name, key, decimals)| {
            let figures = |size: usize| -> Figures {
                let values = runs.iter().map(|round| round[size][key].as_f64());
                values.map(|value| value.expect("a number")).collect()
            };
            let (small, large) = (figures(0), figures(1));
            [
                name.to_owned(),
                small.show(decimals),
                large.show(decimals),
                format!("{:.1}", large.median() / small.median()),
            ]
        })
        .collect();
    println!(
        "{}",
        report::table(
            [
                "",
                "1,000 routes, 200 pools",
                "10,000 routes, 2,000 pools",
                "ratio"
            ],
            &rows
        )
    );
}
