//! What was heard of changes, and when it is time to read: purely, with the time as an argument.
//!
//! A file that is written in place passes through states that nobody meant. The system tells when
//! it was written and when whoever wrote it has closed it; between the two it is not read. A file
//! that was renamed into its place is there as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portolan_config::Stamp;
use tokio::time::Instant;

/// How long it must be quiet before a change is told.
pub(super) const QUIET: Duration = Duration::from_millis(20);

/// How long a change is kept back at most, if none of the files is written in place.
pub(super) const LONGEST: Duration = Duration::from_millis(200);

/// The same if they are: whoever closes and opens a file again and again is not waited for longer.
const LONGEST_IN_PLACE: Duration = Duration::from_secs(10);

/// A file that is open for writing is waited for until it has not been written for so long.
pub const OPEN_QUIET: Duration = Duration::from_secs(5);

/// How long a file is open for writing before somebody is told.
const TELL_OPEN: Duration = Duration::from_secs(1);

/// Something that happened to a file, or beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It was created or written, and is not closed yet.
    Written(PathBuf),
    /// Whoever wrote it has closed it; what it was like then.
    Closed(PathBuf, Option<Stamp>),
    /// Something about it changed. On some file systems that is all that is told when it was written.
    Touched(PathBuf),
    /// Another file has its name now, or none has.
    Replaced(PathBuf),
    /// Something appeared, disappeared or was renamed beside the files, or above them.
    Around,
    /// Something may have been missed.
    Lost,
}

/// What changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Files that were written in place, by their paths without links, and what they were like when they
    /// were closed last, where that is known.
    pub in_place: BTreeMap<PathBuf, Option<Stamp>>,
    /// Those among them that have become shorter.
    pub shorter: BTreeSet<PathBuf>,
    /// Anything may have changed in any manner.
    pub unknown: bool,
}

impl Changed {
    /// Anything may have changed in any manner.
    pub fn unknown() -> Self {
        Self {
            unknown: true,
            ..Self::default()
        }
    }

    /// Whether a file, by its path without links, may have been written in place: then it may not be
    /// whole yet.
    pub fn may_be_cut(&self, path: &Path) -> bool {
        self.unknown || self.in_place.contains_key(path)
    }

    /// Adds what changed later.
    pub fn add(&mut self, later: Self) {
        self.in_place.extend(later.in_place);
        self.shorter = later.shorter;
        self.unknown |= later.unknown;
    }
}

/// A file that was written and not closed yet.
#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    last: Instant,
}

/// What was heard and not told yet.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When the first was heard of all that was not told yet, and the last.
    span: Option<(Instant, Instant)>,
    /// When a file was written in place last.
    in_place: Option<Instant>,
    /// When the first of them was closed.
    closed: Option<Instant>,
    open: BTreeMap<PathBuf, Open>,
    changed: Changed,
    /// Somebody was told that a file is open.
    told_open: bool,
    /// What was told seems unfinished to whoever reads it.
    pub(super) doubted: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before something is heard.
    Nothing,
    /// Nothing before this time, or before something is heard.
    Wait(Instant),
    /// It may be told that this file is being written, and that nothing is read before it is closed.
    TellOpen(PathBuf),
    /// It is time to read.
    Read(Changed),
}

impl Heard {
    /// Something was heard. Whether it says that anything changed.
    pub(super) fn note(&mut self, what: What, now: Instant) -> bool {
        match what {
            What::Written(path) => {
                let open = self.open.entry(path.clone()).or_insert(Open {
                    since: now,
                    last: now,
                });
                open.last = now;
                self.changed.in_place.insert(path, None);
                self.in_place = Some(now);
            }
            What::Closed(path, stamp) => {
                let was_open = self.open.remove(&path).is_some();
                // Opened for writing, and never written.
                if !was_open && !self.changed.in_place.contains_key(&path) {
                    return false;
                }
                self.changed.in_place.insert(path, stamp);
                self.in_place = Some(now);
                self.closed.get_or_insert(now);
            }
            What::Touched(path) => {
                self.changed.in_place.insert(path, None);
                self.in_place = Some(now);
            }
            What::Replaced(path) => {
                self.open.remove(&path);
                self.changed.in_place.remove(&path);
            }
            What::Around => {}
            What::Lost => self.changed.unknown = true,
        }
        let first = self.span.map_or(now, |(first, _)| first);
        self.span = Some((first, now));
        true
    }

