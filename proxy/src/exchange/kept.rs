//! Connections to endpoints over HTTP/1.1 that wait for their next request.
//!
//! Every worker keeps its own: nobody has to be asked, and a connection stays on the thread that
//! opened it. Who was used last is used next, so that those that are not needed grow old; [`house`]
//! closes them, and whatever else is of no use any more.
//!
//! [`house`]: keep_house

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use portolan_control::shortage::SHORTAGES;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::Instant;

use super::stream::EndpointStream;
use crate::peer::Target;

/// How long a connection waits for its next request. Shorter than the 60 s after which the load
/// balancers of the large clouds close it, so that we are the ones who do.
const KEEP_IDLE: Duration = Duration::from_secs(50);

/// How often it is looked whether connections are still of use.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

/// Keys are hashes already.
type ByKey = BuildHasherDefault<AsItIs>;

#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[derive(Default)]
struct Kept {
    by_target: HashMap<u64, Vec<Idle>, ByKey>,
    count: usize,
}

struct Idle {
    stream: EndpointStream,
    /// Since when it was seen to be here; that is only looked at now and then.
    since: Option<Instant>,
    target: Target,
}

impl Idle {
    /// Whether it still can be used, as far as is known without asking the system.
    fn is_alive(&mut self) -> bool {
        // An endpoint says nothing without being asked: whatever there is to read is the end, or the
        // answer to a request that was given up.
        let mut room = [0; 1];
        let mut room = ReadBuf::new(&mut room);
        let mut nobody = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream)
            .poll_read(&mut nobody, &mut room)
            .is_pending()
    }
}

impl Kept {
    fn take(&mut self, key: u64) -> Option<EndpointStream> {
        let idle = self.by_target.get_mut(&key)?;
        while let Some(mut last) = idle.pop() {
            self.count -= 1;
            if last.is_alive() {
                return Some(last.stream);
            }
        }
        None
    }

    fn keep(&mut self, idle: Idle, most: usize) {
        if self.count >= most {
            self.make_room();
        }
        self.count += 1;
        self.by_target
            .entry(idle.target.key())
            .or_default()
            .push(idle);
    }

    /// Closes those that have waited longest: a tenth of all.
    fn make_room(&mut self) {
        // Those that nobody has seen yet are the youngest.
        let now = Instant::now();
        let age = |idle: &Idle| idle.since.map_or(Duration::ZERO, |since| now - since);
        let mut ages: Vec<Duration> = self.by_target.values().flatten().map(age).collect();
        let at = ages.len() - ages.len() / 10;
        if let Some(last) = at.checked_sub(1) {
            let (_, limit, _) = ages.select_nth_unstable(last);
            let limit = *limit;
            let mut surplus = ages.len() / 10 + 1;
            self.retain(|idle| {
                let leaves = surplus > 0 && age(idle) >= limit;
                surplus -= usize::from(leaves);
                !leaves
            });
        }
    }

    fn retain(&mut self, mut keep: impl FnMut(&mut Idle) -> bool) {
        let mut count = 0;
        self.by_target.retain(|_, idle| {
            idle.retain_mut(&mut keep);
            count += idle.len();
            !idle.is_empty()
        });
        self.count = count;
    }
}

/// A connection to this target that is not in use.
pub(super) fn take(target: &Target) -> Option<EndpointStream> {
    KEPT.with_borrow_mut(|kept| kept.take(target.key()))
}

/// Keeps a connection for the next request; so many at most, and none while descriptors are short.
pub(super) fn keep(stream: EndpointStream, target: Target, most: usize) {
    if SHORTAGES.files_are_short() {
        return;
    }
    let idle = Idle {
        stream,
        since: None,
        target,
    };
    KEPT.with_borrow_mut(|kept| kept.keep(idle, most));
}

/// Closes what is not in use, for its descriptors are needed. Whether there was anything.
pub(super) fn give_up() -> bool {
    KEPT.with_borrow_mut(|kept| {
        let any = kept.count > 0;
        kept.retain(|_| false);
        any
    })
}

/// Closes, for as long as this thread works, what has waited for too long, what endpoints have
/// closed, and what was opened before its endpoint was out of order.
pub(crate) async fn keep_house() {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        if SHORTAGES.files_are_short() {
            give_up();
        }
        let now = Instant::now();
        KEPT.with_borrow_mut(|kept| {
            kept.retain(|idle| {
                let since = *idle.since.get_or_insert(now);
                now.duration_since(since) < KEEP_IDLE && idle.target.is_current() && idle.is_alive()
            });
        });
    }
}
