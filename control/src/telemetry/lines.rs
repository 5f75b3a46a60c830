//! Lines on their way to a file or a stream: through a bounded queue to a thread that writes them.
//!
//! Whoever has a line hands it over and goes on, whatever the disk or the reader at the other end does.
//! When the queue is full, or when the sink takes nothing (a full disk), lines are lost: they are
//! counted, and [`loss_watch`](crate::background::loss_watch) tells when that begins and when it is over.
//!
//! Each sink has a thread of its own. A write into a pipe that nobody reads can take for ever, so the
//! thread that is stuck in it stays there, and the lines of the next sink have another one.

use std::fs::{File, OpenOptions};
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use portolan_config::plan::LogSink;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::sync::Notify;

use crate::counters::Counter;
use crate::events::log_loss::Why;

/// As much as is written at once, if so much is there.
pub(crate) const MOST: usize = 32 << 10;

/// How long the last lines may take to be written when the process ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How long to wait for a stream that does not block and takes nothing now.
const STREAM_FULL_PAUSE: Duration = Duration::from_millis(5);

/// Takes lines and never waits. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    thread_name: &'static str,
    /// How many messages may wait for the thread that writes.
    room: usize,
    /// The thread that writes now; none: lines go nowhere.
    queue: ArcSwapOption<Queue>,
    loss: Arc<Loss>,
}

/// Where a thread that writes takes its lines from. The thread ends when this is dropped and every line
/// is written.
#[derive(Debug)]
struct Queue {
    messages: SyncSender<Message>,
    /// Disconnected when the thread has ended.
    ended: Arc<Mutex<Receiver<()>>>,
    sink: LogSink,
    /// Lines go elsewhere now: what cannot be written soon is given up.
    replaced: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Message {
    /// Whole lines.
    Lines(Vec<u8>),
    /// Tell when everything so far is written.
    Flush(SyncSender<()>),
}

/// What was lost of one log.
#[derive(Debug, Default)]
pub struct Loss {
    /// Lines that nobody will see.
    pub lines: Counter,
    /// Writes that went well.
    written: Counter,
    /// How many there were when the last line was lost.
    written_before: AtomicU64,
    why: Mutex<Option<Why>>,
    /// Rings with each loss.
    pub(crate) alarm: Notify,
}

impl Loss {
    fn of(&self, bytes: &[u8], why: Why) {
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
        self.count(lines.max(1) as u64, why);
    }

    fn count(&self, lines: u64, why: Why) {
        self.lines.add(lines);
        self.written_before
            .store(self.written.get(), Ordering::Relaxed);
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.alarm.notify_one();
    }

    /// Why the last one was lost, if any was.
    pub fn why(&self) -> Option<Why> {
        self.why
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether anything was written since the last line was lost.
    pub(crate) fn is_written_again(&self) -> bool {
        self.written.get() > self.written_before.load(Ordering::Relaxed)
    }
}

impl Lines {
    /// Lines that go nowhere yet, through a queue with room for so many messages.
    pub fn new(thread_name: &'static str, room: usize, loss: Arc<Loss>) -> Self {
        Self(Arc::new(Inner {
            thread_name,
            room,
            queue: ArcSwapOption::empty(),
            loss,
        }))
    }

