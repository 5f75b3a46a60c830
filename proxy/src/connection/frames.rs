//! What HTTP/2 frames cost, seen from outside the engine.
//!
//! The engine's HTTP/2 bounds what a client can make it remember: streams, header lists,
//! continuations, resets before a request was taken. It does not bound what a client can make it
//! *do*: open a stream and reset it, over and over (CVE-2023-44487), or send frames that only ask to
//! be answered or read. So every frame that is not a request or its body costs a token, tokens come
//! back with time and with every piece of an answer, and who has none left is told to calm down.
//!
//! A peer that is trusted (`client_ip.trusted`) speaks for others: another proxy, or a content delivery
//! network. It may do as much as all those together for whom it speaks, for otherwise what few of them
//! do would end the requests of all the others. Each of them it bounds by itself.
//!
//! Going out, the same eye counts what the engine refuses by itself.

use std::sync::Arc;

use portolan_control::counters::Amount;
use tokio::time::Instant;

use super::behind::Behind;
use crate::connection::carried::Carried;
use crate::http::held::Held;
use crate::http::http2_frames::{
    CONTINUATION, DATA, FrameEvent, GOAWAY, H2_PREFACE, HEAD, HEADERS, PING, RST_STREAM, SETTINGS,
    Scanner,
};
use crate::http::token_bucket::Bucket;

/// Resets in a row, and how many more each second. A browser that leaves a page resets what it still
/// waited for; nobody needs to do that twice a second.
const RESETS: (f64, f64) = (256.0, 64.0);

/// Frames that are neither requests nor bodies, in a row, and how many more each second.
const CHATTER: (f64, f64) = (4096.0, 256.0);

/// Clients acknowledge what they read: so many frames for each piece of an answer are no chatter.
const FOR_EACH_PIECE: f64 = 4.0;

/// A frame that has to be answered costs more than one that has to be read.
const ANSWERED: f64 = 4.0;

/// The frame's error code that says "calm down" (RFC 9113, section 7).
const ENHANCE_YOUR_CALM: u32 = 11;

/// What a client does too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abuse {
    /// It takes back what it asked for.
    Resets,
    /// It sends frames that carry nothing.
    Chatter,
}

impl Abuse {
    /// The label in metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Resets => "h2_reset_flood",
            Self::Chatter => "h2_frame_flood",
        }
    }
}

/// What the engine refuses by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A stream.
    Stream(&'static str),
    /// The whole connection.
    Connection(&'static str),
}

/// What is known of the bodies that come over a connection.
#[derive(Debug)]
pub(crate) struct Bodies {
    /// What is held of them.
    pub(crate) held: Held,
    /// What stands behind them.
    pub(crate) behind: Behind,
}

impl Bodies {
    /// None yet, in a process that holds so much; `most`: what may be held of them.
    pub(crate) fn new(process: Arc<Amount>, most: usize) -> Self {
        Self {
            held: Held::new(process, most),
            behind: Behind::default(),
        }
    }
}

/// The frames of a connection, both ways.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Bytes of the client's preface that are still to come.
    preface: usize,
    inbound: Scanner,
    outbound: Scanner,
    resets: Bucket,
    chatter: Bucket,
    /// The last stream the client has opened.
    last_stream: u32,
    /// For whom it speaks.
    carried: Arc<Carried>,
    /// How many of them the buckets are made for.
    clients: u32,
}

impl Frames {
    pub(crate) fn new(now: Instant, carried: Arc<Carried>) -> Self {
        Self {
            carried,
            clients: 1,
            preface: H2_PREFACE.len(),
            inbound: Scanner::default(),
            outbound: Scanner::default(),
            resets: Bucket::new(RESETS, now),
            chatter: Bucket::new(CHATTER, now),
            last_stream: 0,
        }
    }

