//! Watches files: those a configuration is made of, and the geo databases.
//!
//! Folders are watched, not files, because editors write a new file and rename it, and Kubernetes
//! swaps a symbolic link beside it; a watch on the file itself would go on watching the old one.
//! Whatever appears, disappears or is renamed there may matter; what is written matters only in a
//! watched file, for logs may lie beside it.
//! Events are collected: the change is told 20 ms after the last of them, and at the latest 200 ms
//! after the first.
//!
//! # No change is missed
//! A change counts as seen when the files are read after it. So:
//! - What was heard stays heard until it was told, even if nobody goes on waiting for it.
//! - What is newly watched may have changed between being read and being watched: whoever sets the
//!   watch is told to read once more.
//! - A folder that is deleted, moved or put in the place of another takes the system's watch with
//!   it: all watches are set anew then, and when the system says that it lost count.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use portolan_config::Watch;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How long it must be quiet before a change is told.
const QUIET: Duration = Duration::from_millis(20);

/// How long a change is kept back at most.
const LONGEST: Duration = Duration::from_millis(200);

/// Links on the way to one file; the system itself follows no more.
const MOST_LINKS: usize = 40;

/// How often folders are looked for again when one is gone before it could be watched.
const MOST_LOOKS: usize = 8;

/// What is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Watched {
    /// The folders, without a link in their paths.
    folders: BTreeSet<PathBuf>,
    /// What the watched files and the links to them are called.
    names: BTreeSet<OsString>,
}

/// A watch over folders.
#[derive(Debug)]
pub struct FileWatch {
    watcher: RecommendedWatcher,
    watched: Arc<ArcSwap<Watched>>,
    /// The system's watches may be on folders that are no longer where they were.
    moved: Arc<AtomicBool>,
    events: mpsc::Receiver<()>,
    /// When the first event was heard of a change that was not told yet.
    heard: Option<Instant>,
}

impl FileWatch {
    /// A watch over nothing yet.
    ///
    /// # Errors
    /// When the system has no watches left.
    pub fn new() -> notify::Result<Self> {
        // One that waits stands for all that follow.
        let (tell, events) = mpsc::channel(1);
        let watched: Arc<ArcSwap<Watched>> = Arc::default();
        let moved: Arc<AtomicBool> = Arc::default();
        let (known, lost) = (watched.clone(), moved.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let known = known.load();
            // An error may hide a change.
            if event
                .as_ref()
                .map_or(true, |event| moves(event, &known.folders))
            {
                lost.store(true, Ordering::Release);
            }
            if event.map_or(true, |event| matters(&event, &known.names)) {
                let _ = tell.try_send(());
            }
        })?;
        Ok(Self {
            watcher,
            watched,
            moved,
            events,
            heard: None,
        })
    }

    /// Watches these files and folders from now on, and nothing else. Whether anything of it was
    /// not watched until now: then it may have changed since it was read, and nobody was told.
    #[must_use]
    pub fn set<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) -> bool {
        let paths: Vec<&Path> = paths.into_iter().collect();
        let before = self.watched.load_full();
        let mut armed = before.folders.clone();
        if self.moved.swap(false, Ordering::AcqRel) {
            for folder in std::mem::take(&mut armed) {
                // A folder that was deleted has taken its watch along.
                let _ = self.watcher.unwatch(&folder);
            }
        }
        let mut failed = BTreeSet::new();
        let mut news = false;
        for _ in 0..MOST_LOOKS {
            let mut wanted = Watched::default();
            for path in &paths {
                look_for(path, &mut wanted);
            }
            news |= !wanted.names.is_subset(&before.names);
            for gone in armed.difference(&wanted.folders) {
                let _ = self.watcher.unwatch(gone);
            }
            armed.retain(|folder| wanted.folders.contains(folder));
            // Before the watches, so that what they tell is understood.
            self.watched.store(Arc::new(wanted.clone()));
            failed.clear();
            for folder in wanted.folders.difference(&armed.clone()) {
                match self.watcher.watch(folder, RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        news = true;
                        armed.insert(folder.clone());
                    }
                    Err(_) => {
                        failed.insert(folder.clone());
                    }
                }
            }
            // It may have gone just now.
            if failed.iter().all(|folder| folder.is_dir()) {
                break;
            }
        }
        for folder in &failed {
            tracing::warn!(
                "cannot watch {}: changes there are only seen on reload",
                folder.display()
            );
        }
        let names = self.watched.load().names.clone();
        self.watched.store(Arc::new(Watched {
            folders: armed,
            names,
        }));
        news
    }

    /// Returns when something changed and it is quiet again. Whoever stops waiting misses nothing.
    pub async fn changed(&mut self) {
        let heard = match self.heard {
            Some(heard) => heard,
            None => {
                if self.events.recv().await.is_none() {
                    // The watcher is gone, and with it every change.
                    std::future::pending::<()>().await;
                }
                *self.heard.insert(Instant::now())
            }
        };
        let limit = heard + LONGEST;
        loop {
            let quiet = (Instant::now() + QUIET).min(limit);
            match tokio::time::timeout_at(quiet, self.events.recv()).await {
                Ok(Some(())) if Instant::now() < limit => {}
                _ => break,
            }
        }
        self.heard = None;
    }
}

