//! The border to the process's environment: read here, once, and handed in everywhere else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use portolan_config::Machine;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Where the configuration is looked for when nobody says.
const USUAL_PLACES: [&str; 2] = ["portolan.yaml", "/etc/portolan/portolan.yaml"];

/// The machine, with every environment variable.
pub(crate) fn machine() -> Machine {
    let variables = std::env::vars_os();
    Machine::new(variables.filter_map(|(name, value)| {
        // A variable that is not text cannot be part of a text.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    }))
}

/// An environment variable, if it is set and text.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::vars_os()
        .find(|(key, _)| key == name)
        .and_then(|(_, value)| value.into_string().ok())
        .filter(|value| !value.is_empty())
}

/// How this command was called, for texts that say how to call it again.
pub(crate) fn command() -> String {
    std::env::args()
        .next()
        .unwrap_or_else(|| env!("CARGO_PKG_NAME").to_owned())
}

/// What this process was started as, to be started again.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Where the binary is. A link is not followed before it is started: it may lead to a newer
    /// version then, and so may the path itself.
    pub(crate) path: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
}

/// What this process was started as. Called while the current folder is still the one it was
/// started in.
pub(crate) fn program() -> anyhow::Result<Program> {
    let mut arguments = std::env::args_os();
    let name = PathBuf::from(arguments.next().unwrap_or_default());
    let path = if name.components().count() > 1 {
        Some(std::path::absolute(&name)?)
    } else {
        on_the_path(&name)
    };
    let path = match path.filter(|path| path.is_file()) {
        Some(path) => path,
        // Whoever started it gave it another name than its file has.
        None => std::env::current_exe().context("cannot tell where this binary is")?,
    };
    Ok(Program {
        path,
        arguments: arguments.collect(),
    })
}

fn on_the_path(name: &Path) -> Option<PathBuf> {
    let folders = std::env::vars_os().find(|(key, _)| key == "PATH")?.1;
    std::env::split_paths(&folders)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The configuration file: the one given, or the first of the usual places.
pub(crate) fn config_file(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given);
    }
    match USUAL_PLACES
        .iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
    {
        Some(found) => Ok(found),
        None => bail!(
            "no configuration: neither ./{} nor {} is there, and no --config was given",
            USUAL_PLACES[0],
            USUAL_PLACES[1]
        ),
    }
}

/// How many descriptors this process may have from now on: as many as the system lets it, whatever it was
/// started with.
pub(crate) fn raise_open_files() -> u64 {
    let before = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: before.maximum,
        ..before
    };
    let (now, raised) = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => (wanted.current, wanted.current != before.current),
        Err(_) => (before.current, false),
    };
    if raised {
        let number = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |it| it.to_string());
        tracing::debug!(
            "open files: raised from {} to {}",
            number(before.current),
            number(now)
        );
    }
    now.unwrap_or(u64::MAX)
}

/// How many descriptors a process that is started from here can have.
pub(crate) fn most_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// What is to be said when listeners take more clients than there can be descriptors for, if they do.
pub(crate) fn too_few_open_files(needed: u64, limit: u64) -> Option<String> {
    (limit < needed).then(|| {
        format!(
            "all clients that `limits.connections` allows, each with a connection to an endpoint, need \
             {needed} descriptors, and the process may have {limit}: clients beyond that wait; raise \
             `LimitNOFILE=` of the unit, or `ulimit -n`, or lower `limits.connections`"
        )
    })
}

/// How many worker threads: the environment's word, the file's, or a core each.
pub(crate) fn workers(configured: Option<u32>) -> anyhow::Result<usize> {
    const NAME: &str = "PORTOLAN_WORKERS";
    if let Some(text) = variable(NAME) {
        return match text.parse() {
            Ok(workers @ 1..=1024) => Ok(workers),
            _ => bail!("{NAME} is `{text}`, not a number from 1 to 1024"),
        };
    }
    if let Some(workers) = configured {
        return Ok(workers as usize);
    }
    let cores = std::thread::available_parallelism().context("cannot count the cores")?;
    Ok(cores.get())
}
