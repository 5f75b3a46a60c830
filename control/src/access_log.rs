//! The access log: lines are gathered by the thread that serves the requests, and go together through
//! a bounded queue to one that writes them. When the disk cannot follow, lines are dropped and
//! counted, and no request waits.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use portolan_config::plan::{AccessLogPlan, LogSink};
use tokio::sync::Notify;

use crate::stats::Totals;

/// What may wait for the writer, each as much as is gathered at most: a second of a busy edge.
const QUEUE: usize = 1024;

/// How long lines gather before they are written together, and how much of them. To wake the writer
/// and the disk for each would cost half as much again as the request itself.
const GATHER: Duration = Duration::from_millis(5);
const MOST: usize = 32 << 10;

/// Room for the line that makes it more than the most: most are shorter.
const LINE: usize = 1 << 10;

/// Where lines go. Cheap to clone, one for all threads.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: SyncSender<Message>,
    /// How many of 2³² requests are logged.
    sample: Arc<AtomicU32>,
    totals: Arc<Totals>,
}

/// The writing thread. Dropping it waits for the last line, but not for ever: a reader of standard
/// output that has stopped reading must not keep the process.
#[derive(Debug)]
pub struct Writer {
    lines: SyncSender<Message>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// How long the last lines may take to be written when the process ends.
const LAST_LINES: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum Message {
    /// Some lines.
    Lines(Vec<u8>),
    /// Write somewhere else from now on (or nowhere).
    Redirect(Option<LogSink>),
    /// Tell when everything so far is written.
    Flush(SyncSender<()>),
    /// Write what is there and end.
    End,
}

impl AccessLog {
    /// Starts the writing thread.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread can be had.
    pub fn start(plan: Option<&AccessLogPlan>, totals: Arc<Totals>) -> io::Result<(Self, Writer)> {
        let sink = plan.map(|plan| plan.to.clone());
        let mut output = Output::open(sink.as_ref())?;
        let (lines, received) = sync_channel(QUEUE);
        let (running, ended) = sync_channel(0);
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                write_lines(&received, &mut output);
                // First this: lines that come from here on are dropped, and counted.
                drop(received);
                drop(running);
            })?;
        let log = Self {
            lines: lines.clone(),
            sample: Arc::new(AtomicU32::new(threshold(plan))),
            totals,
        };
        Ok((log, Writer { lines, ended }))
    }

    /// Whether a request that drew this number (any number) is logged. Those that ended in an error
    /// always are, unless the log is off.
    pub fn wants(&self, drawn: u32, error: bool) -> bool {
        let sample = self.sample.load(Ordering::Relaxed);
        sample == u32::MAX || (sample > 0 && (error || drawn < sample))
    }

    /// Writes a line: `put` appends it, with its newline, to what was gathered before.
    pub fn write(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut put = Some(put);
        // A thread that ends has nothing to gather in.
        let _ = GATHERED.try_with(|gathered| {
            if let Ok(mut gathered) = gathered.try_borrow_mut()
                && let Some(gathered) = &mut *gathered
                && let Some(put) = put.take()
            {
                gathered.add(self, put);
            }
        });
        if let Some(put) = put {
            let mut line = Vec::with_capacity(LINE);
            put(&mut line);
            self.send(line, 1);
        }
    }

    /// Hands lines to the writer, or drops them.
    fn send(&self, bytes: Vec<u8>, count: u64) {
        match self.lines.try_send(Message::Lines(bytes)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.totals.access_log_dropped.add(count);
            }
        }
    }

    /// Checks that lines could be written as a new configuration says.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub fn check(plan: Option<&AccessLogPlan>) -> io::Result<()> {
        match plan.map(|plan| &plan.to) {
            Some(LogSink::File(path)) => open_file(path).map(drop),
            _ => Ok(()),
        }
    }

    /// Writes as a new configuration says. A file is opened again, so that a log that was moved
    /// away is left.
    pub fn configure(&self, plan: Option<&AccessLogPlan>) {
        self.sample.store(threshold(plan), Ordering::Relaxed);
        // Waiting here is waiting for the disk: the reload does, requests do not.
        let _ = self
            .lines
            .send(Message::Redirect(plan.map(|plan| plan.to.clone())));
    }

    /// Returns when every line so far is written that nobody gathers.
    pub fn flush(&self) {
        let (done, told) = sync_channel(1);
        if self.lines.send(Message::Flush(done)).is_ok() {
            let _ = told.recv();
        }
    }
}

