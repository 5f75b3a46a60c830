//! The threads that serve requests.
//!
//! Each has a scheduler of its own, and a connection stays with one thread from its beginning to its
//! end: what belongs to it is in that core's caches, and nothing is handed from thread to thread.
//! So that no thread has all the work, each new connection goes to the one that has the fewest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// How much is done between two looks at what has come over the network. A request takes two to five
/// of these. All that has come at once should be done in one turn: then answers to requests of one
/// connection go out together. But what comes meanwhile waits, a few milliseconds at most.
const TURN: u32 = 256;

/// The threads.
#[derive(Debug)]
pub(crate) struct Workers {
    all: Arc<[Worker]>,
    threads: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// A thread, for whoever has work for it.
#[derive(Debug)]
struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

/// Who hands out connections.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    workers: Arc<[Worker]>,
    /// Where the search begins: among equals, everybody has a turn.
    turn: Arc<AtomicUsize>,
}

/// A connection on a thread, counted until it is dropped.
#[derive(Debug)]
pub(crate) struct WorkerSlot(Arc<AtomicUsize>);

impl Workers {
    /// Starts so many threads. Each begins with what `begin` makes there.
    ///
    /// # Errors
    /// When no threads can be had.
    pub(crate) fn start<F>(count: usize, begin: fn() -> F) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = watch::Sender::new(false);
        let mut all = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .event_interval(TURN)
                .build()?;
            all.push(Worker {
                handle: runtime.handle().clone(),
                connections: Arc::default(),
            });
            let mut stopped = stop.subscribe();
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            threads.push(thread.spawn(move || {
                runtime.spawn(begin());
                let _ = runtime.block_on(stopped.wait_for(|stop| *stop));
                // Dropped with it, whatever is under way is cut.
            })?);
        }
        Ok(Self {
            all: all.into(),
            threads,
            stop,
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }

    /// For those who accept connections.
    pub(crate) fn dispatch(&self) -> Dispatch {
        Dispatch {
            workers: self.all.clone(),
            turn: Arc::default(),
        }
    }
}

impl Drop for Workers {
    /// Cuts what is under way, and waits for the threads to end.
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Dispatch {
    /// The thread with the fewest connections, and a place there.
    pub(crate) fn place(&self) -> (&Handle, WorkerSlot) {
        let from = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = self.workers.len();
        let fewest = (0..count)
            .map(|step| &self.workers[from.wrapping_add(step) % count])
            .min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        // There is at least one, and the first of equals is taken.
        let worker = fewest.unwrap_or(&self.workers[0]);
        worker.connections.fetch_add(1, Ordering::Relaxed);
        (&worker.handle, WorkerSlot(worker.connections.clone()))
    }

    /// One of the threads, for work that is no connection.
    pub(crate) fn any(&self) -> &Handle {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.workers[turn % self.workers.len()].handle
    }
}

impl Drop for WorkerSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn nothing() {}

    #[test]
    fn connections_go_to_whoever_has_the_fewest() {
        let workers = Workers::start(3, nothing).unwrap();
        let dispatch = workers.dispatch();
        let counts = || -> Vec<usize> {
            let counts = workers.all.iter();
            counts
                .map(|worker| worker.connections.load(Ordering::Relaxed))
                .collect()
        };
        let mut places: Vec<WorkerSlot> = (0..6).map(|_| dispatch.place().1).collect();
        assert_eq!(counts(), [2, 2, 2]);
        // Two connections of one thread end: the next two go there.
        let first = places[0].0.clone();
        places.retain(|place| !Arc::ptr_eq(&place.0, &first));
        assert_eq!(first.load(Ordering::Relaxed), 0);
        places.push(dispatch.place().1);
        places.push(dispatch.place().1);
        assert_eq!(counts(), [2, 2, 2]);
    }

    #[test]
    fn what_is_under_way_is_cut_when_the_threads_end() {
        struct Cut(std::sync::mpsc::Sender<()>);
        impl Drop for Cut {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (told, cut) = std::sync::mpsc::channel();
        let workers = Workers::start(2, nothing).unwrap();
        let held = Cut(told);
        workers.dispatch().any().spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(workers);
        cut.try_recv().unwrap();
    }
}
