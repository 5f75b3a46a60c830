//! The least that a proxy on Portolan's engine can be (`proxy/examples/bare_round_robin.rs`): what
//! the engine itself costs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::peers::{Files, Peer, Task};
use crate::portolan::BINARY;
use crate::process::Process;

pub(crate) struct Bare;

impl Peer for Bare {
    fn name(&self) -> &'static str {
        "bare pingora"
    }

    fn version(&self) -> Result<String, String> {
        static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
        BUILT.get_or_init(build).clone()?;
        Ok("the engine, endpoints in turn".to_owned())
    }

    /// Its arguments, a line each.
    fn files(&self, task: &Task, _: &Path) -> Files {
        let mut arguments = vec![task.listen.to_string()];
        if let Some((at, folder)) = &task.tls {
            arguments.extend(["--tls".to_owned(), at.to_string()]);
            arguments.push(folder.display().to_string());
        }
        let clouds = task.clouds.iter().filter(|cloud| cloud.weight > 0);
        let endpoints = clouds.flat_map(|cloud| &cloud.endpoints);
        arguments.extend(endpoints.map(|endpoint| endpoint.to_string()));
        vec![("arguments", arguments.join("\n"))]
    }

    fn command(&self, folder: &Path) -> Command {
        let arguments = std::fs::read_to_string(folder.join("arguments"));
        let mut command = Command::new(binary());
        command.args(arguments.expect("they were written").lines());
        command
    }

    /// It knows its endpoints for good.
    fn reload(&self, _: &Process) {}
}

fn binary() -> PathBuf {
    Path::new(BINARY).with_file_name("examples/bare_round_robin")
}

/// Builds it, unless it is there and up to date. What else is asked for is there already, and makes
/// its dependencies the same.
fn build() -> Result<(), String> {
    let built = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--release", "--quiet", "--bin", "portolan"])
        .args(["--package", "portolan", "--package", "portolan-proxy"])
        .args(["--example", "bare_round_robin", "--bench", "throughput"])
        .stdin(Stdio::null())
        .status();
    match built {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo: {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}
