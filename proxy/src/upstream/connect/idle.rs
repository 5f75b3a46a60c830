//! Connections to endpoints over HTTP/1.1 that wait for their next request.
//!
//! Every worker keeps its own: nobody has to be asked, and a connection stays on the thread that
//! opened it. Who was used last is used next, so that those that are not needed grow old; [`house`]
//! closes them, and whatever else is of no use any more.
//!
//! An endpoint may close a connection in the moment in which a request is sent over it. A request
//! that can be repeated is sent again; of one that cannot, nobody knows what became of it (RFC 9112,
//! section 9.3.1). So a connection is closed by us before its endpoint does, as far as that says
//! when ([`promise`]), and requests that cannot be repeated only use one that was used a moment ago
//! ([`FRESH`]), for hardly anybody closes those.
//!
//! No clock is read for any of this: what a connection is given back with is the time at which its
//! endpoint was last heard, which is known by then.
//!
//! [`house`]: super::place::maintain

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use http::HeaderName;
use portolan_config::fields::Fields;
use portolan_control::health::exhaustion::SHORTAGES;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::Instant;

use super::stream::EndpointStream;
use crate::upstream::connect::peer::Target;

/// How often it is looked whether connections are still of use.
pub(crate) const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// So much sooner than an endpoint says that it closes a connection, we do: for the way to it and
/// back, and since it began to count before its answer was here.
const MARGIN: Duration = Duration::from_secs(1);

/// What was used so lately is used for requests that cannot be repeated.
const FRESH: Duration = Duration::from_secs(1);

/// Where an endpoint says how long it keeps a connection. There is no standard for it: the form is
/// that of RFC 2068, section 19.7.1.1, as Apache and Node.js write it.
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

thread_local! {
    static KEPT: RefCell<IdlePool> = RefCell::default();
}

/// Keys are hashes already.
pub(crate) type ByKey = BuildHasherDefault<AsItIs>;

#[derive(Default)]
pub(crate) struct AsItIs(u64);

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

/// Connections that wait.
#[derive(Default)]
pub(crate) struct IdlePool {
    by_target: HashMap<u64, Vec<Idle>, ByKey>,
    count: usize,
}

struct Idle {
    stream: EndpointStream,
    target: Target,
    /// When its endpoint was last heard.
    used: Instant,
    /// Until when it is kept.
    until: Instant,
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

impl std::fmt::Debug for IdlePool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl IdlePool {
    /// One that leads there. With `once`, for a request that cannot be repeated and begins then: one that
    /// is fresh.
    pub(crate) fn take(&mut self, key: u64, once: Option<Instant>) -> Option<EndpointStream> {
        let idle = self.by_target.get_mut(&key)?;
        while let Some(last) = idle.last() {
            if once.is_some_and(|now| now > last.until || now - last.used > FRESH) {
                // Those below are older still. Others may use them.
                return None;
            }
            let mut last = idle.pop()?;
            self.count -= 1;
            if last.is_alive() {
                return Some(last.stream);
            }
        }
        None
    }

    /// One more; so many at most. Its endpoint was last heard then, and may have made a promise.
    pub(crate) fn keep(
        &mut self,
        stream: EndpointStream,
        target: Target,
        used: Instant,
        promise: Option<Duration>,
        most: usize,
    ) {
        let span = span(target.keep_idle(), promise);
        if span.is_zero() {
            return;
        }
        if self.count >= most {
            self.make_room();
        }
        self.count += 1;
        self.by_target.entry(target.key()).or_default().push(Idle {
            stream,
            target,
            used,
            until: used + span,
        });
    }

    /// Closes what has waited for too long or will have before the next time, what endpoints have
    /// closed, and what was opened before its endpoint was out of order.
    ///
    /// While local ports are short, what was not used for a while goes, and gives its port back.
    pub(crate) fn tidy(&mut self, now: Instant) {
        if SHORTAGES.ports_are_short() {
            self.give_up(|idle| now - idle.used > HOUSEKEEPING);
        }
        self.retain(|idle| {
            now + HOUSEKEEPING < idle.until && idle.target.is_current() && idle.is_alive()
        });
    }

    /// Closes some at once, and waits for nothing that is still on its way: so their ports are free.
    /// Whether there were any.
    fn give_up(&mut self, some: impl Fn(&Idle) -> bool) -> bool {
        let before = self.count;
        self.retain(|idle| {
            let goes = some(idle);
            if goes {
                idle.stream.cut_short();
            }
            !goes
        });
        self.count < before
    }

