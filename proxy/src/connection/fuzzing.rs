//! What must hold for whatever clients send. See [`crate::fuzzing`].

use std::time::Duration;

use portolan_config::plan::LimitsPlan;
use tokio::time::Instant;

use super::H2_PREFACE;
use super::frames::{Abuse, Frames, Refused};
use super::framing::{Framing, Malformed};
use super::head::{Scan, scan};
use crate::fuzzing::{STRIDES, ends};

const LIMITS: LimitsPlan = LimitsPlan {
    header_bytes: 512,
    headers: 8,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(75),
    body_bytes: None,
    connections: 100,
    connections_per_client: None,
    requests_per_connection: None,
    uri_bytes: 256,
    min_body_rate: None,
};

/// The bytes of an HTTP/1.1 client: the same verdict however they are cut, and no request that a
/// plain reading of its lines would take for another one.
pub fn request(bytes: &[u8]) {
    let whole = scan(bytes, 0, &LIMITS);
    for stride in STRIDES {
        let mut seen = 0;
        let mut found = scan(&[], 0, &LIMITS);
        for end in ends(bytes.len(), stride) {
            found = scan(&bytes[..end], seen, &LIMITS);
            if found != Scan::Partial {
                break;
            }
            seen = end;
        }
        match (&whole, &found) {
            // What else is wrong may be seen first.
            (Scan::Refused(_), Scan::Refused(_)) => {}
            (whole, found) => assert_eq!(whole, found, "in pieces of {stride}"),
        }
    }
    let Scan::Whole(length, framing) = whole else {
        return;
    };
    let (head, body) = bytes.split_at(length);
    assert_eq!(plain_framing(head), framing);
    let end = end_of(framing.clone(), body, body.len().max(1));
    for stride in STRIDES {
        assert_eq!(
            end_of(framing.clone(), body, stride),
            end,
            "in pieces of {stride}"
        );
    }
}

/// How the body of a head is framed, read as plainly as can be, and checked on the way.
fn plain_framing(head: &[u8]) -> Framing {
    let blank = head
        .iter()
        .take_while(|byte| b"\r\n".contains(byte))
        .count();
    let text: String = head[blank..].iter().copied().map(char::from).collect();
    let text = text.strip_suffix("\r\n\r\n").expect("a head has an end");
    assert!(!text.contains("\r\n\r\n"), "more than a head");
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let words: Vec<&str> = line.split(' ').collect();
    let [_, target, "HTTP/1.0" | "HTTP/1.1"] = words[..] else {
        panic!("a request line with {} words", words.len());
    };
    assert!(target.bytes().all(|byte| byte.is_ascii_graphic()));
    let (mut hosts, mut framing) = (0, Framing::NONE);
    let mut framed = 0;
    for line in lines {
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
        let (name, value) = line.split_once(':').expect("a header has a colon");
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" => {
                framed += 1;
                framing = Framing::Length(value.parse().expect("a length is a number"));
            }
            "transfer-encoding" => {
                framed += 1;
                assert!(value.eq_ignore_ascii_case("chunked"), "{value:?}");
                assert!(line.len() < text.len() && words[2] == "HTTP/1.1");
                framing = Framing::chunked();
            }
            _ => {}
        }
    }
    assert!(hosts <= 1, "two hosts");
    assert!(framed <= 1, "two framings");
    framing
}

/// How many bytes belong to a body, and whether it is over by then.
fn end_of(mut framing: Framing, bytes: &[u8], stride: usize) -> Result<(usize, bool), Malformed> {
    let mut taken = 0;
    for piece in bytes.chunks(stride) {
        if framing.is_done() {
            break;
        }
        let more = framing.take(piece)?;
        assert!(more <= piece.len());
        assert!(more == piece.len() || framing.is_done(), "stuck");
        taken += more;
    }
    Ok((taken, framing.is_done()))
}

/// Where a chunked body of a client ends, if it does.
pub(crate) fn end_of_chunks(bytes: &[u8]) -> Option<usize> {
    let whole = end_of(Framing::chunked(), bytes, bytes.len().max(1));
    for stride in STRIDES {
        assert_eq!(end_of(Framing::chunked(), bytes, stride), whole);
    }
    whole.ok().filter(|(_, over)| *over).map(|(end, _)| end)
}

