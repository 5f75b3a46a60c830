//! What must hold for whatever frames clients send. See [`crate::fuzzing`].

use std::sync::Arc;

use tokio::time::Instant;

use super::frames::{Abuse, Bodies, Frames, Refused};
use crate::fuzzing::STRIDES;
use crate::http::held::MOST_OF_ONE;
use crate::http::http2_frames::H2_PREFACE;

/// HTTP/2 frames, both ways: found however they are cut, and counted as a plain reading counts them.
pub fn frames(bytes: &[u8]) {
    let now = Instant::now();
    let inbound = |stride: usize| {
        let mut frames = Frames::new(now, Arc::default());
        let mut bodies = Bodies::new(Arc::default(), MOST_OF_ONE);
        let mut came = |bytes: &[u8]| frames.came(bytes, &mut bodies, || now);
        came(H2_PREFACE).expect("no frame came yet");
        bytes.chunks(stride).try_for_each(came)
    };
    let outbound = |stride: usize| {
        let mut frames = Frames::new(now, Arc::default());
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
