//! How much of HTTP/2 bodies is held: what has come over a connection, and nobody has taken yet.
//!
//! Streams share a connection, and none may starve another. So a connection's window has room for all
//! that its streams may hold together (RFC 9113, section 5.2), and what bounds memory is not that
//! window but this count: of what is really held, by each connection and by the whole process. Who
//! holds too much narrows the windows of its streams. What they hold already stays; new streams, and
//! those that are taken from, go on with less.
//!
//! What is held costs its bytes, and a small frame more than its bytes.

use std::sync::Arc;
use std::time::Duration;

use h2::FlowControl;
use portolan_control::counters::Amount;
use tokio::time::Instant;

/// What one stream may hold. The default of HTTP/2 throttles bodies over long distances.
pub(crate) const WIDE: u32 = 1 << 20;

/// The same while too much is held.
pub(crate) const NARROW: u32 = 64 << 10;

/// When the whole process holds more than this, windows are narrow.
const MOST: u64 = 128 << 20;

/// When one connection holds more than this, its windows are: with an endpoint, or with a peer that
/// speaks for many clients, and with a client.
pub(crate) const MOST_OF_MANY: usize = 32 << 20;
pub(crate) const MOST_OF_ONE: usize = 8 << 20;

/// When it holds more than this, connections that hold too much end.
const FAR_TOO_MUCH: u64 = 4 * MOST;

/// How long the other side has to acknowledge that windows are narrow (RFC 9113, section 6.5.3: at once)
/// while it holds too much. Its acknowledgement may come behind much that it has sent already.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(30);

/// What a frame that is held costs at least: the library remembers each.
const FRAME: usize = 256;

/// How much more than that the library may spend on small frames that nobody takes, before it gives a
/// connection up: windows are narrow long before.
pub(crate) const SMALL_FRAMES: usize = 4;

/// What the streams of one connection hold.
#[derive(Debug)]
pub(crate) struct Held {
    /// Of each stream that somebody will take from, in the order of their numbers.
    streams: Vec<OneStream>,
    all: usize,
    /// What the whole process holds.
    process: Arc<Amount>,
    /// When this connection holds too much.
    most: usize,
    /// What one stream may hold, as the other side was told last.
    window: u32,
    /// It has not acknowledged that; it has, since somebody looked.
    told: bool,
    acknowledged: bool,
    /// Since when it holds too much and has not acknowledged that windows are narrow.
    owing: Option<Instant>,
}

#[derive(Debug)]
struct OneStream {
    id: u32,
    held: usize,
    /// By which its window is opened again, once something may come.
    flow: Option<FlowControl>,
}

impl Held {
    /// Nothing yet, of what the whole process holds; more than this is too much for this connection
    /// alone.
    pub(crate) fn new(process: Arc<Amount>, most: usize) -> Self {
        Self {
            streams: Vec::new(),
            all: 0,
            process,
            most,
            window: WIDE,
            told: false,
            acknowledged: false,
            owing: None,
        }
    }

    /// What comes on this stream is taken by somebody, from now on; so much has come already.
    pub(crate) fn begin(&mut self, stream: u32, bytes: usize) {
        let at = self.streams.partition_point(|other| other.id < stream);
        let new = OneStream {
            id: stream,
            held: 0,
            flow: None,
        };
        self.streams.insert(at, new);
        self.add(at, bytes);
    }

    /// By which this stream's window is opened again.
    pub(crate) fn opens(&mut self, stream: u32, flow: FlowControl) {
        if let Some(at) = self.find(stream) {
            self.streams[at].flow = Some(flow);
        }
    }

    /// A frame of so many bytes came on a stream.
    pub(crate) fn came(&mut self, stream: u32, bytes: usize) {
        // Of one that nobody will take from, the library keeps nothing.
        if let Some(at) = self.find(stream) {
            self.add(at, cost(bytes));
        }
    }

    /// A frame of so many bytes was taken.
    pub(crate) fn taken(&mut self, stream: u32, bytes: usize) {
        if let Some(at) = self.find(stream) {
            self.subtract(at, cost(bytes));
        }
    }

