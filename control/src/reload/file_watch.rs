//! Watches files: those a configuration is made of, the geo databases, and certificates.
//!
//! Folders are watched, not files, because editors write a new file and rename it, and Kubernetes
//! swaps a symbolic link beside it; a watch on the file itself would go on watching the old one.
//! Whatever appears, disappears or is renamed there may matter; what is written matters only in a
//! watched file, for logs may lie beside it.
//! Events are collected: the change is told 20 ms after the last of them, and at the latest 200 ms
//! after the first; but not while one of the files is being written (see [`heard`]).
//!
//! # No change is missed
//! A change counts as seen when the files are read after it. So:
//! - What was heard stays heard until it was told, even if nobody goes on waiting for it.
//! - What is newly watched may have changed between being read and being watched: whoever sets the
//!   watch is told to read once more.
//! - A folder that is deleted, moved or put in the place of another takes the system's watch with
//!   it: all watches are set anew then, and when the system says that it lost count.
//!
//! # No state in between is taken for a change
//! Whoever reads may find that a file looks cut off ([`Read::Unfinished`]): it is read again when
//! more is heard, or when it has been quiet for longer ([`CUT_QUIET`]).

mod heard;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use portolan_config::{Stamp, WatchedFiles};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use heard::{Due, Heard, What};

pub use heard::{Changed, OPEN_QUIET};

/// How long it must be quiet before a file is believed that looks cut off.
pub const CUT_QUIET: Duration = Duration::from_secs(2);

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
    /// The files, without a link in their paths, also those that are not there.
    files: BTreeSet<PathBuf>,
    /// Folders in which other files may be meant as well.
    whole: BTreeSet<PathBuf>,
    /// Which.
    like: Arc<WatchedFiles>,
}

impl Watched {
    /// Whether what stands in this file matters.
    fn is_meant(&self, path: &Path) -> bool {
        self.files.contains(path)
            || path
                .parent()
                .is_some_and(|folder| self.whole.contains(folder))
                && path
                    .file_name()
                    .is_some_and(|name| self.like.may_mean(name))
    }
}

/// Which files are being written just now, as far as those who watch have heard.
#[derive(Debug, Default)]
pub struct Writing(Mutex<Vec<Weak<Mutex<Heard>>>>);

impl Writing {
    fn join(&self, heard: &Arc<Mutex<Heard>>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(heard));
    }

    fn first<T>(&self, ask: impl Fn(&Heard) -> Option<T>) -> Option<T> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .filter_map(Weak::upgrade)
            .find_map(|heard| ask(&lock(&heard)))
    }

    /// A file that somebody has written and not closed yet.
    pub fn open(&self) -> Option<PathBuf> {
        let now = Instant::now();
        self.first(|heard| heard.open_now(now).next().map(Path::to_path_buf))
    }

    /// A file that is not to be relied upon: it is open, was written since it was read last, or looks
    /// cut off. Which one is not always known.
    pub fn unfinished(&self) -> Option<PathBuf> {
        let now = Instant::now();
        self.first(|heard| heard.unfinished(now).map(Path::to_path_buf))
    }
}

/// A file that may have been written since it was heard that something `changed`, among those that were
/// read, with what they were like then.
pub fn written_since<'a>(
    changed: &Changed,
    read: impl IntoIterator<Item = (&'a Path, Stamp)>,
) -> Option<PathBuf> {
    let is_another = |stamp: Stamp| {
        let closed = changed.in_place.values().flatten();
        let mut same = closed.filter(|closed| closed.file == stamp.file);
        same.any(|closed| *closed != stamp)
    };
    let mut read = read.into_iter();
    read.find(|(_, stamp)| stamp.unsteady || is_another(*stamp))
        .map(|(path, _)| path.to_path_buf())
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is told of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// This file is being written: nothing is read before it is closed.
    Open(PathBuf),
    /// It is time to read.
    Changed(Changed),
}

/// A watch over folders.
#[derive(Debug)]
pub struct FileWatch {
    watcher: RecommendedWatcher,
    watched: Arc<ArcSwap<Watched>>,
    /// The system's watches may be on folders that are no longer where they were.
    moved: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
    /// Something was heard.
    events: mpsc::Receiver<()>,
    /// How long the files were when they were looked for.
    lengths: BTreeMap<PathBuf, u64>,
}

