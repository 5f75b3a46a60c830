//! What is known of a connection over HTTP/2, and which requests it takes: pure, by the frames that
//! came and the requests that began and ended.

use std::sync::Arc;

use portolan_control::counters::Amount;
use tokio::time::Instant;

use crate::http::held::{Held, MOST_OF_MANY};
use crate::http::http2_frames::{
    DATA, Frame, GOAWAY, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

/// `ENHANCE_YOUR_CALM` (RFC 9113, section 7).
const CALM_DOWN: u32 = 0xb;

/// Requests at the same time on one connection, whatever the endpoint allows.
pub(crate) const MOST_STREAMS: u32 = 100;

/// Streams that were given up and are not over yet: with more of them, a connection takes no requests.
const MOST_WINDING: u32 = 32;

/// The windows of a connection and of its streams before the endpoint says otherwise (RFC 9113,
/// section 6.9.2).
const WINDOW: u32 = 65_535;

/// What a call may send before its connection has to have room for more: nobody knows how long it
/// will be, and most are short.
const CALL: u32 = 16 << 10;

/// The highest number of a stream: that of an endpoint which does not say yet which one was its last.
const HIGHEST: u32 = 0x7fff_ffff;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_HEADER_LIST_SIZE: u16 = 6;
/// RFC 8441, section 3.
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// How much of a request's body an endpoint may hold before it has taken it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Claim {
    /// There is no body.
    #[default]
    Nothing,
    /// So many bytes.
    Bytes(u64),
    /// Nobody knows, and it is probably little.
    Call,
    /// Nobody knows.
    Everything,
}

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Nobody else's request may be on it: this one may be the end of it.
    pub(crate) alone: bool,
    /// It may be more than the endpoint takes.
    pub(crate) measured: bool,
    /// It asks for its connection to be upgraded.
    pub(crate) upgrade: bool,
    pub(crate) claim: Claim,
    /// It cannot be sent again once it was, and began then: over HTTP/1.1 it uses a connection that was
    /// used a moment ago, or a new one.
    pub(crate) once: Option<Instant>,
}

impl Need {
    /// Whether it has to be known first what the endpoint allows.
    fn is_particular(self) -> bool {
        self.alone || self.measured || self.upgrade
    }
}

/// What an endpoint grants a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    /// Requests at the same time.
    pub(crate) streams: u32,
    /// Bytes of their bodies that it may hold.
    pub(crate) window: u32,
    /// The same for one of them.
    pub(crate) stream_window: u32,
}

impl Grant {
    /// Before it is known.
    pub(crate) const UNKNOWN: Self = Self {
        streams: MOST_STREAMS,
        window: WINDOW,
        stream_window: WINDOW,
    };

    /// What one endpoint holds of this, at most.
    fn claim(&self, claim: Claim) -> u32 {
        match claim {
            Claim::Nothing => 0,
            Claim::Bytes(bytes) => u32::try_from(bytes).unwrap_or(u32::MAX),
            Claim::Call => CALL,
            Claim::Everything => u32::MAX,
        }
        .min(self.stream_window)
    }

    /// How many places of a connection this takes.
    pub(crate) fn places(&self, need: Need) -> usize {
        if need.alone {
            return self.streams as usize;
        }
        let share = u64::from(self.claim(need.claim)) * u64::from(self.streams);
        let places = share.div_ceil(u64::from(self.window.max(1)));
        places.clamp(1, u64::from(self.streams.max(1))) as usize
    }
}

/// The endpoint's last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Goaway {
    /// The last stream that it may have processed.
    pub(crate) last: u32,
    pub(crate) code: u32,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Http2State {
    /// What the endpoint allows is known, or was waited for long enough.
    settled: bool,
    /// Requests at the same time, as the endpoint says.
    most: u32,
    /// The same, as it keeps to it.
    cap: u32,
    /// Requests since that grew.
    since: u32,
    stream_window: u32,
    header_list: Option<u32>,
    connect_protocol: bool,
    goaway: Option<Goaway>,
    /// The endpoint has refused a request because this connection has it hold too much.
    crowded: bool,
    /// It is over.
    over: bool,
    /// Requests under way, and those that were given up and are not over yet.
    streams: u32,
    winding: u32,
    /// The request under way is to be the only one.
    alone: bool,
    /// The endpoint has taken a request; how often it has answered something.
    accepted: bool,
    progress: u64,
    /// Bytes of bodies that may be sent now, and the most that there ever were.
    room: i64,
    widest: i64,
    /// What the endpoint may hold of the bodies under way.
    claims: i64,
    /// Something came since somebody looked.
    heard: bool,
    /// It was in use since somebody looked.
    used: bool,
    /// What is held of answers.
    pub(crate) held: Held,
}

