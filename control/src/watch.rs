//! Watches files: those a configuration is made of, and the geo databases.
//!
//! Folders are watched, not files, because editors write a new file and rename it, and Kubernetes
//! swaps a symbolic link beside it; a watch on the file itself would go on watching the old one.
//! Whatever appears, disappears or is renamed there may matter; what is written matters only in a
//! watched file, for logs may lie beside it.
//! Events are collected: the change is told 20 ms after the last of them, and at the latest 200 ms
//! after the first.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long it must be quiet before a change is told.
const QUIET: Duration = Duration::from_millis(20);

/// How long a change is kept back at most.
const LONGEST: Duration = Duration::from_millis(200);

/// A watch over folders.
#[derive(Debug)]
pub struct FileWatch {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    /// What the watched files are called.
    names: Arc<ArcSwap<BTreeSet<OsString>>>,
    events: mpsc::UnboundedReceiver<()>,
}

impl FileWatch {
    /// A watch over nothing yet.
    ///
    /// # Errors
    /// When the system has no watches left.
    pub fn new() -> notify::Result<Self> {
        let (tell, events) = mpsc::unbounded_channel();
        let names: Arc<ArcSwap<BTreeSet<OsString>>> = Arc::default();
        let known = names.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An error may hide a change.
            if event.map_or(true, |event| matters(&event, &known.load())) {
                let _ = tell.send(());
            }
        })?;
        Ok(Self {
            watcher,
            watched: BTreeSet::new(),
            names,
            events,
        })
    }

    /// Watches these files and folders from now on, and nothing else.
    pub fn set<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        let mut wanted = BTreeSet::new();
        let mut names = BTreeSet::new();
        for path in paths {
            look_for(path, &mut wanted, &mut names);
        }
        self.names.store(Arc::new(names));
        for gone in self.watched.difference(&wanted) {
            // A folder that was deleted has taken its watch along.
            let _ = self.watcher.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for folder in wanted {
            if self.watched.contains(&folder)
                || self
                    .watcher
                    .watch(&folder, RecursiveMode::NonRecursive)
                    .is_ok()
            {
                watched.insert(folder);
            } else {
                tracing::warn!(
                    "cannot watch {}: changes there are only seen on reload",
                    folder.display()
                );
            }
        }
        self.watched = watched;
    }

    /// Returns when something changed and it is quiet again.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            // The watcher is gone, and with it every change.
            std::future::pending::<()>().await;
        }
        let limit = Instant::now() + LONGEST;
        loop {
            let quiet = (Instant::now() + QUIET).min(limit);
            match tokio::time::timeout_at(quiet, self.events.recv()).await {
                Ok(Some(())) if Instant::now() < limit => {}
                _ => return,
            }
        }
    }
}

/// Whether an event may have changed what watched files say.
fn matters(event: &Event, names: &BTreeSet<OsString>) -> bool {
    match event.kind {
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_) | ModifyKind::Any) => {
            let mut called = event.paths.iter().filter_map(|path| path.file_name());
            called.any(|name| names.contains(name))
        }
        _ => true,
    }
}

/// The folders in which a change of `path` can be seen: its own, and those of every symbolic link
/// on the way to the file itself; and what the file and those links are called.
fn look_for(path: &Path, folders: &mut BTreeSet<PathBuf>, names: &mut BTreeSet<OsString>) {
    const MOST_LINKS: usize = 32;
    if path.is_dir() {
        folders.insert(path.to_path_buf());
        return;
    }
    let mut next = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        names.extend(next.file_name().map(ToOwned::to_owned));
        let folder = match next.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
            _ => PathBuf::from("."),
        };
        // A folder on the way may be a link itself: Kubernetes' `..data` is one.
        if let (Ok(real), Some(above)) = (folder.canonicalize(), folder.parent())
            && real != folder
            && above.is_dir()
        {
            folders.insert(above.to_path_buf());
        }
        if folder.is_dir() {
            folders.insert(folder.clone());
        }
        match std::fs::read_link(&next) {
            Ok(target) => next = folder.join(target),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(watch: &mut FileWatch) -> bool {
        tokio::time::timeout(Duration::from_secs(10), watch.changed())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn renamed_files_and_swapped_links_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("portolan.yaml");
        std::fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new().unwrap();
        watch.set([file.as_path()]);
        let new = folder.path().join("portolan.yaml.new");
        std::fs::write(&new, "2").unwrap();
        std::fs::rename(&new, &file).unwrap();
        assert!(told(&mut watch).await);

        // As Kubernetes does it: the file is a link into a folder that is a link.
        let mounted = folder.path().join("mounted");
        std::fs::create_dir_all(mounted.join("..one")).unwrap();
        std::fs::create_dir_all(mounted.join("..two")).unwrap();
        std::fs::write(mounted.join("..one/portolan.yaml"), "1").unwrap();
        std::fs::write(mounted.join("..two/portolan.yaml"), "2").unwrap();
        let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, mounted.join(at)).unwrap();
        link("..one", "..data");
        link("..data/portolan.yaml", "portolan.yaml");
        watch.set([mounted.join("portolan.yaml").as_path()]);
        link("..two", "..data_tmp");
        std::fs::rename(mounted.join("..data_tmp"), mounted.join("..data")).unwrap();
        assert!(told(&mut watch).await);
    }

    #[tokio::test]
    async fn a_log_beside_the_file_may_grow() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let log = folder.path().join("access.log");
        std::fs::write(&file, "1").unwrap();
        std::fs::write(&log, "a line\n").unwrap();
        let mut watch = FileWatch::new().unwrap();
        watch.set([file.as_path()]);
        let mut open = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        std::io::Write::write_all(&mut open, b"another line\n").unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(early.is_err(), "the log is not the file");
        std::fs::write(&file, "2").unwrap();
        assert!(told(&mut watch).await);
    }

    #[tokio::test]
    async fn a_burst_is_told_once_and_reading_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new().unwrap();
        watch.set([file.as_path()]);
        for n in 0..20 {
            std::fs::write(&file, n.to_string()).unwrap();
        }
        assert!(told(&mut watch).await);
        std::fs::read_to_string(&file).unwrap();
        let again = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(again.is_err(), "told twice, or told that somebody read");
    }
}
