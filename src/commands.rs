//! The commands, one file each.

mod check;
mod demo;
mod drain;
mod events;
mod explain;
mod instance;
mod run;
mod runtime;
mod show;
mod upgrade;
mod weights;

use std::process::ExitCode;

use crate::cli::{Cli, Command};
use crate::{exit, output};

/// Does what was asked for.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(args),
        Command::Show(args) => show::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Status(args) => instance::status(&args),
        Command::Pools(args) => instance::pools(&args),
        Command::Drain(args) => drain::drain(&args),
        Command::Undrain(args) => drain::undrain(&args),
        Command::Weights(args) => weights::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Reload(args) => instance::reload(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Schema => {
            output::json(&portolan_config::json_schema());
            Ok(exit::DONE)
        }
    }
}
