//! `portolan check`

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use portolan_config::plan::Plan;
use portolan_control::reload::configuration;
use serde_json::json;

use crate::cli::CheckArgs;
use crate::{exit, machine, output};

pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let path = machine::config_file(args.config.config)?;
    let outcome = configuration::check(&path, &machine::machine());
    let report = &outcome.report;
    if args.format.is_json() {
        let mut found = report.to_json();
        found["failover_bounds_ms"] = match &outcome.ready {
            Some(ready) => json!(
                bounds(&ready.plan)
                    .map(|(pool, bound)| (pool.to_owned(), bound.as_millis() as u64))
                    .collect::<BTreeMap<_, _>>()
            ),
            None => json!({}),
        };
        output::json(&found);
    } else {
        output::report(report);
        let tests = outcome
            .ready
            .as_ref()
            .map_or(0, |ready| ready.plan.tests.len());
        let said = match (report.summary(), tests) {
            (summary, 0) if summary.is_empty() => "fine".to_owned(),
            (summary, 1) if summary.is_empty() => "fine, and its test holds".to_owned(),
            (summary, tests) if summary.is_empty() => {
                format!("fine, and its {tests} tests hold")
            }
            (summary, _) => summary,
        };
        output::result(&format!("{}: {said}", path.display()));
        if let Some(ready) = &outcome.ready {
            for line in noticed(&ready.plan) {
                output::result(&line);
            }
            // About this machine, and not about the file: no part of what scripts read.
            let needed = portolan_proxy::descriptors_needed(&ready.plan);
            if let Some(worry) = machine::too_few_open_files(needed, machine::most_open_files()) {
                output::note(&format!("note: on this machine, {worry}"));
            }
        }
    }
    Ok(if report.has_errors() {
        exit::FAILED
    } else {
        exit::DONE
    })
}

/// How long a dead endpoint of each pool may get requests, for the pools that are probed.
fn bounds(plan: &Plan) -> impl Iterator<Item = (&str, Duration)> {
    plan.pools.iter().filter_map(|pool| {
        let bound = pool.probe.as_ref()?.failover_bound();
        Some((pool.name.as_str(), bound))
    })
}

/// The same in words, one line for all pools that are alike.
fn noticed(plan: &Plan) -> Vec<String> {
    const NAMED: usize = 4;
    let mut alike: BTreeMap<Duration, Vec<&str>> = BTreeMap::new();
    for (pool, bound) in bounds(plan) {
        alike.entry(bound).or_default().push(pool);
    }
    let line = |(bound, pools): (Duration, Vec<&str>)| {
        let named = pools[..pools.len().min(NAMED)].join(", ");
        let more = match pools.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let seconds = bound.as_secs_f64();
        format!("a dead endpoint is left within {seconds:.1} s: {named}{more}")
    };
    alike.into_iter().map(line).collect()
}
