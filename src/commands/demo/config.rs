//! The demo's configuration file.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::cloud::Cloud;

const TEMPLATE: &str = include_str!("portolan.yaml");

/// How a file begins that the demo wrote, and may write again.
const MARK: &str = "# Written by `portolan demo`";

/// The file as written.
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Writes the file into a folder, which is made if it is not there. Somebody else's file is left
/// alone.
pub(super) fn write(
    folder: &Path,
    port: u16,
    admin_port: u16,
    clouds: &[Cloud],
) -> anyhow::Result<Written> {
    let path = folder.join("portolan.yaml");
    match fs::read_to_string(&path) {
        Ok(text) if !text.starts_with(MARK) => bail!(
            "{} was not written by the demo, and is left alone: choose another --folder",
            path.display()
        ),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", path.display()));
        }
    }
    let text = filled_in(port, admin_port, clouds);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Written { path, text })
}

fn filled_in(port: u16, admin_port: u16, clouds: &[Cloud]) -> String {
    let mut text = TEMPLATE
        .replace("{port}", &port.to_string())
        .replace("{admin_port}", &admin_port.to_string());
    for cloud in clouds {
        let addresses: Vec<String> = cloud
            .addresses()
            .map(|address| format!("\"{address}\""))
            .collect();
        text = text.replace(&format!("{{{}}}", cloud.name()), &addresses.join(", "));
    }
    text
}
