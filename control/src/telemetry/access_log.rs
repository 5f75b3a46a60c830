//! The access log: lines are gathered by the thread that serves the requests, and go together through
//! a bounded queue to one that writes them. When the disk cannot follow, lines are dropped and
//! counted, and no request waits.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portolan_config::plan::{AccessLogPlan, LogSink};
use tokio::sync::Notify;

use crate::telemetry::lines;
use crate::telemetry::lines::{Lines, Loss, MOST};

/// What may wait for the writer, each as much as is gathered at most: a second of a busy edge.
const QUEUE: usize = 1024;

/// How long lines gather before they are written together. To wake the writer and the disk for each
/// would cost half as much again as the request itself.
const GATHER: Duration = Duration::from_millis(5);

/// Room for the line that makes it more than the most: most are shorter.
const LINE: usize = 1 << 10;

/// Where lines go. Cheap to clone, one for all threads.
#[derive(Clone, Debug)]
pub struct AccessLog {
    lines: Lines,
    /// How many of 2³² requests are logged.
    sample: Arc<AtomicU32>,
}

/// The writing thread. Dropping it waits for the last line, but not for ever: a reader of standard
/// output that has stopped reading must not keep the process.
#[derive(Debug)]
pub struct Writer {
    lines: Lines,
}

impl AccessLog {
    /// Starts the writing thread. What is lost is counted in `loss`.
    ///
    /// # Errors
    /// When the file cannot be opened, or no thread can be had.
    pub fn start(plan: Option<&AccessLogPlan>, loss: Arc<Loss>) -> io::Result<(Self, Writer)> {
        let lines = Lines::new("access-log", QUEUE, loss);
        lines.redirect(plan.map(|plan| &plan.to))?;
        let log = Self {
            lines: lines.clone(),
            sample: Arc::new(AtomicU32::new(threshold(plan))),
        };
        Ok((log, Writer { lines }))
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
            self.lines.send(line);
        }
    }

    /// Checks that lines could be written as a new configuration says.
    ///
    /// # Errors
    /// When its file cannot be opened.
    pub fn check(plan: Option<&AccessLogPlan>) -> io::Result<()> {
        match plan.map(|plan| &plan.to) {
            Some(LogSink::File(path)) => lines::open_file(path).map(drop),
            _ => Ok(()),
        }
    }

    /// Writes as a new configuration says. A file is opened again, so that a log that was moved
    /// away is left.
    pub fn configure(&self, plan: Option<&AccessLogPlan>) {
        if let Err(error) = self.lines.redirect(plan.map(|plan| &plan.to)) {
            tracing::error!("cannot open the access log: {error}; the old one goes on");
        }
        self.sample.store(threshold(plan), Ordering::Relaxed);
    }

    /// Returns when every line so far is written that nobody gathers, or after so long.
    pub fn flush(&self, patience: Duration) {
        self.lines.flush(patience);
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
        if self.bytes.is_empty() {
            self.bytes.reserve(MOST + LINE);
            self.begun.notify_one();
        }
        put(&mut self.bytes);
        if self.bytes.len() >= MOST {
            self.send();
        }
    }

    fn send(&mut self) {
        if let Some(log) = self.log.as_ref().filter(|_| !self.bytes.is_empty()) {
            log.lines.send(std::mem::take(&mut self.bytes));
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
        self.lines.end();
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

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
        log.flush(SOON);
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
            log.flush(SOON);
            assert_eq!(read(), "");
            tokio::time::sleep(2 * GATHER).await;
            log.flush(SOON);
            assert_eq!(read(), "0\n1\n2\n");
            // Much at once does not wait.
            log.write(|line| line.resize(MOST - 1, b'x'));
            log.write(|line| line.push(b'\n'));
            log.flush(SOON);
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