thread_local! {
    /// Lines of this thread, if it gathers them.
    static GATHERED: RefCell<Option<Gathered>> = const { RefCell::new(None) };
}

/// Lines that wait for more of them.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    count: u64,
    /// Whose they are.
    log: Option<AccessLog>,
    /// Told of the first one.
    begun: Arc<Notify>,
}

impl Gathered {
    fn add(&mut self, log: &AccessLog, put: impl FnOnce(&mut Vec<u8>)) {
        let whose = self.log.as_ref();
        if whose.is_none_or(|whose| !Arc::ptr_eq(&whose.sample, &log.sample)) {
            self.send();
            self.log = Some(log.clone());
        }
        if self.count == 0 {
            self.bytes.reserve(MOST + LINE);
            self.begun.notify_one();
        }
        put(&mut self.bytes);
        self.count += 1;
        if self.bytes.len() >= MOST {
            self.send();
        }
    }

    fn send(&mut self) {
        let count = std::mem::take(&mut self.count);
        if let Some(log) = self.log.as_ref().filter(|_| count > 0) {
            log.send(std::mem::take(&mut self.bytes), count);
        }
    }
}

/// Gathers the lines of this thread, for as long as it is polled there.
pub async fn gather() {
    struct Gathering;
    impl Drop for Gathering {
        /// Whatever is still to come is written line by line.
        fn drop(&mut self) {
            let last = GATHERED.try_with(|gathered| gathered.borrow_mut().take());
            if let Ok(Some(mut last)) = last {
                last.send();
            }
        }
    }
    let gathered = Gathered::default();
    let begun = gathered.begun.clone();
    GATHERED.set(Some(gathered));
    let _gathering = Gathering;
    loop {
        begun.notified().await;
        tokio::time::sleep(GATHER).await;
        GATHERED.with_borrow_mut(|gathered| {
            if let Some(gathered) = gathered {
                gathered.send();
            }
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        const PAUSE: Duration = Duration::from_millis(10);
        for _ in 0..LAST_LINES.as_millis() / PAUSE.as_millis() {
            match self.lines.try_send(Message::End) {
                Err(TrySendError::Full(_)) => {
                    let _ = self.ended.recv_timeout(PAUSE);
                }
                Ok(()) | Err(TrySendError::Disconnected(_)) => {
                    let _ = self.ended.recv_timeout(LAST_LINES);
                    return;
                }
            }
        }
    }
}

/// The share of requests, as a bound for random numbers. `u32::MAX` is all, 0 is off; a sample of 0%
/// still logs errors, so it becomes 1.
fn threshold(plan: Option<&AccessLogPlan>) -> u32 {
    match plan {
        None => 0,
        Some(plan) if plan.sample >= 1.0 => u32::MAX,
        Some(plan) => ((plan.sample * f64::from(u32::MAX)) as u32).max(1),
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

enum Output {
    Nowhere,
    Stdout,
    Stderr,
    File(File),
}

impl Output {
    fn open(sink: Option<&LogSink>) -> io::Result<Self> {
        Ok(match sink {
            None => Self::Nowhere,
            Some(LogSink::Stdout) => Self::Stdout,
            Some(LogSink::Stderr) => Self::Stderr,
            Some(LogSink::File(path)) => Self::File(open_file(path)?),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stdout => io::stdout().write_all(bytes),
            Self::Stderr => io::stderr().write_all(bytes),
            Self::File(file) => file.write_all(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Stdout => io::stdout().flush(),
            Self::Stderr => io::stderr().flush(),
            Self::File(file) => file.flush(),
        }
    }
}

fn write_lines(received: &Receiver<Message>, output: &mut Output) {
    let mut complained = false;
    let mut batch = Vec::new();
    while let Ok(first) = received.recv() {
        let mut next = Some(first);
        let mut end = false;
        let mut told = Vec::new();
        while let Some(message) = next {
            match message {
                // What is worth a write of its own is not copied.
                Message::Lines(bytes) if bytes.len() >= MOST / 2 => {
                    put(output, &mut batch, &mut complained);
                    batch = bytes;
                    put(output, &mut batch, &mut complained);
                }
                Message::Lines(bytes) => batch.extend_from_slice(&bytes),
                Message::Flush(done) => told.push(done),
                Message::End => end = true,
                Message::Redirect(sink) => {
                    put(output, &mut batch, &mut complained);
                    match Output::open(sink.as_ref()) {
                        Ok(opened) => {
                            *output = opened;
                            complained = false;
                        }
                        Err(error) => {
                            tracing::error!(
                                "cannot open the access log: {error}; the old one goes on"
                            );
                        }
                    }
                }
            }
            // One write takes many lines, but not without end.
            next = match received.try_recv() {
                Ok(message) if batch.len() < MOST => Some(message),
                Ok(message) => {
                    put(output, &mut batch, &mut complained);
                    Some(message)
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
            };
        }
        put(output, &mut batch, &mut complained);
        for done in told {
            let _ = done.send(());
        }
        if end {
            return;
        }
    }
}

fn put(output: &mut Output, batch: &mut Vec<u8>, complained: &mut bool) {
    let written = output.write(batch).and_then(|()| output.flush());
    if let Err(error) = written
        && !std::mem::replace(complained, true)
    {
        tracing::error!("cannot write the access log: {error}");
    }
    batch.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(path: &Path, sample: f64) -> AccessLogPlan {
        AccessLogPlan {
            to: LogSink::File(path.to_path_buf()),
            sample,
        }
    }

    #[test]
    fn lines_are_written_in_order_and_files_are_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/access.log");
        let moved = folder.path().join("logs/access.log.1");
        let first = plan(&path, 1.0);
        let (log, writer) = AccessLog::start(Some(&first), Arc::default()).unwrap();
        for n in 0..1_000 {
            log.write(|line| line.extend_from_slice(format!("{n}\n").as_bytes()));
        }
        log.flush();
        std::fs::rename(&path, &moved).unwrap();
        log.configure(Some(&first));
        log.write(|line| line.extend_from_slice(b"after\n"));
        drop(writer);
        let old = std::fs::read_to_string(&moved).unwrap();
        assert_eq!(old.lines().count(), 1_000);
        assert!(
            old.lines()
                .enumerate()
                .all(|(n, line)| line == n.to_string())
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
    }

    #[test]
    fn what_a_thread_gathers_is_written_soon_or_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (log, writer) = AccessLog::start(Some(&plan(&path, 1.0)), Arc::default()).unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        let worker = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        worker.spawn(gather());
        worker.block_on(async {
            tokio::task::yield_now().await;
            for n in 0..3 {
                log.write(|line| line.extend_from_slice(format!("{n}\n").as_bytes()));
            }
            log.flush();
            assert_eq!(read(), "");
            tokio::time::sleep(2 * GATHER).await;
            log.flush();
            assert_eq!(read(), "0\n1\n2\n");
            // Much at once does not wait.
            log.write(|line| line.resize(MOST - 1, b'x'));
            log.write(|line| line.push(b'\n'));
            log.flush();
            assert_eq!(read().len(), 6 + MOST);
            log.write(|line| line.extend_from_slice(b"last\n"));
        });
        drop(worker);
        // Nobody gathers here any more.
        log.write(|line| line.extend_from_slice(b"behind\n"));
        drop(writer);
        assert!(read().ends_with("x\nlast\nbehind\n"));
    }

    #[test]
    fn lines_that_nobody_can_write_are_counted_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let totals: Arc<Totals> = Arc::default();
        let plan = plan(&folder.path().join("access.log"), 1.0);
        let (log, writer) = AccessLog::start(Some(&plan), totals.clone()).unwrap();
        drop(writer);
        log.send(b"a\nb\nc\n".to_vec(), 3);
        assert_eq!(totals.access_log_dropped.get(), 3);
    }

    #[test]
    fn samples_keep_errors_and_off_is_off() {
        let folder = tempfile::tempdir().unwrap();
        let half = plan(&folder.path().join("a"), 0.5);
        let (log, _writer) = AccessLog::start(Some(&half), Arc::default()).unwrap();
        assert!(log.wants(0, false) && !log.wants(u32::MAX, false) && log.wants(u32::MAX, true));
        log.configure(Some(&plan(&folder.path().join("a"), 0.0)));
        assert!(!log.wants(7, false) && log.wants(7, true));
        log.configure(None);
        assert!(!log.wants(0, true));
    }

    #[test]
    fn what_cannot_be_opened_is_found_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let below_a_file = plan(&file.join("access.log"), 1.0);
        assert!(AccessLog::check(Some(&below_a_file)).is_err());
        assert!(AccessLog::start(Some(&below_a_file), Arc::default()).is_err());
    }
}