    /// The client sends this.
    ///
    /// # Errors
    /// When it has sent too much of its kind.
    pub(crate) fn came(
        &mut self,
        bytes: &[u8],
        bodies: &mut Bodies,
        now: impl Fn() -> Instant,
    ) -> Result<(), Abuse> {
        let clients = self.carried.clients();
        if clients != self.clients {
            let times = |(most, a_second): (f64, f64)| {
                let clients = f64::from(clients);
                (most * clients, a_second * clients)
            };
            self.clients = clients;
            self.resets.resize(times(RESETS));
            self.chatter.resize(times(CHATTER));
        }
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        let mut verdict = Ok(());
        let (resets, chatter) = (&mut self.resets, &mut self.chatter);
        let last_stream = &mut self.last_stream;
        let Bodies { held, behind } = bodies;
        self.inbound.feed(&bytes[skipped..], |seen| {
            let frame = match seen {
                FrameEvent::Frame(frame) => frame,
                FrameEvent::Headers(more) => return behind.more(more),
            };
            let flagged = frame.is_end_or_ack();
            match frame.kind {
                DATA => held.came(frame.stream, frame.data()),
                SETTINGS if flagged => held.acknowledges(),
                HEADERS if frame.stream <= *last_stream => behind.begins(&frame),
                CONTINUATION => behind.goes_on(&frame),
                _ => {}
            }
            let (bucket, cost, abuse) = match frame.kind {
                DATA if frame.length > 0 || flagged => return,
                HEADERS if frame.stream > *last_stream => {
                    *last_stream = frame.stream;
                    return;
                }
                RST_STREAM => (&mut *resets, 1.0, Abuse::Resets),
                SETTINGS | PING if !flagged => (&mut *chatter, ANSWERED, Abuse::Chatter),
                _ => (&mut *chatter, 1.0, Abuse::Chatter),
            };
            if !bucket.take(cost, &now) && verdict.is_ok() {
                verdict = Err(abuse);
            }
        });
        verdict
    }

    /// The engine sends this.
    pub(crate) fn go(&mut self, bytes: &[u8], mut refused: impl FnMut(Refused)) {
        let chatter = &mut self.chatter;
        self.outbound.feed(bytes, |seen| {
            let FrameEvent::Frame(frame) = seen else {
                return;
            };
            match frame.kind {
                DATA => chatter.give(FOR_EACH_PIECE),
                RST_STREAM => {
                    // What a request that went well ends with (0), or one that we gave up (2, 8), is no
                    // refusal.
                    if let Some(reason) = match frame.number(0) {
                        1 | 3 | 5 => Some("malformed"),
                        7 => Some("too_many"),
                        11 => Some("calm_down"),
                        _ => None,
                    } {
                        refused(Refused::Stream(reason));
                    }
                }
                GOAWAY => {
                    if let Some(reason) = match frame.number(4) {
                        0 => None,
                        1 => Some("h2_protocol_error"),
                        3 => Some("h2_flow_control_error"),
                        6 => Some("h2_frame_size_error"),
                        9 => Some("h2_compression_error"),
                        11 => Some("h2_calm_down"),
                        _ => Some("h2_error"),
                    } {
                        refused(Refused::Connection(reason));
                    }
                }
                _ => {}
            }
        });
    }