/// HTTP/2 frames, both ways: found however they are cut, and counted as a plain reading counts them.
pub fn frames(bytes: &[u8]) {
    let now = Instant::now();
    let inbound = |stride: usize| {
        let mut frames = Frames::new(now);
        frames.came(H2_PREFACE, || now).expect("no frame came yet");
        bytes
            .chunks(stride)
            .try_for_each(|piece| frames.came(piece, || now))
    };
    let outbound = |stride: usize| {
        let mut frames = Frames::new(now);
        let mut refused = Vec::new();
        for piece in bytes.chunks(stride) {
            frames.go(piece, |what| refused.push(what));
        }
        (refused, frames.goaway().is_some())
    };
    let plain = Plain::read(bytes);
    for stride in STRIDES.into_iter().chain([bytes.len().max(1)]) {
        assert_eq!(inbound(stride), plain.abuse(), "in pieces of {stride}");
        let (refused, between) = outbound(stride);
        assert_eq!(refused.len(), plain.refused, "in pieces of {stride}");
        assert_eq!(between, plain.between, "in pieces of {stride}");
        let streams = |what: &&Refused| matches!(what, Refused::Stream(_));
        assert_eq!(
            refused.iter().filter(streams).count(),
            plain.refused_streams
        );
    }
}

/// The frames of some bytes, read with all of them at hand.
struct Plain {
    /// What runs out first, in the order of the frames: cost and kind.
    costs: Vec<(f64, Abuse)>,
    refused: usize,
    refused_streams: usize,
    between: bool,
}

impl Plain {
    fn read(mut bytes: &[u8]) -> Self {
        let mut plain = Self {
            costs: Vec::new(),
            refused: 0,
            refused_streams: 0,
            between: true,
        };
        let mut last = 0;
        while !bytes.is_empty() {
            let Some((head, rest)) = bytes.split_first_chunk::<9>() else {
                plain.between = false;
                break;
            };
            let number = |bytes: &[u8]| bytes.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
            let length = number(&head[..3]) as usize;
            let (kind, flag) = (head[3], head[4] & 1 != 0);
            let stream = number(&head[5..]) & 0x7fff_ffff;
            if rest.len() < length.min(8) {
                plain.between = false;
                break;
            }
            let payload = &rest[..length.min(rest.len())];
            plain.between = payload.len() == length;
            // What is shorter than it should be ends in zeros.
            let code = |at: usize| {
                let byte = |at| payload.get(at).copied().unwrap_or(0);
                number(&[byte(at), byte(at + 1), byte(at + 2), byte(at + 3)])
            };
            plain.count(kind, flag, stream, length, &mut last);
            match kind {
                3 if matches!(code(0), 1 | 3 | 5 | 7 | 11) => {
                    plain.refused += 1;
                    plain.refused_streams += 1;
                }
                7 if code(4) != 0 => plain.refused += 1,
                _ => {}
            }
            bytes = &rest[payload.len()..];
        }
        plain
    }

    fn count(&mut self, kind: u8, flag: bool, stream: u32, length: usize, last: &mut u32) {
        let cost = match kind {
            0 if length > 0 || flag => return,
            1 if stream > *last => {
                *last = stream;
                return;
            }
            3 => (1.0, Abuse::Resets),
            4 | 6 if !flag => (4.0, Abuse::Chatter),
            _ => (1.0, Abuse::Chatter),
        };
        self.costs.push(cost);
    }

    /// What becomes of them when all come at one moment.
    fn abuse(&self) -> Result<(), Abuse> {
        let (mut resets, mut chatter) = (256.0, 4096.0);
        for (cost, abuse) in &self.costs {
            let left = match abuse {
                Abuse::Resets => &mut resets,
                Abuse::Chatter => &mut chatter,
            };
            if *left < *cost {
                return Err(*abuse);
            }
            *left -= cost;
        }
        Ok(())
    }
}