impl FileWatch {
    /// A watch over nothing yet. What is being written is known to `writing` as well.
    ///
    /// # Errors
    /// When the system has no watches left.
    pub fn new(writing: &Writing) -> notify::Result<Self> {
        // One that waits stands for all that follow.
        let (tell, events) = mpsc::channel(1);
        let watched: Arc<ArcSwap<Watched>> = Arc::default();
        let moved: Arc<AtomicBool> = Arc::default();
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let (known, lost, hears) = (watched.clone(), moved.clone(), heard.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let known = known.load();
            // An error may hide a change.
            if event
                .as_ref()
                .map_or(true, |event| moves(event, &known.folders))
            {
                lost.store(true, Ordering::Release);
            }
            let what = match &event {
                Ok(event) => said(event, &known),
                Err(_) => Some(What::Lost),
            };
            if let Some(what) = what
                && lock(&hears).note(what, Instant::now())
            {
                let _ = tell.try_send(());
            }
        })?;
        writing.join(&heard);
        Ok(Self {
            watcher,
            watched,
            moved,
            heard,
            events,
            lengths: BTreeMap::new(),
        })
    }

    /// Watches these files and folders from now on, and nothing else. Whether anything of it was
    /// not watched until now: then it may have changed since it was read, and nobody was told.
    #[must_use]
    pub fn set(&mut self, paths: &WatchedFiles) -> bool {
        let before = self.watched.load_full();
        let mut armed = before.folders.clone();
        if self.moved.swap(false, Ordering::AcqRel) {
            for folder in std::mem::take(&mut armed) {
                // A folder that was deleted has taken its watch along.
                let _ = self.watcher.unwatch(&folder);
            }
        }
        let like = Arc::new(WatchedFiles {
            patterns: paths.patterns.clone(),
            ..WatchedFiles::default()
        });
        let mut failed = BTreeSet::new();
        let mut news = false;
        for _ in 0..MOST_LOOKS {
            let mut wanted = Watched {
                like: like.clone(),
                ..Watched::default()
            };
            for path in paths.files.iter().chain(&paths.folders) {
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
        let mut watched = Watched::clone(&self.watched.load());
        watched.folders = armed;
        let files = watched.files.iter();
        self.lengths = files
            .filter_map(|path| Some((path.clone(), path.metadata().ok()?.len())))
            .collect();
        self.watched.store(Arc::new(watched));
        news
    }

    /// Returns when something changed and it is quiet again, or when that takes long because a file is
    /// open. Whoever stops waiting misses nothing.
    pub async fn told(&mut self) -> Told {
        loop {
            let due = lock(&self.heard).due(Instant::now());
            let until = match due {
                Due::Read(changed) => return Told::Changed(self.measured(changed)),
                Due::TellOpen(path) => return Told::Open(path),
                Due::Wait(until) => Some(until),
                Due::Nothing => None,
            };
            let event = self.events.recv();
            let heard = match until {
                Some(until) => tokio::time::timeout_at(until, event).await,
                None => Ok(event.await),
            };
            if heard == Ok(None) {
                // The watcher is gone, and with it every change.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Returns when something changed and is believed to be whole: a file that has become shorter may
    /// have been cut off, and is left alone until it has been quiet for longer.
    pub async fn settled(&mut self) {
        loop {
            let until = lock(&self.heard).doubted.then_some(CUT_QUIET);
            let told = match until {
                Some(quiet) => tokio::time::timeout(quiet, self.told()).await,
                None => Ok(self.told().await),
            };
            let doubted = match told {
                Ok(Told::Open(_)) => continue,
                Ok(Told::Changed(changed)) => !changed.shorter.is_empty(),
                Err(_) => false,
            };
            lock(&self.heard).doubted = doubted;
            if !doubted {
                return;
            }
        }
    }

    /// What was told seems unfinished, or does no longer.
    fn doubt(&self, doubted: bool) {
        lock(&self.heard).doubted = doubted;
    }

    /// Notes which files have become shorter since they were looked for.
    fn measured(&self, mut changed: Changed) -> Changed {
        let shorter = changed.in_place.keys().filter(|path| {
            let before = self.lengths.get(*path).copied();
            let now = path.metadata().map_or(0, |found| found.len());
            before.is_some_and(|before| now < before)
        });
        changed.shorter = shorter.cloned().collect();
        changed
    }
}

/// What became of reading files that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// They say what somebody meant, good or bad.
    Done,
    /// They may not be whole: to be read again when more is heard, or when it has been quiet for
    /// [`CUT_QUIET`].
    Unfinished,
    /// They are not whole: to be read again when more is heard.
    Incomplete,
}

/// Who reads files again when they change.
pub trait Follow {
    /// Reads them. `certain`: it has been quiet for so long that what stands there is meant.
    fn read(&mut self, changed: &Changed, certain: bool) -> impl Future<Output = Read> + Send;

    /// Is told that this file is being written, and will be read when it is closed.
    fn open(&mut self, file: &Path);
}

/// Has somebody read the files whenever something changes in what is `watched`, until nobody says any
/// more what that is.
pub async fn keep_up(
    mut watch: FileWatch,
    mut watched: watch::Receiver<WatchedFiles>,
    mut follower: impl Follow,
) {
    loop {
        let paths = watched.borrow_and_update().clone();
        let mut unread = watch.set(&paths).then(Changed::unknown);
        let mut certain = false;
        // Until it is read, or until something else is to be watched.
        loop {
            let quiet = match &unread {
                None => None,
                Some(changed) => {
                    // Whoever reads it now decides that anew.
                    watch.doubt(false);
                    let read = follower.read(changed, certain).await;
                    watch.doubt(read == Read::Unfinished);
                    match read {
                        Read::Done => break,
                        Read::Unfinished => Some(CUT_QUIET),
                        Read::Incomplete => None,
                    }
                }
            };
            let longer = async {
                match quiet {
                    Some(quiet) => tokio::time::sleep(quiet).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = watch.told() => match told {
                    Told::Open(file) => follower.open(&file),
                    Told::Changed(more) => {
                        unread.get_or_insert_default().add(more);
                        certain = false;
                    }
                },
                () = longer => certain = true,
                changed = watched.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
            }
        }
    }
}

/// What an event says about the files that are watched, if it says anything.
fn said(event: &Event, watched: &Watched) -> Option<What> {
    if event.need_rescan() {
        return Some(What::Lost);
    }
    let path = event.paths.first()?;
    let meant = watched.is_meant(path);
    let named = || {
        let name = path.file_name();
        name.is_some_and(|name| watched.names.contains(name))
    };
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            meant.then(|| What::Closed(path.clone(), stamp(path)))
        }
        EventKind::Access(_) => None,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
            meant.then(|| What::Written(path.clone()))
        }
        EventKind::Modify(ModifyKind::Metadata(_)) if meant => Some(What::Touched(path.clone())),
        EventKind::Modify(ModifyKind::Metadata(_)) => named().then_some(What::Around),
        // Whoever creates a file has it open; a link that appears is there as a whole.
        EventKind::Create(CreateKind::File) if meant && is_being_made(path) => {
            Some(What::Written(path.clone()))
        }
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
            if meant =>
        {
            Some(What::Replaced(path.clone()))
        }
        _ => Some(What::Around),
    }
}

/// What a file is like now.
fn stamp(path: &Path) -> Option<Stamp> {
    Some(Stamp::of(&path.metadata().ok()?))
}

/// Whether a file that has just appeared was created, and not linked from elsewhere.
fn is_being_made(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    path.symlink_metadata()
        .is_ok_and(|found| found.is_file() && found.nlink() == 1)
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
            watched.files.insert(next);
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
            watched.files.insert(next);
            watched.folders.insert(at);
            return;
        }
    }
    watched.whole.insert(at.clone());
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
    use super::heard::LONGEST;
    use super::*;

    /// Waits until it is told that something changed.
    async fn told(watch: &mut FileWatch) -> bool {
        let changed = async { while let Told::Open(_) = watch.told().await {} };
        tokio::time::timeout(Duration::from_secs(10), changed)
            .await
            .is_ok()
    }

    fn watch() -> FileWatch {
        FileWatch::new(&Writing::default()).unwrap()
    }

    /// This file alone.
    fn only(path: &Path) -> WatchedFiles {
        WatchedFiles {
            files: [path.to_path_buf()].into(),
            ..WatchedFiles::default()
        }
    }

    #[tokio::test]
    async fn renamed_files_and_swapped_links_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("portolan.yaml");
        std::fs::write(&file, "1").unwrap();
        let mut watch = watch();
        let _ = watch.set(&only(&file));
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
        let _ = watch.set(&only(&mounted.join("portolan.yaml")));
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
        let mut watch = watch();
        let _ = watch.set(&only(&file));
        let mut open = std::fs::OpenOptions::new().append(true).open(&log).unwrap();
        std::io::Write::write_all(&mut open, b"another line\n").unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), watch.told()).await;
        assert!(early.is_err(), "the log is not the file");
        std::fs::write(&file, "2").unwrap();
        assert!(told(&mut watch).await);
    }

    #[tokio::test]
    async fn a_burst_is_told_once_and_reading_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "1").unwrap();
        let mut watch = watch();
        let _ = watch.set(&only(&file));
        for n in 0..20 {
            std::fs::write(&file, n.to_string()).unwrap();
        }
        assert!(told(&mut watch).await);
        std::fs::read_to_string(&file).unwrap();
        let again = tokio::time::timeout(Duration::from_millis(300), watch.told()).await;
        assert!(again.is_err(), "told twice, or told that somebody read");
    }

    #[tokio::test]
    async fn who_stops_waiting_is_told_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "1").unwrap();
        let mut watch = watch();
        assert!(watch.set(&only(&file)));
        assert!(!watch.set(&only(&file)), "nothing new");
        std::fs::write(&file, "2").unwrap();
        // Until the event was taken, and the wait for quiet has begun.
        while lock(&watch.heard).unfinished(Instant::now()).is_none() {
            let _ = tokio::time::timeout(Duration::from_millis(5), watch.told()).await;
        }
        assert!(told(&mut watch).await);
    }

    /// A configuration of one file, read again whenever it changes, as a reload does it: the last
    /// word is what has been read last.
    struct Follower {
        read: watch::Receiver<String>,
        task: tokio::task::JoinHandle<()>,
    }

    /// Reads the file, as a reload does: what was written meanwhile is read again.
    struct Reads {
        file: PathBuf,
        writing: Arc<Writing>,
        watched: watch::Sender<WatchedFiles>,
        tell: watch::Sender<String>,
        all: Arc<Mutex<Vec<String>>>,
    }

    impl Follow for Reads {
        async fn read(&mut self, changed: &Changed, certain: bool) -> Read {
            let text = std::fs::read_to_string(&self.file);
            let read = stamp(&self.file).map(|stamp| (self.file.as_path(), stamp));
            if self.writing.unfinished().is_some()
                || (!certain && written_since(changed, read).is_some())
            {
                return Read::Unfinished;
            }
            if let Ok(text) = text {
                self.all.lock().unwrap().push(text.clone());
                self.tell.send_replace(text);
            }
            self.watched.send_replace(only(&self.file));
            Read::Done
        }

        fn open(&mut self, _: &Path) {}
    }

    impl Follower {
        fn of(file: &Path) -> Self {
            Self::with(file).0
        }

        /// It, and everything that it reads.
        fn with(file: &Path) -> (Self, Arc<Mutex<Vec<String>>>) {
            let (tell, read) = watch::channel(String::new());
            let (watched, receiver) = watch::channel(only(file));
            let all: Arc<Mutex<Vec<String>>> = Arc::default();
            let writing: Arc<Writing> = Arc::default();
            let watch = FileWatch::new(&writing).unwrap();
            let reads = Reads {
                file: file.to_path_buf(),
                writing,
                watched,
                tell,
                all: all.clone(),
            };
            let task = tokio::spawn(keep_up(watch, receiver, reads));
            (Self { read, task }, all)
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
        let mut watch = watch();
        let set = |watch: &mut FileWatch| while watch.set(&only(&file)) {};
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
        while tokio::time::timeout(LONGEST, watch.told()).await.is_ok() {}
        set(&mut watch);
        std::fs::write(&file, "2").unwrap();
        assert!(told(&mut watch).await);
    }

    /// What is written in place, in pieces and with pauses, is read as a whole or not at all.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nothing_is_read_that_is_only_half_written() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let text = |number: usize| format!("{}end {number}\n", "line\n".repeat(200));
        std::fs::write(&file, text(0)).unwrap();
        let (mut follower, all) = Follower::with(&file);
        let first = follower.read.wait_for(|read| *read == text(0));
        assert!(first.await.is_ok(), "it is watched from here on");
        let mut random = fastrand::Rng::with_seed(7);
        for number in 1..=25 {
            let text = text(number);
            let mut open = if random.bool() {
                std::fs::File::create(&file).unwrap()
            } else {
                // Gone, and back under the same name.
                std::fs::remove_file(&file).unwrap();
                std::fs::File::create_new(&file).unwrap()
            };
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(random.usize(1..=rest.len()));
                open.write_all(piece).unwrap();
                rest = more;
                tokio::time::sleep(Duration::from_millis(random.u64(0..60))).await;
            }
            drop(open);
            if random.bool() {
                tokio::time::sleep(Duration::from_millis(random.u64(..60))).await;
            }
        }
        follower.ends_with(&text(25)).await;
        let all = all.lock().unwrap();
        let whole = (0..=25).map(text).collect::<Vec<_>>();
        for read in &*all {
            assert!(whole.contains(read), "{} bytes were read", read.len());
        }
    }

    #[tokio::test]
    async fn who_else_asks_knows_that_a_file_is_being_written() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "1").unwrap();
        let writing = Writing::default();
        let mut watch = FileWatch::new(&writing).unwrap();
        let _ = watch.set(&only(&file));
        assert_eq!((writing.open(), writing.unfinished()), (None, None));
        let mut open = std::fs::File::create(&file).unwrap();
        open.write_all(b"12").unwrap();
        while writing.open().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let real = file.canonicalize().unwrap();
        assert_eq!(writing.open(), Some(real.clone()));
        let Told::Open(told) = watch.told().await else {
            panic!("it was told before it was closed");
        };
        assert_eq!(told, real);
        drop(open);
        let Told::Changed(changed) = watch.told().await else {
            panic!("told twice");
        };
        assert_eq!(changed.in_place[&real], stamp(&file));
        assert_eq!((writing.open(), writing.unfinished()), (None, None));
        assert!(changed.shorter.is_empty());
        let _ = watch.set(&only(&file));
        // One that has become shorter is left alone for longer.
        std::fs::write(&file, "1").unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), watch.settled()).await;
        assert!(early.is_err() && writing.unfinished().is_some());
        std::fs::write(&file, "123").unwrap();
        tokio::time::timeout(Duration::from_secs(10), watch.settled())
            .await
            .unwrap();
        assert_eq!(writing.unfinished(), None);
        drop(watch);
        std::fs::write(&file, "1").unwrap();
        assert_eq!(writing.unfinished(), None, "nobody watches any more");
    }

    #[tokio::test]
    async fn files_that_an_include_would_match_are_waited_for_before_they_were_ever_read() {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch();
        let _ = watch.set(&WatchedFiles {
            folders: [folder.path().to_path_buf()].into(),
            patterns: ["*.yaml".to_owned()].into(),
            ..WatchedFiles::default()
        });
        let mut open = std::fs::File::create_new(folder.path().join("b.yaml")).unwrap();
        let mut log = std::fs::File::create_new(folder.path().join("b.log")).unwrap();
        open.write_all(b"pools:").unwrap();
        log.write_all(b"a line").unwrap();
        let told = watch.told().await;
        assert!(matches!(told, Told::Open(_)), "{told:?}");
        drop(open);
        assert!(
            matches!(watch.told().await, Told::Changed(_)),
            "nobody waits for the log"
        );
    }
}
