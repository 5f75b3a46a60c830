//! The border to the process's environment: read here, once, and handed in everywhere else.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use portolan_config::Machine;

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