    /// What is to be done at this time.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        // Whoever keeps a file open for ever cannot be waited for.
        self.open.retain(|_, open| now < open.last + OPEN_QUIET);
        if let Some(last) = self.open.values().map(|open| open.last).max() {
            let mut until = last + OPEN_QUIET;
            let oldest = self.open.iter().min_by_key(|(_, open)| open.since);
            if !self.told_open
                && let Some((path, open)) = oldest
            {
                let tell = open.since + TELL_OPEN;
                if tell <= now {
                    self.told_open = true;
                    return Due::TellOpen(path.clone());
                }
                until = until.min(tell);
            }
            return Due::Wait(until);
        }
        let Some((first, last)) = self.span else {
            return Due::Nothing;
        };
        let mut limit = first + LONGEST;
        if let Some(in_place) = self.in_place {
            limit = limit.max(in_place + QUIET);
            if let Some(closed) = self.closed {
                limit = limit.min(closed + LONGEST_IN_PLACE);
            }
        }
        let at = (last + QUIET).min(limit);
        if now < at {
            return Due::Wait(at);
        }
        (self.span, self.told_open) = (None, false);
        (self.in_place, self.closed) = (None, None);
        Due::Read(std::mem::take(&mut self.changed))
    }

    /// A file that is being written, or may be: nobody should rely on what is read of it now.
    pub(super) fn unfinished(&self, now: Instant) -> Option<&Path> {
        let heard = self.changed.in_place.keys().next();
        self.open_now(now)
            .next()
            .or(heard.map(PathBuf::as_path))
            .or(self.doubted.then(|| Path::new("")))
    }

    /// The files that are being written.
    pub(super) fn open_now(&self, now: Instant) -> impl Iterator<Item = &Path> {
        let open = self.open.iter();
        open.filter(move |(_, open)| now < open.last + OPEN_QUIET)
            .map(|(path, _)| path.as_path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A story in made-up time: what is heard when, in milliseconds, and when it is told.
    struct Story {
        heard: Heard,
        start: Instant,
        now: u64,
    }

    impl Story {
        fn new() -> Self {
            Self {
                heard: Heard::default(),
                start: Instant::now(),
                now: 0,
            }
        }

        fn at(&self, milliseconds: u64) -> Instant {
            self.start + Duration::from_millis(milliseconds)
        }

        fn hear(&mut self, milliseconds: u64, what: What) {
            assert!(self.told_until(milliseconds).is_empty(), "told too early");
            self.heard.note(what, self.at(milliseconds));
            self.now = milliseconds;
        }

        /// Everything that is told until then, and when, as whoever waits finds out.
        fn told_until(&mut self, end: u64) -> Vec<(u64, Due)> {
            let mut told = Vec::new();
            loop {
                let now = self.at(self.now);
                match self.heard.due(now) {
                    Due::Nothing => break,
                    Due::Wait(until) => {
                        assert!(until > now, "waiting for what has been");
                        let next = until.duration_since(self.start).as_millis() as u64;
                        if next > end {
                            break;
                        }
                        self.now = next;
                    }
                    due => told.push((self.now, due)),
                }
            }
            self.now = self.now.max(end);
            told
        }

        /// When it is time to read, if nothing else is heard.
        fn read_at(&mut self) -> u64 {
            let told = self.told_until(self.now + 60_000);
            let read = told.iter().find(|(_, due)| matches!(due, Due::Read(_)));
            read.map(|(at, _)| *at).expect("it is never read")
        }
    }

    fn written() -> What {
        What::Written("a".into())
    }

    fn closed() -> What {
        What::Closed("a".into(), None)
    }

    #[test]
    fn what_is_written_in_place_is_read_when_it_is_closed_however_long_that_takes() {
        for pause in [1, 5, 30, 200, 900, 4_900] {
            let mut story = Story::new();
            for piece in 0..50 {
                story.heard.note(written(), story.at(piece * pause));
                story.now = piece * pause;
                let told = story.told_until(piece * pause + pause - 1);
                assert!(
                    told.iter().all(|(_, due)| matches!(due, Due::TellOpen(_))),
                    "{pause}: {told:?}"
                );
                assert!(told.len() <= 1);
            }
            let end = story.now;
            story.heard.note(closed(), story.at(end));
            assert_eq!(story.read_at(), end + 20, "{pause}");
        }
    }

    #[test]
    fn whoever_keeps_a_file_open_is_told_of_and_waited_for_five_seconds() {
        let mut story = Story::new();
        story.hear(0, written());
        story.hear(300, written());
        let told = story.told_until(60_000);
        let [(tell, Due::TellOpen(path)), (read, Due::Read(changed))] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!((*tell, *read), (1_000, 5_300));
        assert_eq!(path, Path::new("a"));
        assert!(changed.may_be_cut(Path::new("a")));
        // It writes again, and is waited for again; closing what was read already is no change.
        story.hear(70_000, written());
        story.hear(70_100, closed());
        assert_eq!(story.read_at(), 70_120);
        story.hear(140_000, closed());
        assert!(story.told_until(200_000).is_empty());
    }

    #[test]
    fn one_that_is_renamed_into_its_place_is_read_at_once() {
        let mut story = Story::new();
        story.hear(0, What::Around);
        story.hear(5, What::Replaced("a".into()));
        let told = story.told_until(1_000);
        let expected = Due::Read(Changed::default());
        assert_eq!(told, [(25, expected)]);
        // Even if another one was being written in that place before.
        story.hear(2_000, written());
        story.hear(2_010, What::Replaced("a".into()));
        let told = story.told_until(3_000);
        assert_eq!(told, [(2_030, Due::Read(Changed::default()))]);
    }

    #[test]
    fn what_goes_on_around_delays_nothing_for_long_but_writing_does() {
        let mut story = Story::new();
        for at in 0..18 {
            story.hear(at * 11, What::Around);
        }
        story.heard.note(What::Around, story.at(198));
        assert_eq!(story.read_at(), 200);

        // A program that opens the file anew for every line.
        let mut story = Story::new();
        for at in 0..100 {
            story.hear(at * 12, written());
            story.hear(at * 12 + 1, closed());
        }
        assert_eq!(story.read_at(), 99 * 12 + 1 + 20);

        // For ever.
        let mut story = Story::new();
        let mut at = 0;
        let read = loop {
            story.heard.note(written(), story.at(at));
            story.heard.note(closed(), story.at(at));
            if let Some((read, _)) = story.told_until(at + 12).first() {
                break *read;
            }
            at += 12;
        };
        assert_eq!(read, 10_000);
    }

    #[test]
    fn of_several_files_all_are_waited_for() {
        let mut story = Story::new();
        story.hear(0, written());
        story.hear(1, What::Written("b".into()));
        story.hear(2, closed());
        assert!(story.told_until(700).is_empty());
        story.hear(
            800,
            What::Closed(
                "b".into(),
                Some(Stamp {
                    length: 7,
                    ..Stamp::default()
                }),
            ),
        );
        let told = story.told_until(1_000);
        let [(820, Due::Read(changed))] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(changed.in_place.len(), 2);
        assert_eq!(changed.in_place[Path::new("b")].unwrap().length, 7);
        assert!(!changed.may_be_cut(Path::new("c")));
    }

    #[test]
    fn a_file_is_unfinished_until_what_was_heard_of_it_was_told() {
        let mut story = Story::new();
        let unfinished = |story: &Story| story.heard.unfinished(story.at(story.now)).is_some();
        assert!(!unfinished(&story));
        story.hear(0, written());
        assert_eq!(story.heard.open_now(story.at(0)).count(), 1);
        story.hear(10, closed());
        assert_eq!(story.heard.open_now(story.at(10)).count(), 0);
        assert!(unfinished(&story));
        story.told_until(1_000);
        assert!(!unfinished(&story));
        story.heard.doubted = true;
        assert!(unfinished(&story));
        // What only happened beside the files is nothing to wait for.
        story.heard.doubted = false;
        story.hear(2_000, What::Around);
        assert!(!unfinished(&story));
    }
}