    /// The frame that ends the connection because of abuse, if one can be sent: not in the middle of
    /// another.
    pub(crate) fn goaway(&self) -> Option<[u8; HEAD + 8]> {
        self.outbound.is_between().then(|| {
            let mut frame = [0; HEAD + 8];
            frame[2] = 8;
            frame[3] = GOAWAY;
            frame[HEAD..HEAD + 4].copy_from_slice(&self.last_stream.to_be_bytes());
            frame[HEAD + 4..].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
            frame
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::http2_frames::frame;
    use std::time::Duration;

    fn frames(now: Instant) -> Frames {
        let mut frames = Frames::new(now, Arc::default());
        come(&mut frames, H2_PREFACE, now).unwrap();
        frames
    }

    fn come(frames: &mut Frames, bytes: &[u8], now: Instant) -> Result<(), Abuse> {
        frames.came(bytes, &mut Bodies::new(Arc::default(), usize::MAX), || now)
    }

    #[test]
    fn who_takes_back_what_it_asked_for_is_told_to_calm_down() {
        let now = Instant::now();
        let mut rapid = frames(now);
        let mut streams = (1..).step_by(2);
        let outcome = streams.by_ref().take(1_000).find(|stream| {
            come(&mut rapid, &frame(HEADERS, 5, *stream, &[0x82]), now).unwrap();
            come(
                &mut rapid,
                &frame(RST_STREAM, 0, *stream, &[0, 0, 0, 8]),
                now,
            )
            .is_err()
        });
        assert_eq!(outcome, Some(1 + 2 * 256));
        let goaway = rapid.goaway().unwrap();
        assert_eq!(goaway[..HEAD], [0, 0, 8, 7, 0, 0, 0, 0, 0]);
        assert_eq!(goaway[HEAD..HEAD + 4], 513_u32.to_be_bytes());
        assert_eq!(goaway[HEAD + 4..], [0, 0, 0, 11]);
        // The same with time in between.
        let mut slow = frames(now);
        for (second, stream) in (1..).step_by(2).take(1_000).enumerate() {
            let later = now + Duration::from_millis(20 * second as u64);
            come(
                &mut slow,
                &frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
                later,
            )
            .unwrap();
        }
    }

    #[test]
    fn who_speaks_for_many_may_do_what_they_all_may() {
        let now = Instant::now();
        let carried = Arc::<Carried>::default();
        let mut frames = Frames::new(now, carried.clone());
        come(&mut frames, H2_PREFACE, now).unwrap();
        let reset = frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
        let mut resets = |clients: u8| {
            for client in 0..clients {
                carried.note([192, 0, 2, client].into());
            }
            (0..10_000)
                .take_while(|_| come(&mut frames, &reset, now).is_ok())
                .count()
        };
        assert_eq!(resets(1), 256, "for one");
        // About nine more: two addresses may count as one.
        assert!((256 * 7..=256 * 9).contains(&resets(10)));
        assert_eq!(resets(10), 0, "and nobody else");
    }

    #[test]
    fn frames_that_carry_nothing_run_out() {
        let now = Instant::now();
        let count = |kind, flags, stream, payload: &[u8]| {
            let mut chatty = frames(now);
            (0..10_000)
                .take_while(|_| {
                    let frame = frame(kind, flags, stream, payload);
                    come(&mut chatty, &frame, now).is_ok()
                })
                .count()
        };
        assert_eq!(count(PING, 0, 0, &[0; 8]), 1024);
        assert_eq!(count(SETTINGS, 0, 0, &[]), 1024);
        assert_eq!(count(2, 0, 1, &[0; 5]), 4096, "priority");
        assert_eq!(count(8, 0, 0, &[0, 0, 0, 1]), 4096, "window updates");
        assert_eq!(count(9, 0, 1, &[0]), 4096, "continuations");
        assert_eq!(count(0x42, 0, 0, &[]), 4096, "unknown");
        assert_eq!(count(DATA, 0, 1, &[]), 4096, "empty data");
        assert_eq!(count(DATA, 0, 1, &[1]), 10_000, "data");
        // Who reads answers may say so.
        let mut reading = frames(now);
        for _ in 0..10_000 {
            reading.go(&frame(DATA, 0, 1, &[0; 10]), |_| ());
            for stream in [0, 1] {
                let update = frame(8, 0, stream, &[0, 0, 0, 10]);
                come(&mut reading, &update, now).unwrap();
            }
        }
    }

    #[test]
    fn what_the_engine_refuses_is_seen() {
        let mut frames = frames(Instant::now());
        let mut seen = Vec::new();
        for (bytes, expected) in [
            (frame(HEADERS, 5, 1, &[0x8c]), None),
            (
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 1]),
                Some(Refused::Stream("malformed")),
            ),
            (frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), None),
            (
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 7]),
                Some(Refused::Stream("too_many")),
            ),
            (
                frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 11]),
                Some(Refused::Connection("h2_calm_down")),
            ),
            (frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), None),
        ] {
            frames.go(&bytes, |refused| seen.push(refused));
            assert_eq!(seen.pop(), expected, "{bytes:?}");
        }
        assert!(frames.goaway().is_some());
        frames.go(&[0, 0, 8], |_| ());
        assert!(frames.goaway().is_none(), "within a frame");
    }
}
