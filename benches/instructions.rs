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

use std::cell::RefCell;
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

/// What is counted for each size.
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

/// Every part of every size.
fn parts() -> impl Iterator<Item = (usize, &'static str)> {
    let sizes = SIZES.into_iter();
    sizes.flat_map(|routes| PARTS.map(|part| (routes, part)))
}

/// Does what is counted. What valgrind looks for is the name of this function.
#[inline(never)]
fn counted_by_valgrind(work: impl Fn(usize) -> usize) -> usize {
    // Something is left to do after the last call, or this function would be left before it.
    black_box((0..COUNTED).map(work).sum())
}

/// In valgrind: one part, and everything that it needs.
fn count(routes: usize, part: &str) {
    // The engine's loop runs here; with probes off it has nothing to do.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    let published = publish(routes);
    let requests = Requests::new(routes);
    let random = RefCell::new(fastrand::Rng::with_seed(2));
    let snapshot = published.load_full();
    let some = &requests.all[..COUNTED];
    let hosts: Vec<String> = some
        .iter()
        .map(|request| normal_host(&request.host).into_owned())
        .collect();
    let route = |at: usize| snapshot.route(&requests.head(&some[at], &hosts[at]));
    let done = match part {
        "the whole decision" => counted_by_valgrind(|at| {
            let random = &mut random.borrow_mut();
            usize::from(whole(&published, &requests, &some[at], random).is_some())
        }),
        "route match" => counted_by_valgrind(|at| usize::from(route(at).is_some())),
        "client's place" => {
            let routes: Vec<_> = (0..COUNTED).filter_map(route).collect();
            counted_by_valgrind(|at| {
                black_box(snapshot.locate(routes[at], some[at].client));
                1
            })
        }
        unknown => panic!("nothing is called {unknown}"),
    };
    assert_eq!(done, COUNTED, "every request is served");
}

/// Has valgrind run this program, once for each part, and reads what it counted.
fn instructions() -> BTreeMap<String, f64> {
    let folder = tempfile::tempdir().expect("a folder for what valgrind says");
    let out = folder.path().join("counts");
    let log = folder.path().join("log");
    let this = std::env::current_exe().expect("the path of this program");
    let counts = parts().map(|(routes, part)| {
        let status = Command::new("valgrind")
            .args(["--tool=callgrind", "--quiet"])
            .arg("--toggle-collect=*counted_by_valgrind*")
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(format!("--log-file={}", log.display()))
            .arg(&this)
            .args(["count", &routes.to_string(), part])
            .stdin(Stdio::null())
            .status()
            .expect("valgrind is there: apt-get install valgrind");
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(status.success(), "valgrind: {status}\n{said}");
        let text = std::fs::read_to_string(&out).expect("valgrind writes a file");
        let mut lines = text.lines();
        let totals = lines.find_map(|line| line.strip_prefix("totals:"));
        let count: f64 = totals
            .and_then(|totals| totals.trim().parse().ok())
            .expect("a number of instructions");
        let name = format!("{part}, routes: {routes}");
        assert!(count > 0.0, "{name}: nothing was counted");
        (name, (count / COUNTED as f64).round())
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
        ["count", routes, part] => count(routes.parse().expect("a number"), part),
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
