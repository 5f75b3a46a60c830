//! From configuration files to everything a running process needs of them, or to a report that says
//! why not. At start, on reload, and for `portolan check`: the same steps, in the same order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_certs::{Keyring, Material};
use portolan_config::diagnostic::{Code, Diagnostic, Report};
use portolan_config::plan::Plan;
use portolan_config::source::Origin;
use portolan_config::{Checked, Inputs, Machine, SavedSource, WatchedFiles, plan_file, plan_saved};

use crate::decision::explain;
use crate::geo::Locator;
use crate::telemetry::access_log::AccessLog;

/// A configuration that can run: every file it names was read, and its tests hold.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The configuration.
    pub plan: Arc<Plan>,
    /// Its certificates.
    pub material: Arc<Material>,
    /// Its geo databases.
    pub locator: Arc<Locator>,
}

/// What became of reading a configuration.
#[derive(Debug)]
pub struct Outcome {
    /// It, if it can run.
    pub ready: Option<Ready>,
    /// What was found, good and bad.
    pub report: Report,
    /// What to watch for changes.
    pub watch: WatchedFiles,
    /// What was found there.
    pub inputs: Inputs,
    /// The texts it was read from.
    pub saved: Vec<SavedSource>,
    /// Where it says that state is kept, as far as that can be read.
    pub state_dir: PathBuf,
}

/// Where a configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// This file and all it includes.
    File(PathBuf),
    /// Texts that were kept, the main one first.
    Saved(Vec<SavedSource>),
}

/// Reads a configuration, opens the files it names, and runs its tests.
pub fn read(source: &Source, machine: &Machine, keyring: &Keyring) -> Outcome {
    let checked = match source {
        Source::File(path) => plan_file(path, machine),
        Source::Saved(saved) => plan_saved(saved, machine),
    };
    let saved = checked.saved_sources();
    let state_dir = checked.state_dir().to_path_buf();
    let Checked {
        mut report,
        plan,
        mut watch,
        inputs,
        ..
    } = checked;
    let ready = plan.and_then(|plan| {
        watch_geo(&plan, &mut watch);
        match make_ready(plan, keyring) {
            Ok(ready) => {
                add(&mut report, ready.material.warnings.clone());
                add(&mut report, ready.locator.doubts().to_vec());
                Some(ready)
            }
            Err(found) => {
                add(&mut report, found);
                None
            }
        }
    });
    Outcome {
        ready,
        report,
        watch,
        inputs,
        saved,
        state_dir,
    }
}

fn add(report: &mut Report, found: Vec<Diagnostic>) {
    if !found.is_empty() {
        let all = std::mem::take(&mut report.diagnostics);
        let sources = std::mem::take(&mut report.sources);
        *report = Report::new(sources, all.into_iter().chain(found).collect());
    }
}

fn watch_geo(plan: &Plan, watch: &mut WatchedFiles) {
    let databases = plan.geoip.database.iter().chain(&plan.geoip.asn_database);
    watch.files.extend(databases.map(|file| file.value.clone()));
}

fn make_ready(plan: Arc<Plan>, keyring: &Keyring) -> Result<Ready, Vec<Diagnostic>> {
    let mut found = Vec::new();
    let material = Material::load(&plan, keyring).unwrap_or_else(|more| {
        found.extend(more);
        Material::default()
    });
    let locator = match Locator::load(&plan.geoip, plan.needs()) {
        Ok(locator) => Arc::new(locator),
        Err(more) => {
            found.extend(more);
            return Err(found);
        }
    };
    found.extend(explain::run_tests(&plan, &locator));
    if let Err(error) = AccessLog::check(plan.access_log.as_ref()) {
        found.push(Diagnostic::error(
            Code::Unreadable,
            Origin::Default,
            format!("the access log cannot be written: {error}"),
        ));
    }
    if found.is_empty() {
        Ok(Ready {
            plan,
            material: Arc::new(material),
            locator,
        })
    } else {
        Err(found)
    }
}

/// Everything that `portolan check` says about a file: the same as [`read`], without opening what
/// would be written.
pub fn check(path: &Path, machine: &Machine) -> Outcome {
    read(&Source::File(path.to_path_buf()), machine, &Keyring::new())
}