/// Calls `reload` whenever something changes in what is `watched`, until nobody says any more what
/// that is.
pub async fn keep_up<Reload: Future<Output = ()>>(
    mut watch: FileWatch,
    mut watched: watch::Receiver<Watch>,
    mut reload: impl FnMut() -> Reload,
) {
    loop {
        let paths = watched.borrow_and_update().clone();
        let files = paths.files.iter().chain(&paths.folders);
        if watch.set(files.map(PathBuf::as_path)) {
            reload().await;
            continue;
        }
        tokio::select! {
            () = watch.changed() => reload().await,
            changed = watched.changed() => if changed.is_err() {
                return;
            },
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

/// Whether a watched folder is no longer where it was, or the system lost count.
fn moves(event: &Event, folders: &BTreeSet<PathBuf>) -> bool {
    let leaves = matches!(
        event.kind,
        EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Both))
    );
    event.need_rescan() || (leaves && event.paths.iter().any(|path| folders.contains(path)))
}

/// Where a change of `path` can be seen: the folder it is in, or the folder it is, and those of
/// every symbolic link on the way. Where the way ends too early, the last folder there is.
fn look_for(path: &Path, watched: &mut Watched) {
    // What the system does with a path, step by step. Kubernetes' `..data` is a link to a folder,
    // and releases are often swapped by a link far above the file.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut steps: VecDeque<OsString> = steps_of(&path).collect();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(step) = steps.pop_front() {
        if step == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&step);
        let Ok(found) = next.symlink_metadata() else {
            watched.names.insert(step);
            watched.folders.insert(at);
            return;
        };
        if found.is_symlink() {
            watched.names.insert(step);
            watched.folders.insert(at.clone());
            links += 1;
            let Ok(target) = std::fs::read_link(&next) else {
                // Swapped just now, which is told.
                return;
            };
            if links > MOST_LINKS {
                return;
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for step in steps_of(&target).collect::<Vec<_>>().into_iter().rev() {
                steps.push_front(step);
            }
        } else if found.is_dir() {
            at = next;
        } else {
            watched.names.insert(step);
            watched.folders.insert(at);
            return;
        }
    }
    watched.folders.insert(at);
}

