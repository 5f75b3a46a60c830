//! HTTP/2 frames, found in bytes on their way (RFC 9113, section 4.1).
//!
//! The library that speaks HTTP/2 keeps to itself what it read. What has to be known besides is seen
//! here, from outside: with clients, what their frames cost ([`crate::connection`]); with endpoints,
//! what they allow and when they leave ([`crate::upstream::exchange`]).

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 9;

/// Bytes of a payload that are looked at, but for SETTINGS.
const LOOK: usize = 8;

/// Bytes of SETTINGS that are looked at: thirty-two of them. There are seven.
const LOOK_SETTINGS: usize = 32 * SETTING;

/// Bytes of one setting (RFC 9113, section 6.5.1).
pub(crate) const SETTING: usize = 6;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

/// END_STREAM on DATA and HEADERS, ACK on SETTINGS and PING.
pub(crate) const END_OR_ACK: u8 = 1;

/// On DATA and HEADERS: something stands behind the payload that says nothing.
const PADDED: u8 = 8;

/// Numbers of streams, window increments: a bit of them is nobody's.
const MASK: u32 = 0x7fff_ffff;

/// What is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FrameEvent<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// More of its payload, if that is a header block.
    Headers(&'a [u8]),
}

/// A frame, as much of it as is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    /// Bytes of its payload.
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// The beginning of its payload.
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The beginning of its payload.
    pub(crate) fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether it is the last of its stream, or an acknowledgement.
    pub(crate) fn is_end_or_ack(&self) -> bool {
        self.flags & END_OR_ACK != 0
    }

    /// Four bytes at this place of the payload. Behind a short one stand zeros.
    pub(crate) fn number(&self, at: usize) -> u32 {
        (at..at + 4).fold(0, |number, at| {
            number << 8 | u32::from(self.payload.get(at).copied().unwrap_or(0))
        })
    }

    /// The same without the bit that is nobody's.
    pub(crate) fn number31(&self, at: usize) -> u32 {
        self.number(at) & MASK
    }

    /// Of SETTINGS: what is set to what.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (u16, u32)> {
        let settings = self.payload.chunks_exact(SETTING);
        settings.map(|setting| {
            let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b));
            (number(&setting[..2]) as u16, number(&setting[2..]))
        })
    }

    /// Of DATA: bytes that are handed on, without padding (RFC 9113, section 6.1).
    pub(crate) fn data(&self) -> usize {
        match self.payload.first() {
            Some(padding) if self.flags & PADDED != 0 => {
                self.length.saturating_sub(1 + usize::from(*padding))
            }
            _ => self.length,
        }
    }
}

/// Finds frames in bytes, however they are cut.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// The head, and the beginning of the payload.
    seen: [u8; HEAD + LOOK_SETTINGS],
    have: usize,
    /// Bytes of the payload that are not looked at.
    skip: usize,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            seen: [0; HEAD + LOOK_SETTINGS],
            have: 0,
            skip: 0,
        }
    }
}

impl Scanner {
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(FrameEvent<'_>)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let (skipped, rest) = bytes.split_at(self.skip.min(bytes.len()));
                if matches!(self.seen[3], HEADERS | CONTINUATION) {
                    on(FrameEvent::Headers(skipped));
                }
                self.skip -= skipped.len();
                bytes = rest;
                continue;
            }
            let wanted = HEAD + self.looked();
            let take = (wanted - self.have).min(bytes.len());
            self.seen[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            // With the head there, it is known how much of the payload is wanted.
            if self.have >= HEAD && self.have == HEAD + self.looked() {
                let looked = self.looked();
                let length = self.length();
                on(FrameEvent::Frame(self.frame()));
                self.skip = length - looked;
                self.have = 0;
            }
        }
    }

    /// How much of the payload is looked at, as far as that is known.
    fn looked(&self) -> usize {
        if self.have < HEAD {
            return 0;
        }
        let most = match self.seen[3] {
            SETTINGS => LOOK_SETTINGS,
            _ => LOOK,
        };
        self.length().min(most)
    }

    fn length(&self) -> usize {
        usize::from(self.seen[0]) << 16 | usize::from(self.seen[1]) << 8 | usize::from(self.seen[2])
    }

    fn frame(&self) -> Frame<'_> {
        let stream = &self.seen[5..HEAD];
        Frame {
            length: self.length(),
            kind: self.seen[3],
            flags: self.seen[4],
            stream: stream.iter().fold(0, |id, byte| id << 8 | u32::from(*byte)) & MASK,
            payload: &self.seen[HEAD..HEAD + self.looked()],
        }
    }

    /// Whether one frame is over and the next has not begun.
    pub(crate) fn is_between(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}

/// What HTTP/2 connections begin with (RFC 9113, section 3.4).
pub(crate) const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame with this payload.
#[cfg(test)]
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let mut bytes = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 7, 0, 6, 0, 1, 0, 0, 9]);
        bytes.extend(frame(HEADERS, 4, 1, &[7; 3]));
        bytes.extend(frame(DATA, 1, 1, &[7; 100]));
        bytes.extend(frame(DATA, PADDED, 1, &[9; 30]));
        bytes.extend(frame(DATA, PADDED, 1, &[9; 5]));
        bytes.extend(frame(PING, 0, 0, &[1, 2, 3, 4, 5, 6, 7, 8]));
        for size in 1..=bytes.len() {
            let mut scanner = Scanner::default();
            let mut seen = Vec::new();
            let mut settings = Vec::new();
            for piece in bytes.chunks(size) {
                scanner.feed(piece, |what| {
                    let FrameEvent::Frame(frame) = what else {
                        return;
                    };
                    seen.push((frame.kind, frame.length, frame.stream, frame.data()));
                    if frame.kind == SETTINGS {
                        // What is left of a setting is none.
                        settings.extend(frame.settings());
                    }
                });
            }
            let all = [
                (4, 13, 0, 13),
                (1, 3, 1, 3),
                (0, 100, 1, 100),
                (0, 30, 1, 20),
                (0, 5, 1, 0),
                (6, 8, 0, 8),
            ];
            assert_eq!(seen, all, "in pieces of {size}");
            assert_eq!(settings, [(3, 7), (6, 65536)], "in pieces of {size}");
            assert!(scanner.is_between());
        }
    }

    #[test]
    fn numbers_are_read_without_the_bit_that_is_nobodys() {
        let bytes = frame(GOAWAY, 0, 0, &[0x80, 0, 0, 5, 0, 0, 0, 11]);
        let mut found = None;
        Scanner::default().feed(&bytes, |seen| {
            if let FrameEvent::Frame(frame) = seen {
                found = Some((frame.number31(0), frame.number(4)));
            }
        });
        assert_eq!(found, Some((5, 11)));
        let short = frame(RST_STREAM, 0, 1, &[0, 0]);
        Scanner::default().feed(&short, |seen| {
            assert!(matches!(seen, FrameEvent::Frame(frame) if frame.number(0) == 0));
        });
    }
}