impl Http2State {
    /// A connection that is just being made, in a process that holds so much.
    pub(crate) fn new(process: Arc<Amount>) -> Self {
        Self {
            settled: false,
            most: MOST_STREAMS,
            cap: MOST_STREAMS,
            since: 0,
            stream_window: WINDOW,
            header_list: None,
            connect_protocol: false,
            goaway: None,
            crowded: false,
            over: false,
            streams: 0,
            winding: 0,
            alone: false,
            accepted: false,
            progress: 0,
            room: i64::from(WINDOW),
            widest: i64::from(WINDOW),
            claims: 0,
            heard: false,
            used: true,
            held: Held::new(process, MOST_OF_MANY),
        }
    }

    /// A frame came. Whether that changes which requests are taken.
    pub(crate) fn came(&mut self, frame: &Frame<'_>) -> bool {
        self.heard = true;
        match frame.kind {
            SETTINGS if !frame.is_end_or_ack() => {
                for (name, value) in frame.settings() {
                    match name {
                        MAX_CONCURRENT_STREAMS => {
                            self.most = value.min(MOST_STREAMS);
                            self.cap = self.most;
                        }
                        INITIAL_WINDOW_SIZE => self.stream_window = value,
                        MAX_HEADER_LIST_SIZE => self.header_list = Some(value),
                        ENABLE_CONNECT_PROTOCOL => self.connect_protocol = value == 1,
                        _ => {}
                    }
                }
                self.settled = true;
                true
            }
            SETTINGS => {
                self.held.acknowledges();
                false
            }
            GOAWAY => {
                let last = frame.number31(0);
                self.goaway = Some(Goaway {
                    last,
                    code: frame.number(4),
                });
                self.accepted |= (1..HIGHEST).contains(&last);
                true
            }
            WINDOW_UPDATE if frame.stream == 0 => {
                self.room += i64::from(frame.number31(0));
                self.widest = self.widest.max(self.room);
                false
            }
            DATA => {
                self.accepted = true;
                self.held.came(frame.stream, frame.data());
                false
            }
            HEADERS => {
                self.accepted = true;
                self.progress += 1;
                false
            }
            // Node.js does that when answers that nobody reads fill the memory of a session. Those go on,
            // and new requests are better off elsewhere.
            RST_STREAM if frame.number(0) == CALM_DOWN => {
                self.crowded = true;
                true
            }
            _ => false,
        }
    }

    /// What the endpoint allows was waited for long enough. Whether it was not known yet.
    pub(crate) fn settle(&mut self) -> bool {
        !std::mem::replace(&mut self.settled, true)
    }

    /// It is over: nothing comes any more.
    pub(crate) fn end(&mut self) {
        self.over = true;
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Whether it may ever take another request.
    pub(crate) fn is_of_use(&self) -> bool {
        !self.over && self.goaway.is_none() && !self.crowded && self.most > 0
    }

    pub(crate) fn has_accepted(&self) -> bool {
        self.accepted
    }

    /// How often the endpoint has answered something.
    pub(crate) fn progress(&self) -> u64 {
        self.progress
    }

    pub(crate) fn goaway(&self) -> Option<Goaway> {
        self.goaway
    }

    /// The largest head that the endpoint takes, in bytes as HTTP/2 counts them (RFC 9113, section
    /// 6.5.2).
    pub(crate) fn header_list(&self) -> Option<u32> {
        self.header_list
    }

    /// Whether requests may ask for an upgrade (RFC 8441).
    pub(crate) fn connects(&self) -> bool {
        self.connect_protocol
    }

    /// What the endpoint grants.
    pub(crate) fn grant(&self) -> Grant {
        Grant {
            streams: self.cap,
            window: u32::try_from(self.widest).unwrap_or(HIGHEST),
            stream_window: self.stream_window,
        }
    }

    /// Whether a request with these needs can begin now.
    pub(crate) fn takes(&self, need: Need) -> bool {
        if !self.is_of_use() || self.alone || self.winding > MOST_WINDING {
            return false;
        }
        let most = if self.settled { self.cap } else { 1 };
        if self.streams >= most {
            return false;
        }
        if need.is_particular() && !self.settled || need.alone && self.streams > 0 {
            return false;
        }
        let claim = i64::from(self.grant().claim(need.claim));
        // Who is the only one that sends a body waits for nobody but the endpoint.
        claim == 0
            || self.claims == 0 && self.room > 0
            || self.claims + claim <= self.widest && claim <= self.room
    }

    /// A request begins. What it claims, to be given back when it ends.
    pub(crate) fn begin(&mut self, need: Need) -> i64 {
        let claim = i64::from(self.grant().claim(need.claim));
        self.streams += 1;
        self.claims += claim;
        self.alone = need.alone;
        self.used = true;
        claim
    }

    /// A request is over, also if it never began.
    pub(crate) fn over(&mut self, claim: i64, stream: Option<u32>) {
        self.streams -= 1;
        self.claims -= claim;
        self.alone = false;
        if let Some(stream) = stream {
            self.held.end(stream);
        }
        if self.cap < self.most {
            self.since += 1;
            if self.since >= self.cap {
                (self.since, self.cap) = (0, self.cap + 1);
            }
        }
    }

    /// So much of a body was sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.room -= bytes as i64;
    }