/// The steps of a path from its beginning.
fn steps_of(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsStr::new("..").to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
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
        let _ = watch.set([file.as_path()]);
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
        let _ = watch.set([mounted.join("portolan.yaml").as_path()]);
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
        let _ = watch.set([file.as_path()]);
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
        let _ = watch.set([file.as_path()]);
        for n in 0..20 {
            std::fs::write(&file, n.to_string()).unwrap();
        }
        assert!(told(&mut watch).await);
        std::fs::read_to_string(&file).unwrap();
        let again = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(again.is_err(), "told twice, or told that somebody read");
    }

    #[tokio::test]
    async fn who_stops_waiting_is_told_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::new().unwrap();
        assert!(watch.set([file.as_path()]));
        assert!(!watch.set([file.as_path()]), "nothing new");
        std::fs::write(&file, "2").unwrap();
        // Until the event was taken, and the wait for quiet has begun.
        while watch.heard.is_none() {
            let _ = tokio::time::timeout(QUIET / 4, watch.changed()).await;
        }
        assert!(told(&mut watch).await);
    }

    /// A configuration of one file, read again whenever it changes, as a reload does it: the last
    /// word is what has been read last.
    struct Follower {
        read: watch::Receiver<String>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Follower {
        fn of(file: &Path) -> Self {
            let file = file.to_path_buf();
            let paths = Watch {
                files: [file.clone()].into(),
                ..Watch::default()
            };
            let (tell, read) = watch::channel(String::new());
            let task = tokio::spawn(async move {
                let (watched, receiver) = watch::channel(paths.clone());
                let watch = FileWatch::new().unwrap();
                let reload = || async {
                    if let Ok(text) = tokio::fs::read_to_string(&file).await {
                        tell.send_replace(text);
                    }
                    watched.send_replace(paths.clone());
                };
                keep_up(watch, receiver, reload).await;
            });
            Self { read, task }
        }

        async fn ends_with(mut self, text: &str) {
            let wanted = self.read.wait_for(|read| read == text);
            let found = tokio::time::timeout(Duration::from_secs(20), wanted).await;
            let found = found.map(|found| found.is_ok());
            assert_eq!(found, Ok(true), "`{text}` was never read");
            self.task.abort();
        }
    }

    fn replace(file: &Path, text: &str) {
        let new = file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, file).unwrap();
    }

    fn point(link: &Path, to: &Path) {
        let new = link.with_extension("new");
        std::os::unix::fs::symlink(to, &new).unwrap();
        std::fs::rename(&new, link).unwrap();
    }

    /// Each way of replacing a file, again and again, with and without a breath between two of
    /// them; the last one is always seen, even if the first came before anybody watched.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_last_change_is_always_seen() {
        for round in 0..30_u64 {
            let folder = tempfile::tempdir().unwrap();
            let releases = folder.path().join("releases");
            for release in 0..3 {
                std::fs::create_dir_all(releases.join(release.to_string())).unwrap();
                std::fs::write(releases.join(format!("{release}/a.yaml")), "first").unwrap();
            }
            let current = folder.path().join("current");
            point(&current, &releases.join("0"));
            let file = current.join("a.yaml");
            let follower = Follower::of(&file);
            let mut random = fastrand::Rng::with_seed(round);
            for change in 0..12 {
                let text = format!("{round}.{change}");
                match random.u8(..5) {
                    0 => std::fs::write(&file, &text).unwrap(),
                    1 => replace(&file, &text),
                    2 => {
                        let release = releases.join(random.u8(..3).to_string());
                        replace(&release.join("a.yaml"), &text);
                        point(&current, &release);
                    }
                    3 => {
                        // The folder itself makes room for another one.
                        let release = releases.join(random.u8(..3).to_string());
                        let old = releases.join("old");
                        std::fs::rename(&release, &old).unwrap();
                        std::fs::create_dir(&release).unwrap();
                        std::fs::write(release.join("a.yaml"), &text).unwrap();
                        std::fs::remove_dir_all(&old).unwrap();
                        point(&current, &release);
                    }
                    _ => {
                        std::fs::remove_file(&file).unwrap();
                        std::fs::write(&file, &text).unwrap();
                    }
                }
                if random.bool() {
                    tokio::time::sleep(Duration::from_millis(random.u64(..40))).await;
                }
            }
            follower.ends_with(&format!("{round}.11")).await;
        }
    }

    #[tokio::test]
    async fn folders_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("etc/portolan");
        let file = home.join("a.yaml");
        // Not there yet.
        let mut watch = FileWatch::new().unwrap();
        let set = |watch: &mut FileWatch| while watch.set([file.as_path()]) {};
        set(&mut watch);
        std::fs::create_dir_all(&home).unwrap();
        assert!(told(&mut watch).await);
        set(&mut watch);
        std::fs::write(&file, "1").unwrap();
        assert!(told(&mut watch).await);
        // Gone, and back under the same name.
        std::fs::remove_dir_all(&home).unwrap();
        assert!(told(&mut watch).await);
        std::fs::create_dir(&home).unwrap();
        set(&mut watch);
        while tokio::time::timeout(LONGEST, watch.changed()).await.is_ok() {}
        set(&mut watch);
        std::fs::write(&file, "2").unwrap();
        assert!(told(&mut watch).await);
    }
}