    /// Closes those that have waited longest: a tenth of all.
    fn make_room(&mut self) {
        let now = Instant::now();
        let age = |idle: &Idle| now - idle.used;
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

/// How long an idle connection is kept: as the configuration says, and as its endpoint does.
fn span(configured: Duration, promise: Option<Duration>) -> Duration {
    let promised = promise.map_or(configured, |promise| promise.saturating_sub(MARGIN));
    configured.min(promised)
}

/// How long an endpoint says that it keeps the connection of this answer. The shortest, if it says
/// so more than once; nothing, if it cannot be understood.
pub(crate) fn promise(headers: &Fields) -> Option<Duration> {
    let lines = headers.get_all(&KEEP_ALIVE);
    let parameters = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let seconds = parameters.filter_map(|parameter| {
        let parameter = std::str::from_utf8(parameter).ok()?;
        let (name, value) = parameter.split_once('=')?;
        let is_timeout = name.trim_ascii().eq_ignore_ascii_case("timeout");
        let value = value.trim_ascii().trim_matches('"');
        is_timeout.then(|| value.parse().ok())?
    });
    seconds.min().map(Duration::from_secs)
}

/// A connection to this target that is not in use. With `once`, for a request that cannot be
/// repeated.
pub(crate) fn take(target: &Target, once: Option<Instant>) -> Option<EndpointStream> {
    KEPT.with_borrow_mut(|kept| kept.take(target.key(), once))
}

/// Keeps a connection for the next request; so many at most, and none while descriptors are short.
/// `used`: when its endpoint was last heard.
pub(crate) fn keep(
    stream: EndpointStream,
    target: Target,
    used: Instant,
    promise: Option<Duration>,
    most: usize,
) {
    if SHORTAGES.files_are_short() {
        return;
    }
    KEPT.with_borrow_mut(|kept| kept.keep(stream, target, used, promise, most));
}

/// Closes what is of no use any more.
pub(crate) fn tidy(now: Instant) {
    if SHORTAGES.files_are_short() {
        give_up();
    }
    KEPT.with_borrow_mut(|kept| kept.tidy(now));
}

/// Closes what is not in use, for its descriptors are needed. Whether there was anything.
pub(crate) fn give_up() -> bool {
    KEPT.with_borrow_mut(|kept| kept.give_up(|_| true))
}

/// Closes what is not in use and leads there, for its ports are needed. Whether there was anything.
pub(crate) fn give_up_to(address: SocketAddr) -> bool {
    KEPT.with_borrow_mut(|kept| kept.give_up(|idle| idle.target.address() == Some(address)))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn promised(lines: &[&str]) -> Option<u64> {
        let mut headers = Fields::new();
        for line in lines {
            headers.append(KEEP_ALIVE.clone(), HeaderValue::from_str(line).unwrap());
        }
        promise(&headers).map(|promise| promise.as_secs())
    }

    #[test]
    fn what_endpoints_say_is_understood() {
        for (lines, expected) in [
            (&["timeout=5"][..], Some(5)),
            (&["timeout=5, max=100"], Some(5)),
            (&["max=100,timeout=5"], Some(5)),
            (&["Timeout = \"15\""], Some(15)),
            (&["timeout=0"], Some(0)),
            (&["timeout=20", "timeout=10"], Some(10)),
            (&["timeout=x, timeout=7"], Some(7)),
            (&["timeout=18446744073709551615"], Some(u64::MAX)),
            (&["timeout=18446744073709551616"], None),
            (&["timeout=-1"], None),
            (&["timeout"], None),
            (&["timeouts=5"], None),
            (&["5"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(promised(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_connection_is_closed_before_its_endpoint_does() {
        let seconds = Duration::from_secs;
        let of =
            |configured, promised: Option<u64>| span(seconds(configured), promised.map(seconds));
        assert_eq!(of(50, None), seconds(50));
        assert_eq!(of(50, Some(5)), seconds(4));
        assert_eq!(of(50, Some(2)), seconds(1));
        assert_eq!(of(50, Some(1)), seconds(0));
        assert_eq!(of(50, Some(0)), seconds(0));
        assert_eq!(of(50, Some(u64::MAX)), seconds(50));
        assert_eq!(of(3, Some(5)), seconds(3));
        assert_eq!(of(0, Some(5)), seconds(0));
    }
}
