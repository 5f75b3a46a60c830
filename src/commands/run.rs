//! `portolan run`

use std::process::ExitCode;

use crate::assemble::{Start, serve};
use crate::cli::RunArgs;
use crate::machine;

pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    serve(Start {
        config: machine::config_file(args.config.config)?,
        last_known_good: args.last_known_good,
        program: Some(machine::program()?),
        ready: Box::new(|_| {}),
    })
}
