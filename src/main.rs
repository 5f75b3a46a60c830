//! The `portolan` command.
//!
//! [`cli`] says what can be asked of it, [`commands`] does it; [`assemble`] puts a serving process
//! together from its parts.

mod assemble;
mod cli;
mod client;
mod commands;
mod exit;
mod machine;
mod output;
mod systemd;
mod telemetry;
mod upgrade;

use std::process::ExitCode;

use clap::Parser as _;

/// Requests make and free many small things on every worker: the C library's allocator took a seventh
/// of their time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // What is not written is not kept: with huge pages every corner of memory that is touched is two
    // megabytes of it. A system that cannot be asked has none.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // Before anything else can choose another one.
    portolan_certs::install_provider();
    let asked = match cli::Cli::try_parse() {
        Ok(asked) => asked,
        Err(other) => return answer(&other),
    };
    match commands::run(asked) {
        Ok(code) if output::is_complete() => code,
        Ok(_) => exit::FAILED,
        Err(error) => {
            output::complain(&error);
            exit::FAILED
        }
    }
}

/// Prints the help or the version, or what is wrong with the command line.
fn answer(other: &clap::Error) -> ExitCode {
    let text = other.render();
    if other.use_stderr() {
        // What the library prints has colours where they are wanted.
        let _ = other.print();
        return ExitCode::from(u8::try_from(other.exit_code()).unwrap_or(2));
    }
    let text = match output::has_colours(&std::io::stdout()) {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    output::result(&text);
    match output::is_complete() {
        true => ExitCode::SUCCESS,
        false => exit::FAILED,
    }
}
