//! What HTTP/2 frames cost, seen from outside the engine.
//!
//! The engine's HTTP/2 bounds what a client can make it remember: streams, header lists,
//! continuations, resets before a request was taken. It does not bound what a client can make it
//! *do*: open a stream and reset it, over and over (CVE-2023-44487), or send frames that only ask to
//! be answered or read. So every frame that is not a request or its body costs a token, tokens come
//! back with time and with every piece of an answer, and who has none left is told to calm down.
//!
//! Going out, the same eye counts what the engine refuses by itself.

use tokio::time::Instant;

use crate::connection::H2_PREFACE;

/// Resets in a row, and how many more each second. A browser that leaves a page resets what it still
/// waited for; nobody needs to do that twice a second.
const RESETS: (f64, f64) = (256.0, 64.0);

/// Frames that are neither requests nor bodies, in a row, and how many more each second.
const CHATTER: (f64, f64) = (4096.0, 256.0);

/// Clients acknowledge what they read: so many frames for each piece of an answer are no chatter.
const FOR_EACH_PIECE: f64 = 4.0;

/// A frame that has to be answered costs more than one that has to be read.
const ANSWERED: f64 = 4.0;

/// Bytes of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;

/// Bytes of a frame's payload that are looked at.
const LOOK: usize = 8;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// END_STREAM on DATA and HEADERS, ACK on SETTINGS and PING.
const END_OR_ACK: u8 = 1;

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
}

impl Frames {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
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
    pub(crate) fn came(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), Abuse> {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        let mut verdict = Ok(());
        let (resets, chatter) = (&mut self.resets, &mut self.chatter);
        let last_stream = &mut self.last_stream;
        self.inbound.feed(&bytes[skipped..], |frame| {
            let flagged = frame.flags & END_OR_ACK != 0;
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
        self.outbound.feed(bytes, |frame| match frame.kind {
            DATA => chatter.give(FOR_EACH_PIECE),
            RST_STREAM => {
                // What a request that went well ends with (0), or one that we gave up (2, 8), is no
                // refusal.
                if let Some(reason) = match frame.code(0) {
                    1 | 3 | 5 => Some("malformed"),
                    7 => Some("too_many"),
                    11 => Some("calm_down"),
                    _ => None,
                } {
                    refused(Refused::Stream(reason));
                }
            }
            GOAWAY => {
                if let Some(reason) = match frame.code(4) {
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

/// A frame, as much of it as is looked at.
#[derive(Clone, Copy, Debug)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
    payload: [u8; LOOK],
}

impl Frame {
    fn code(&self, at: usize) -> u32 {
        self.payload[at..at + 4]
            .iter()
            .fold(0, |code, byte| code << 8 | u32::from(*byte))
    }
}

/// Finds frames in bytes, however they are cut.
#[derive(Debug, Default)]
struct Scanner {
    /// The head, and the beginning of the payload.
    seen: [u8; HEAD + LOOK],
    have: usize,
    /// Bytes of the payload that are not looked at.
    skip: usize,
}

impl Scanner {
    fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(&Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let wanted = HEAD + self.looked();
            let take = (wanted - self.have).min(bytes.len());
            self.seen[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            // With the head there, it is known how much of the payload is wanted.
            if self.have >= HEAD && self.have == HEAD + self.looked() {
                let frame = self.frame();
                on(&frame);
                self.skip = frame.length - self.looked();
                self.have = 0;
            }
        }
    }

    /// How much of the payload is looked at, as far as that is known.
    fn looked(&self) -> usize {
        if self.have < HEAD {
            return 0;
        }
        self.length().min(LOOK)
    }

    fn length(&self) -> usize {
        usize::from(self.seen[0]) << 16 | usize::from(self.seen[1]) << 8 | usize::from(self.seen[2])
    }

    fn frame(&self) -> Frame {
        let mut payload = [0; LOOK];
        // Behind a short one stands what is left of the frame before it.
        let looked = self.looked();
        payload[..looked].copy_from_slice(&self.seen[HEAD..HEAD + looked]);
        let stream = &self.seen[5..HEAD];
        Frame {
            length: self.length(),
            kind: self.seen[3],
            flags: self.seen[4],
            stream: stream.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)) & 0x7fff_ffff,
            payload,
        }
    }

    /// Whether one frame is over and the next has not begun.
    fn is_between(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}

/// Tokens that come back with time.
#[derive(Debug)]
struct Bucket {
    most: f64,
    a_second: f64,
    left: f64,
    filled: Instant,
}

impl Bucket {
    fn new((most, a_second): (f64, f64), now: Instant) -> Self {
        Self {
            most,
            a_second,
            left: most,
            filled: now,
        }
    }

    /// Takes some, if there are any. The clock is only asked when there seem to be none.
    fn take(&mut self, cost: f64, now: impl Fn() -> Instant) -> bool {
        if self.left < cost {
            let now = now();
            let passed = now.saturating_duration_since(self.filled);
            self.filled = now;
            self.give(passed.as_secs_f64() * self.a_second);
        }
        if self.left < cost {
            return false;
        }
        self.left -= cost;
        true
    }

    fn give(&mut self, more: f64) {
        self.left = (self.left + more).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn frames(now: Instant) -> Frames {
        let mut frames = Frames::new(now);
        frames.came(H2_PREFACE, || now).unwrap();
        frames
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut bytes = frame(SETTINGS, 0, 0, &[]);
        bytes.extend(frame(HEADERS, 4, 1, &[7; 3]));
        bytes.extend(frame(DATA, 1, 1, &[7; 100]));
        bytes.extend(frame(PING, 0, 0, &[1, 2, 3, 4, 5, 6, 7, 8]));
        for size in 1..=bytes.len() {
            let mut scanner = Scanner::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                scanner.feed(piece, |frame| {
                    seen.push((frame.kind, frame.length, frame.stream));
                });
            }
            assert_eq!(
                seen,
                [(4, 0, 0), (1, 3, 1), (0, 100, 1), (6, 8, 0)],
                "in pieces of {size}"
            );
            assert!(scanner.is_between());
        }
    }

    #[test]
    fn who_takes_back_what_it_asked_for_is_told_to_calm_down() {
        let now = Instant::now();
        let mut rapid = frames(now);
        let mut streams = (1..).step_by(2);
        let outcome = streams.by_ref().take(1_000).find(|stream| {
            rapid
                .came(&frame(HEADERS, 5, *stream, &[0x82]), || now)
                .unwrap();
            rapid
                .came(&frame(RST_STREAM, 0, *stream, &[0, 0, 0, 8]), || now)
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
            slow.came(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]), || later)
                .unwrap();
        }
    }

    #[test]
    fn frames_that_carry_nothing_run_out() {
        let now = Instant::now();
        let count = |kind, flags, stream, payload: &[u8]| {
            let mut chatty = frames(now);
            (0..10_000)
                .take_while(|_| {
                    chatty
                        .came(&frame(kind, flags, stream, payload), || now)
                        .is_ok()
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
                reading.came(&update, || now).unwrap();
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