    /// The endpoint has refused a request: it takes fewer at a time than it says.
    pub(crate) fn refused(&mut self) {
        self.cap = self.cap.min(self.streams.saturating_sub(1)).max(1);
        self.since = 0;
    }

    /// Whether the endpoint has certainly done nothing about this stream.
    pub(crate) fn is_unprocessed(&self, stream: u32) -> bool {
        self.goaway.is_some_and(|goaway| goaway.last < stream)
    }

    /// A stream that was given up waits for its end.
    pub(crate) fn winds_up(&mut self) {
        self.winding += 1;
    }

    /// It waits no longer.
    pub(crate) fn wound_up(&mut self) {
        self.winding -= 1;
    }

    /// Whether something came since this was asked last.
    pub(crate) fn was_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// Whether it is in use, or was since this was asked last.
    pub(crate) fn was_used(&mut self) -> bool {
        std::mem::take(&mut self.used) || self.streams > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::http2_frames::{FrameEvent, Scanner, frame};

    const PLAIN: Need = Need {
        alone: false,
        measured: false,
        upgrade: false,
        claim: Claim::Nothing,
        once: None,
    };

    fn upload(claim: Claim) -> Need {
        Need { claim, ..PLAIN }
    }

    fn came(state: &mut Http2State, bytes: &[u8]) -> bool {
        let mut changed = false;
        Scanner::default().feed(bytes, |seen| {
            if let FrameEvent::Frame(frame) = seen {
                changed |= state.came(&frame);
            }
        });
        changed
    }

    fn settings(of: &[(u16, u32)]) -> Vec<u8> {
        let mut payload = Vec::new();
        for (name, value) in of {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        frame(SETTINGS, 0, 0, &payload)
    }

    fn settled(of: &[(u16, u32)]) -> Http2State {
        let mut state = Http2State::new(Arc::default());
        assert!(came(&mut state, &settings(of)));
        state
    }

    #[test]
    fn one_request_begins_before_it_is_known_what_the_endpoint_allows_and_no_particular_one() {
        let mut state = Http2State::new(Arc::default());
        let particular = [
            Need {
                alone: true,
                ..PLAIN
            },
            Need {
                upgrade: true,
                ..PLAIN
            },
            Need {
                measured: true,
                ..PLAIN
            },
        ];
        assert!(state.takes(PLAIN) && !particular.iter().any(|need| state.takes(*need)));
        state.begin(PLAIN);
        assert!(!state.takes(PLAIN));
        assert!(!came(&mut state, &frame(SETTINGS, 1, 0, &[])));
        assert!(!state.takes(PLAIN), "an acknowledgement says nothing");
        assert!(came(&mut state, &settings(&[(3, 3), (8, 1)])));
        assert!(state.takes(PLAIN) && state.takes(particular[1]) && state.connects());
        assert!(!state.takes(particular[0]), "somebody is on it");
        state.begin(PLAIN);
        state.begin(PLAIN);
        assert!(!state.takes(PLAIN));
        let mut silent = Http2State::new(Arc::default());
        silent.begin(PLAIN);
        assert!(silent.settle() && !silent.settle() && silent.takes(PLAIN));
    }

    #[test]
    fn who_wants_to_be_alone_is() {
        let alone = Need {
            alone: true,
            ..PLAIN
        };
        let mut state = settled(&[]);
        let claim = state.begin(alone);
        assert!(!state.takes(PLAIN) && !state.takes(alone));
        state.over(claim, Some(1));
        assert!(state.takes(PLAIN) && state.takes(alone));
    }

    #[test]
    fn a_connection_that_announced_its_end_takes_nothing_and_says_what_was_not_processed() {
        let mut state = settled(&[]);
        state.begin(PLAIN);
        assert!(!state.has_accepted());
        let highest = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert!(came(&mut state, &frame(GOAWAY, 0, 0, &highest)));
        assert!(!state.takes(PLAIN) && !state.is_of_use() && !state.is_unprocessed(101));
        assert!(!state.has_accepted(), "that says nothing");
        came(&mut state, &frame(GOAWAY, 0, 0, &[0, 0, 0, 5, 0, 0, 0, 11]));
        assert!(state.is_unprocessed(7) && !state.is_unprocessed(5) && state.has_accepted());
        assert_eq!(state.goaway().unwrap().code, 11);
        let none = settled(&[(3, 0)]);
        assert!(!none.is_of_use() && !none.takes(PLAIN));
    }

    #[test]
    fn uploads_share_a_connection_as_far_as_its_window_reaches() {
        let mut state = settled(&[]);
        // Who sends nothing is never in anybody's way.
        let large = state.begin(upload(Claim::Everything));
        state.sent(65_535);
        assert!(state.takes(PLAIN) && !state.takes(upload(Claim::Bytes(1))));
        came(&mut state, &frame(WINDOW_UPDATE, 0, 0, &[0, 0, 255, 255]));
        assert!(!state.takes(upload(Claim::Bytes(1))), "it is spoken for");
        came(&mut state, &frame(WINDOW_UPDATE, 0, 1, &[0, 16, 0, 0]));
        assert!(
            !state.takes(upload(Claim::Bytes(1))),
            "that is one stream's"
        );
        state.over(large, Some(1));
        let small: Vec<i64> = (0..4).map(|_| state.begin(upload(Claim::Call))).collect();
        assert!(!state.takes(upload(Claim::Call)) && state.takes(PLAIN));
        for claim in small {
            state.over(claim, None);
        }
        // An endpoint that grants much is given much.
        came(&mut state, &frame(WINDOW_UPDATE, 0, 0, &[0x40, 0, 0, 0]));
        for _ in 0..MOST_STREAMS {
            assert!(state.takes(upload(Claim::Everything)));
            state.begin(upload(Claim::Everything));
        }
    }

    #[test]
    fn an_endpoint_that_refuses_gets_fewer_until_it_takes_them() {
        let mut state = settled(&[(3, 50)]);
        for _ in 0..10 {
            state.begin(PLAIN);
        }
        state.refused();
        state.over(0, None);
        assert!(!state.takes(PLAIN) && state.grant().streams == 9);
        for _ in 0..9 {
            state.over(0, None);
        }
        assert_eq!(state.grant().streams, 10);
        state.begin(PLAIN);
        state.refused();
        assert_eq!(state.grant().streams, 1, "one may always be tried");
        came(&mut state, &settings(&[(3, 20)]));
        assert_eq!(state.grant().streams, 20);
    }

    #[test]
    fn streams_that_are_not_over_are_in_the_way() {
        let mut state = settled(&[]);
        for _ in 0..=MOST_WINDING {
            state.begin(PLAIN);
            state.winds_up();
        }
        assert!(!state.takes(PLAIN) && state.is_of_use());
        state.wound_up();
        state.over(0, None);
        assert!(state.takes(PLAIN));
    }

    #[test]
    fn what_a_request_takes_of_a_connection_is_known_before() {
        let grant = Grant {
            streams: 50,
            window: 100_000,
            stream_window: 20_000,
        };
        let alone = Need {
            alone: true,
            ..PLAIN
        };
        for (need, places) in [
            (PLAIN, 1),
            (alone, 50),
            (upload(Claim::Bytes(100)), 1),
            (upload(Claim::Bytes(10_000)), 5),
            (upload(Claim::Everything), 10),
            (upload(Claim::Call), 9),
        ] {
            assert_eq!(grant.places(need), places, "{need:?}");
        }
    }

    #[test]
    fn whether_it_is_used_and_heard_is_asked_from_time_to_time() {
        let mut state = settled(&[]);
        assert!(state.was_heard() && !state.was_heard());
        assert!(state.was_used() && !state.was_used());
        state.begin(PLAIN);
        assert!(state.was_used() && state.was_used());
        state.over(0, None);
        assert!(!state.was_used());
        came(&mut state, &frame(DATA, 0, 1, &[1]));
        assert!(state.was_heard() && state.has_accepted() && state.progress() == 0);
        came(&mut state, &frame(HEADERS, 4, 1, &[0x88]));
        assert_eq!(state.progress(), 1);
    }
}
