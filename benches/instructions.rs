//! How many instructions a decision takes, held against what was recorded.
//!
//! Times differ from one machine and minute to the next, counts hardly at all: valgrind runs the
//! program, and counts those of the functions that are measured. What it counts is the usual build
//! for development, which is there anyway; more than the recorded count and a tenth or so is a failure.
//!
//! ```text
//! cargo bench --profile dev --bench instructions             # count and compare
//! cargo bench --profile dev --bench instructions -- record   # a new budget
//! ```
//!
//! This program is also the one that valgrind runs (`count`).

#![expect(clippy::print_stdout, reason = "what was counted is the output")]

mod deciding;
mod estate;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use portolan_config::plan::normal_host;
use serde::{Deserialize, Serialize};

use deciding::{Requests, publish, whole};

/// How many routes there are: one, and as many as valgrind can prepare in some seconds.
const SIZES: [usize; 2] = [1, 1_000];

/// So many requests are counted.
const COUNTED: usize = 1_000;

/// What is counted for each size, in this order.
const PARTS: [&str; 3] = ["the whole decision", "route match", "client's place"];

/// What was recorded, by size and part.
#[derive(Deserialize, Serialize)]
struct Budget {
    /// How much more is allowed.
    tolerance_percent: f64,
    instructions_per_request: BTreeMap<String, f64>,
}

impl Budget {
    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json")
    }

    fn recorded() -> Self {
        let text = std::fs::read_to_string(Self::path()).expect("a budget was recorded");
        serde_json::from_str(&text).expect("the budget is sound")
    }

    fn record(&self) {
        let text = serde_json::to_string_pretty(self).expect("numbers can be written");
        std::fs::write(Self::path(), text + "\n").expect("the budget's file");
    }
}

fn names() -> impl Iterator<Item = String> {
    let sizes = SIZES.into_iter();
    sizes.flat_map(|routes| PARTS.map(|part| format!("{part}, routes: {routes}")))
}

/// Does what is counted, once each. What valgrind looks for is the name of this function.
#[inline(never)]
fn counted_by_valgrind(work: &mut dyn FnMut()) {
    work();
}

/// In valgrind: every part of every size, in the order of [`names`].
fn count() {
    // The engine's loop runs here; with probes off it has nothing to do.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    for routes in SIZES {
        let published = publish(routes);
        let requests = Requests::new(routes);
        let mut random = fastrand::Rng::with_seed(2);
        let some = &requests.all[..COUNTED];
        let snapshot = published.load_full();
        let hosts: Vec<String> = some
            .iter()
            .map(|request| normal_host(&request.host).into_owned())
            .collect();
        counted_by_valgrind(&mut || {
            for request in some {
                let endpoint = whole(&published, &requests, request, &mut random);
                assert!(black_box(endpoint).is_some(), "every request is served");
            }
        });
        counted_by_valgrind(&mut || {
            for (request, host) in some.iter().zip(&hosts) {
                let route = snapshot.route(&requests.head(request, host));
                assert!(black_box(route).is_some(), "every request has a route");
            }
        });
        let routes: Vec<_> = some
            .iter()
            .zip(&hosts)
            .filter_map(|(request, host)| snapshot.route(&requests.head(request, host)))
            .collect();
        counted_by_valgrind(&mut || {
            for (request, route) in some.iter().zip(&routes) {
                black_box(snapshot.locate(route, request.client));
            }
        });
    }
}

/// Has valgrind run this program, and reads what it counted: a file for each time that the function
/// was left.
fn instructions() -> BTreeMap<String, f64> {
    let folder = tempfile::tempdir().expect("a folder for what valgrind says");
    let out = folder.path().join("counts");
    let log = folder.path().join("log");
    let this = std::env::current_exe().expect("the path of this program");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg("--toggle-collect=*counted_by_valgrind*")
        .arg("--dump-after=*counted_by_valgrind*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(format!("--log-file={}", log.display()))
        .arg(this)
        .arg("count")
        .stdin(Stdio::null())
        .status()
        .expect("valgrind is there: apt-get install valgrind");
    let said = std::fs::read_to_string(log).unwrap_or_default();
    assert!(status.success(), "valgrind: {status}\n{said}");
    let counts = (1..).zip(names()).map(|(number, name)| {
        let file = out.with_extension(number.to_string());
        let text = std::fs::read_to_string(&file);
        let text = text.expect("valgrind wrote a file for each of them");
        let totals = text.lines().find_map(|line| {
            line.strip_prefix("totals:")
                .or(line.strip_prefix("summary:"))
        });
        let count: f64 = totals
            .and_then(|totals| totals.trim().parse().ok())
            .expect("a number of instructions");
        assert!(count > 0.0, "{name}: nothing was counted");
        (name, count / COUNTED as f64)
    });
    counts.collect()
}

/// Whether all are within the budget.
fn compare(counted: &BTreeMap<String, f64>, budget: &Budget) -> bool {
    let mut good = true;
    for (name, count) in counted {
        let Some(recorded) = budget.instructions_per_request.get(name) else {
            println!("{name}: {count:.0}, and no budget: record one");
            good = false;
            continue;
        };
        let more = (count / recorded - 1.0) * 100.0;
        let verdict = if more > budget.tolerance_percent {
            good = false;
            "TOO MANY"
        } else if more < -budget.tolerance_percent {
            "good: record it, so that it stays"
        } else {
            "as recorded"
        };
        println!("{name}: {count:.0} of {recorded:.0} ({more:+.1} %): {verdict}");
    }
    good
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["count"] => count(),
        ["record", "--bench"] => Budget {
            tolerance_percent: 12.0,
            instructions_per_request: instructions(),
        }
        .record(),
        ["--bench"] => {
            if !compare(&instructions(), &Budget::recorded()) {
                println!(
                    "What makes decisions dearer is worth a look. If it is worth its price: \
                     cargo bench --profile dev --bench instructions -- record"
                );
                return ExitCode::FAILURE;
            }
        }
        // `cargo test --benches`: without valgrind there is nothing to count.
        _ => println!("run by tests/run, as a step of its own"),
    }
    ExitCode::SUCCESS
}