    /// Nobody takes from this stream any more: what it held is gone.
    pub(crate) fn end(&mut self, stream: u32) {
        if let Some(at) = self.find(stream) {
            self.subtract(at, usize::MAX);
            self.streams.remove(at);
        }
    }

    /// What one stream may hold from now on, if that is something else than the other side was told.
    /// Between the bounds and half of them, nothing changes.
    pub(crate) fn change(&self) -> Option<u32> {
        let process = self.process.get();
        let wanted = if process > MOST || self.all > self.most {
            NARROW
        } else if process < MOST / 2 && self.all < self.most / 2 {
            WIDE
        } else {
            return None;
        };
        (wanted != self.window).then_some(wanted)
    }

    /// The other side is told.
    pub(crate) fn changed(&mut self, window: u32) {
        self.window = window;
        self.told = true;
    }

    /// When the connection has to end, unless that changes: while the other side does not acknowledge that
    /// windows are narrow nothing keeps it from sending more.
    pub(crate) fn end_at(&mut self, now: impl Fn() -> Instant) -> Option<Instant> {
        if self.all <= self.most {
            self.owing = None;
            return None;
        }
        if self.process.get() > FAR_TOO_MUCH {
            return Some(now());
        }
        if self.window == NARROW && !self.told {
            self.owing = None;
            return None;
        }
        Some(*self.owing.get_or_insert_with(now) + ACKNOWLEDGED_WITHIN)
    }

    /// The other side has acknowledged something: what it was told, if it was told anything.
    pub(crate) fn acknowledges(&mut self) {
        self.acknowledged = std::mem::take(&mut self.told);
    }

    /// The library has read what was acknowledged, if anything was. A narrower window may have closed
    /// streams that had been taken from, but not so much that the library had said so: it says so now,
    /// for nothing would come any more.
    pub(crate) fn open_again(&mut self) {
        if std::mem::take(&mut self.acknowledged) {
            for flow in self.streams.iter_mut().filter_map(|it| it.flow.as_mut()) {
                // No more than nothing is always there.
                let _ = flow.release_capacity(0);
            }
        }
    }

    fn find(&self, stream: u32) -> Option<usize> {
        let found = self.streams.binary_search_by_key(&stream, |other| other.id);
        found.ok()
    }

    fn add(&mut self, at: usize, cost: usize) {
        self.streams[at].held += cost;
        self.all += cost;
        self.process.add(cost);
    }

    fn subtract(&mut self, at: usize, cost: usize) {
        let cost = cost.min(self.streams[at].held);
        self.streams[at].held -= cost;
        self.all -= cost;
        self.process.subtract(cost);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.process.subtract(self.all);
    }
}

