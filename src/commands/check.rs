//! `portolan check`

use std::process::ExitCode;

use portolan_control::configuration;

use crate::cli::CheckArgs;
use crate::{exit, machine, output};

pub(super) fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let path = machine::config_file(args.config.config)?;
    let outcome = configuration::check(&path, &machine::machine());
    let report = &outcome.report;
    if args.format.is_json() {
        output::json(&report.to_json());
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
    }
    Ok(if report.has_errors() {
        exit::FAILED
    } else {
        exit::DONE
    })
}
