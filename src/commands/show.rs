//! `portolan show`

use std::process::ExitCode;

use portolan_config::check_file;

use crate::cli::ShowArgs;
use crate::{exit, machine, output};

pub(super) fn run(args: ShowArgs) -> anyhow::Result<ExitCode> {
    let path = machine::config_file(args.config.config)?;
    let checked = check_file(&path, &machine::machine());
    if checked.report.has_errors() {
        output::report(&checked.report);
        return Ok(exit::FAILED);
    }
    let shown = match (args.effective, args.format.is_json()) {
        (true, true) => checked.effective_json().map(|json| output::json(&json)),
        (true, false) => checked.effective_yaml().map(|yaml| output::result(&yaml)),
        (false, true) => checked.written_json().map(|json| output::json(&json)),
        (false, false) => checked.written_yaml().map(|yaml| output::result(&yaml)),
    };
    Ok(if shown.is_some() {
        exit::DONE
    } else {
        exit::FAILED
    })
}