/// What a frame of so many bytes costs.
fn cost(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        bytes => bytes.max(FRAME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_for_each_stream_until_it_is_taken_or_gone() {
        let mut held = Held::new(Arc::default(), MOST_OF_MANY);
        held.begin(5, 0);
        held.begin(3, 1000);
        held.came(3, 10);
        held.came(5, 5000);
        held.came(5, 0);
        held.came(7, 5000);
        assert_eq!(held.all, 1000 + FRAME + 5000, "nobody takes from 7");
        held.taken(3, 10);
        held.taken(5, 5000);
        held.taken(5, 5000);
        assert_eq!(held.all, 1000);
        held.end(3);
        held.end(9);
        assert_eq!((held.all, held.streams.len()), (0, 1));
    }

    #[test]
    fn who_holds_too_much_narrows_windows_until_half_of_it_is_gone() {
        let mut held = Held::new(Arc::default(), MOST_OF_MANY);
        held.begin(1, 0);
        held.begin(3, 0);
        assert_eq!(held.change(), None);
        for _ in 0..33 {
            held.came(1, 1 << 20);
        }
        assert_eq!(held.change(), Some(NARROW));
        held.changed(NARROW);
        assert_eq!(held.change(), None);
        held.came(3, 10 << 20);
        held.end(1);
        held.came(3, 10 << 20);
        assert_eq!(held.change(), None, "between the bounds");
        held.taken(3, 10 << 20);
        assert_eq!(held.change(), Some(WIDE));
        held.changed(WIDE);
        assert_eq!(held.change(), None);
    }

    #[test]
    fn who_does_not_acknowledge_narrow_windows_is_not_waited_for_without_end() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut held = Held::new(Arc::default(), MOST_OF_ONE);
        held.begin(1, 0);
        held.begin(3, 0);
        held.came(1, MOST_OF_ONE);
        assert_eq!(held.end_at(|| at(0)), None);
        held.came(3, 1 << 20);
        // Nothing could be said so far, and then nothing was acknowledged.
        assert_eq!(held.end_at(|| at(1)), Some(at(31)));
        held.changed(NARROW);
        assert_eq!(held.end_at(|| at(9)), Some(at(31)));
        held.acknowledges();
        assert_eq!(held.end_at(|| at(10)), None, "it will not grow");
        held.end(1);
        held.changed(WIDE);
        assert_eq!(held.end_at(|| at(40)), None, "it holds little");
    }

    #[test]
    fn when_the_process_holds_far_too_much_the_largest_holders_go() {
        let process: Arc<Amount> = Arc::default();
        let mut large = Held::new(process.clone(), MOST_OF_ONE);
        let mut small = Held::new(process, MOST_OF_ONE);
        for held in [&mut large, &mut small] {
            held.begin(1, 0);
        }
        large.came(1, FAR_TOO_MUCH as usize);
        small.came(1, MOST_OF_ONE);
        large.changed(NARROW);
        large.acknowledges();
        let now = Instant::now();
        assert_eq!(
            (large.end_at(|| now), small.end_at(|| now)),
            (Some(now), None)
        );
    }

    /// The trap that [`Held::open_again`] is for: all that came was taken, and the library has not said
    /// so when the window closes behind it.
    #[tokio::test]
    async fn a_stream_that_a_narrower_window_has_closed_is_opened_again() {
        use std::future::{Future as _, poll_fn};
        use std::pin::Pin;
        use std::task::Poll;
        const FIRST: usize = 300 << 10;
        const SECOND: usize = 10 << 10;
        let (near, far) = tokio::io::duplex(1 << 20);
        let go = Arc::new(tokio::sync::Notify::new());
        let told = go.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
            let answer = http::Response::new(());
            let mut body = respond.send_response(answer, false).unwrap();
            body.send_data(vec![0; FIRST].into(), false).unwrap();
            told.notified().await;
            body.send_data(vec![0; SECOND].into(), true).unwrap();
        });
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WIDE)
            .initial_connection_window_size(100 * WIDE);
        let handshake = builder.handshake::<_, bytes::Bytes>(near).await;
        let (mut requests, mut connection) = handshake.unwrap();
        let request = http::Request::new(());
        let (mut response, _) = requests.send_request(request, true).unwrap();
        let mut held = Held::new(Arc::default(), MOST_OF_MANY);
        let mut body: Option<h2::RecvStream> = None;
        let mut taken = 0;
        let mut narrow = false;
        let talking = poll_fn(|cx| {
            loop {
                let _ = Pin::new(&mut connection).poll(cx);
                if taken == FIRST {
                    // The second time it is acknowledged.
                    match (connection.set_initial_window_size(NARROW).is_ok(), narrow) {
                        (true, false) => narrow = true,
                        (true, true) => {
                            held.changed(NARROW);
                            held.acknowledges();
                            held.open_again();
                            go.notify_one();
                        }
                        (false, _) => {}
                    }
                }
                if body.is_none()
                    && let Poll::Ready(answer) = Pin::new(&mut response).poll(cx)
                {
                    let mut stream = answer.unwrap().into_body();
                    held.begin(1, 0);
                    held.opens(1, stream.flow_control().clone());
                    body = Some(stream);
                }
                let Some(stream) = &mut body else {
                    return Poll::Pending;
                };
                match stream.poll_data(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Ready(Some(part)) => {
                        taken += part.unwrap().len();
                        let all = stream.flow_control().used_capacity();
                        stream.flow_control().release_capacity(all).unwrap();
                    }
                }
            }
        });
        // Who is stuck is stuck for good.
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, talking).await.unwrap();
        assert_eq!(taken, FIRST + SECOND);
    }
}