    /// Sends lines somewhere else from now on, or nowhere. A file is opened again even if it is the same
    /// one, so that a log that was moved away is left. What was handed over before is still written
    /// where it was to go.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread can be had; then nothing has changed.
    pub fn redirect(&self, sink: Option<&LogSink>) -> io::Result<()> {
        let now = self.0.queue.load();
        let same = now.as_ref().is_some_and(|now| Some(&now.sink) == sink);
        // There is nothing to open again, and if a thread is stuck there, one is enough.
        if same && matches!(sink, Some(LogSink::Stdout | LogSink::Stderr)) {
            return Ok(());
        }
        let queue = match sink {
            None => None,
            Some(sink) => Some(Arc::new(self.start(sink)?)),
        };
        if let Some(before) = self.0.queue.swap(queue) {
            before.replaced.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn start(&self, sink: &LogSink) -> io::Result<Queue> {
        let (messages, received) = sync_channel(self.0.room);
        let (running, ended) = sync_channel(0);
        let replaced = Arc::<AtomicBool>::default();
        let mut pen = Pen {
            output: Output::open(sink)?,
            rest: Vec::new(),
            loss: self.0.loss.clone(),
            replaced: replaced.clone(),
            given_up: false,
        };
        std::thread::Builder::new()
            .name(self.0.thread_name.to_owned())
            .spawn(move || {
                pen.write_all(&received);
                drop(running);
            })?;
        Ok(Queue {
            messages,
            ended: Arc::new(Mutex::new(ended)),
            sink: sink.clone(),
            replaced,
        })
    }

    /// Hands over whole lines. They are lost if too many wait already.
    pub fn send(&self, bytes: Vec<u8>) {
        let queue = self.0.queue.load();
        let Some(queue) = &*queue else {
            return;
        };
        let message = Message::Lines(bytes);
        if let Err(error) = queue.messages.try_send(message) {
            let (std::sync::mpsc::TrySendError::Full(message)
            | std::sync::mpsc::TrySendError::Disconnected(message)) = error;
            if let Message::Lines(bytes) = message {
                self.0.loss.of(&bytes, Why::Behind);
            }
        }
    }

    /// Returns when every line so far is written, or after so long.
    pub fn flush(&self, patience: Duration) {
        let (done, told) = sync_channel(1);
        let queue = self.0.queue.load_full();
        if let Some(queue) = queue
            && queue.messages.try_send(Message::Flush(done)).is_ok()
        {
            let _ = told.recv_timeout(patience);
        }
    }

    /// Ends: waits for the last line, but not for ever, since a reader that has stopped reading must not
    /// keep the process. Lines that come later go nowhere.
    pub fn end(&self) {
        let Some(queue) = self.0.queue.swap(None) else {
            return;
        };
        let ended = queue.ended.clone();
        drop(queue);
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(LAST_LINES);
    }
}

impl Write for Lines {
    /// Takes whole lines: the log writes each of its entries at once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a file for lines; its folder is made if it is missing.
///
/// # Errors
/// When it cannot be opened; also when it is a pipe that nobody reads, on which the system would have us
/// wait until somebody comes.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let do_not_wait = OFlags::NONBLOCK.bits();
    let opened = OpenOptions::new()
        .create(true)
        .append(true)
        .custom_flags(do_not_wait as i32)
        .open(path);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => io::Error::other("it is a pipe that nobody reads"),
        _ => error,
    })
}

enum Output {
    Stdout,
    Stderr,
    File(File),
    #[cfg(test)]
    Test(Box<dyn Write + Send>),
}

impl Output {
    fn open(sink: &LogSink) -> io::Result<Self> {
        Ok(match sink {
            LogSink::Stdout => Self::Stdout,
            LogSink::Stderr => Self::Stderr,
            LogSink::File(path) => Self::File(open_file(path)?),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => unbuffered(rustix::stdio::stdout(), bytes),
            Self::Stderr => unbuffered(rustix::stdio::stderr(), bytes),
            Self::File(file) => file.write(bytes),
            #[cfg(test)]
            Self::Test(test) => test.write(bytes),
        }
    }
}

/// Writes to a stream past the standard library's buffer and lock: nobody else may be held up by a
/// thread that is stuck here.
fn unbuffered(stream: std::os::fd::BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(stream, bytes)?)
}

/// Writes to one output.
struct Pen {
    output: Output,
    /// The end of a line whose beginning was written: it comes first when something can be written
    /// again, so that no line is torn.
    rest: Vec<u8>,
    loss: Arc<Loss>,
    /// Lines go elsewhere now.
    replaced: Arc<AtomicBool>,
    /// It was replaced, and for too long nobody has read what it writes.
    given_up: bool,
}

impl Pen {
    fn write_all(&mut self, received: &Receiver<Message>) {
        let mut batch = Vec::new();
        while let Ok(first) = received.recv() {
            let mut next = Some(first);
            let mut told = Vec::new();
            while let Some(message) = next {
                match message {
                    // What is worth a write of its own is not copied.
                    Message::Lines(bytes) if bytes.len() >= MOST / 2 => {
                        self.put(&mut batch);
                        batch = bytes;
                        self.put(&mut batch);
                    }
                    Message::Lines(bytes) => batch.extend_from_slice(&bytes),
                    Message::Flush(done) => told.push(done),
                }
                // One write takes many lines, but not without end.
                next = match received.try_recv() {
                    Ok(message) => {
                        if batch.len() >= MOST {
                            self.put(&mut batch);
                        }
                        Some(message)
                    }
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
                };
            }
            self.put(&mut batch);
            for done in told {
                let _ = done.send(());
            }
        }
        if !self.rest.is_empty() {
            self.loss.lines.one();
        }
    }

    /// Writes what was gathered, as far as it can be.
    fn put(&mut self, batch: &mut Vec<u8>) {
        if batch.is_empty() {
            return;
        }
        if !self.rest.is_empty() {
            let mut rest = std::mem::take(&mut self.rest);
            let (taken, error) = self.write(&rest);
            if let Some(error) = error {
                rest.drain(..taken);
                self.rest = rest;
                self.loss.of(batch, Why::Refused(in_words(&error)));
                batch.clear();
                return;
            }
        }
        let (taken, error) = self.write(batch);
        if let Some(error) = error {
            let (written, left) = batch.split_at(taken);
            let torn = written.last().is_some_and(|last| *last != b'\n');
            // The rest of the line that was begun is kept, the others are lost.
            let kept = match left.iter().position(|byte| *byte == b'\n') {
                Some(at) if torn => at + 1,
                _ => 0,
            };
            self.rest = left[..kept].to_vec();
            if left.len() > kept {
                let why = Why::Refused(in_words(&error));
                self.loss.of(&left[kept..], why);
            }
        }
        batch.clear();
    }

    /// How much was written, and what was in the way of the rest.
    fn write(&mut self, bytes: &[u8]) -> (usize, Option<io::Error>) {
        let mut taken = 0;
        let mut waited = Duration::ZERO;
        while taken < bytes.len() {
            match self.output.write(&bytes[taken..]) {
                Ok(0) => return (taken, Some(io::ErrorKind::WriteZero.into())),
                Ok(more) => {
                    taken += more;
                    waited = Duration::ZERO;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pipe that does not block and is full. While lines go nowhere else, its reader may take
                // as long as it likes.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let replaced = self.replaced.load(Ordering::Relaxed);
                    if self.given_up || replaced && waited >= LAST_LINES {
                        self.given_up = true;
                        return (taken, Some(error));
                    }
                    std::thread::park_timeout(STREAM_FULL_PAUSE);
                    // Time counts from when it was replaced.
                    waited = match replaced {
                        true => waited + STREAM_FULL_PAUSE,
                        false => Duration::ZERO,
                    };
                }
                Err(error) => return (taken, Some(error)),
            }
        }
        self.loss.written.one();
        (taken, None)
    }
}

/// What the system said, without its number.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Takes so many bytes of each write, or says that there is no room.
    #[derive(Clone, Default)]
    struct Disk {
        script: Arc<Mutex<VecDeque<Option<usize>>>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = match self.script.lock().unwrap().pop_front() {
                Some(None) => return Err(io::ErrorKind::StorageFull.into()),
                Some(Some(most)) => most.min(bytes.len()),
                None => bytes.len(),
            };
            self.written.lock().unwrap().extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn pen(disk: &Disk) -> Pen {
        Pen {
            output: Output::Test(Box::new(disk.clone())),
            rest: Vec::new(),
            loss: Arc::default(),
            replaced: Arc::default(),
            given_up: false,
        }
    }

    /// A disk that is full now and then, and takes parts of what it gets: whatever is written is whole
    /// lines in order, and every line is either written or counted.
    #[test]
    fn every_line_is_written_whole_or_counted() {
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let disk = Disk::default();
            let mut pen = pen(&disk);
            let mut sent = 0_u64;
            for _ in 0..40 {
                let steps = (0..random.usize(..4)).map(|_| match random.u8(..3) {
                    0 => None,
                    _ => Some(random.usize(1..40)),
                });
                let steps: Vec<_> = steps.collect();
                disk.script.lock().unwrap().extend(steps);
                let mut batch = Vec::new();
                for _ in 0..random.u8(1..6) {
                    let line = format!("line {sent} {}\n", "x".repeat(random.usize(..20)));
                    batch.extend_from_slice(line.as_bytes());
                    sent += 1;
                }
                pen.put(&mut batch);
            }
            // There is room again, for good.
            disk.script.lock().unwrap().clear();
            pen.put(&mut format!("line {sent} \n").into_bytes());
            sent += 1;
            let written = String::from_utf8(disk.written.lock().unwrap().clone()).unwrap();
            let mut last = None;
            for line in written.lines() {
                let mut words = line.split(' ');
                assert_eq!(words.next(), Some("line"), "seed {seed}: {line}");
                let number: u64 = words.next().unwrap().parse().unwrap();
                let padding = words.next().unwrap();
                assert!(
                    padding.bytes().all(|byte| byte == b'x'),
                    "seed {seed}: {line}"
                );
                assert!(last < Some(number), "seed {seed}: {line}");
                last = Some(number);
            }
            assert!(
                written.ends_with(" \n"),
                "seed {seed}: the last one is there"
            );
            let lost = pen.loss.lines.get();
            assert_eq!(written.lines().count() as u64 + lost, sent, "seed {seed}");
        }
    }

    #[test]
    fn the_reason_is_told_in_the_words_of_the_system() {
        let disk = Disk::default();
        let mut pen = pen(&disk);
        assert_eq!(pen.loss.why(), None);
        disk.script.lock().unwrap().push_back(None);
        pen.put(&mut b"a\nb\n".to_vec());
        assert_eq!(pen.loss.lines.get(), 2);
        assert!(!pen.loss.is_written_again());
        pen.put(&mut b"c\n".to_vec());
        assert!(pen.loss.is_written_again());
        let said = io::Error::from(io::ErrorKind::StorageFull).to_string();
        assert_eq!(pen.loss.why(), Some(Why::Refused(said)));
        assert_eq!(
            in_words(&io::Error::from_raw_os_error(28)),
            "No space left on device"
        );
    }

    /// A pipe that nobody reads: whoever sends goes on, what does not fit is counted, the next sink gets
    /// its lines, and the process can end.
    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        // Opened for both, so that nobody waits for the other end.
        let reader = OpenOptions::new().read(true).write(true).open(&pipe);
        let mut reader = reader.unwrap();
        let loss: Arc<Loss> = Arc::default();
        let lines = Lines::new("stuck", 4, loss.clone());
        lines.redirect(Some(&LogSink::File(pipe))).unwrap();
        let line = || [vec![b'x'; 9_999], vec![b'\n']].concat();
        for _ in 0..100 {
            lines.send(line());
        }
        let lost = loss.lines.get();
        assert!(lost > 50, "{lost}");
        assert_eq!(loss.why(), Some(Why::Behind));
        lines.flush(Duration::from_millis(10));

        let file = folder.path().join("file");
        lines.redirect(Some(&LogSink::File(file.clone()))).unwrap();
        lines.send(b"elsewhere\n".to_vec());
        lines.end();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "elsewhere\n");

        // And whoever reads after all gets every line that was not counted.
        let mut all = vec![0; (100 - lost as usize) * 10_000];
        io::Read::read_exact(&mut reader, &mut all).unwrap();
        assert!(all.chunks(10_000).all(|chunk| chunk == line()));
    }

    #[test]
    fn lines_that_come_behind_the_end_go_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let lines = Lines::new("ending", 4, Arc::default());
        lines.send(b"before there is a sink\n".to_vec());
        lines.redirect(Some(&LogSink::File(file.clone()))).unwrap();
        lines.send(b"one\n".to_vec());
        lines.end();
        lines.send(b"two\n".to_vec());
        lines.end();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "one\n");
        assert!(
            lines
                .redirect(Some(&LogSink::File(file.join("below"))))
                .is_err()
        );
    }

    /// A named pipe that nobody reads must not keep a thread and its lines for every reload.
    #[test]
    fn a_pipe_that_nobody_reads_is_given_up_once_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        // It is there, and does not read.
        let _reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&pipe)
            .unwrap();
        let loss = Arc::<Loss>::default();
        let sink = LogSink::File(pipe);
        let lines = Lines::new("test", 64, loss.clone());
        lines.redirect(Some(&sink)).unwrap();
        for _ in 0..40 {
            lines.send(format!("{}\n", "x".repeat(8_000)).into_bytes());
        }
        let ended = lines.0.queue.load_full().unwrap().ended.clone();
        let other = LogSink::File(folder.path().join("file"));
        lines.redirect(Some(&other)).unwrap();
        // Disconnected when the thread has ended.
        let ended = ended.lock().unwrap().recv_timeout(Duration::from_secs(60));
        assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
        assert!(loss.lines.get() > 0);
        lines.end();
    }
}
