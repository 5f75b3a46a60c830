//! What stands behind bodies over HTTP/2: how many fields a client has sent there.
//!
//! The library drops pseudo-headers that stand there, and says nothing; but a request that has some is
//! malformed (RFC 9113, section 8.1). So the fields of such header blocks are counted as they come:
//! where the library hands on fewer, there were others. To count them, none has to be understood (RFC
//! 7541, section 6).

use crate::http::http2_frames::Frame;

/// HEADERS and CONTINUATION: the header block is over; and on HEADERS: something stands before it.
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// Blocks that nobody has asked about: more than there are streams are forgotten.
const MOST: usize = 256;

/// The header blocks behind bodies of one connection.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    /// The one that comes.
    block: Option<Block>,
    /// Those that came, by their streams: how many fields.
    counted: Vec<(u32, usize)>,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    /// Bytes of it in this frame that are still to come.
    left: usize,
    /// No other frame belongs to it.
    last: bool,
    fields: Fields,
}

impl Behind {
    /// A header block begins behind a body.
    pub(crate) fn begins(&mut self, frame: &Frame<'_>) {
        let payload = frame.payload();
        let flag = |flag| frame.flags & flag != 0;
        let padding = match payload.first() {
            Some(padding) if flag(PADDED) => usize::from(*padding),
            _ => 0,
        };
        let before = usize::from(flag(PADDED)) + if flag(PRIORITY) { 5 } else { 0 };
        self.block = Some(Block {
            stream: frame.stream,
            left: frame.length.saturating_sub(before + padding),
            last: flag(END_HEADERS),
            fields: Fields::default(),
        });
        self.more(payload.get(before..).unwrap_or_default());
    }

    /// A header block goes on.
    pub(crate) fn goes_on(&mut self, frame: &Frame<'_>) {
        if let Some(block) = &mut self.block
            && block.stream == frame.stream
        {
            block.left = frame.length;
            block.last = frame.flags & END_HEADERS != 0;
            self.more(frame.payload());
        }
    }

    /// More of the frame came.
    pub(crate) fn more(&mut self, bytes: &[u8]) {
        let Some(block) = &mut self.block else {
            return;
        };
        let bytes = &bytes[..bytes.len().min(block.left)];
        block.left -= bytes.len();
        block.fields.feed(bytes);
        if block.left == 0 && block.last {
            if self.counted.len() == MOST {
                self.counted.remove(0);
            }
            self.counted.push((block.stream, block.fields.count));
            self.block = None;
        }
    }

    /// How many fields stood behind this stream's body. Asked once.
    pub(crate) fn take(&mut self, stream: u32) -> Option<usize> {
        let at = self.counted.iter().position(|(id, _)| *id == stream)?;
        Some(self.counted.swap_remove(at).1)
    }
}

/// Counts the fields of a header block, however its bytes are cut.
#[derive(Debug, Default)]
struct Fields {
    state: TrailerState,
    count: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum TrailerState {
    /// A field begins.
    #[default]
    Begin,
    /// The rest of a number that says nothing here; so many strings follow.
    Number(u8),
    /// The length of a string, the first of so many.
    Length(u8),
    /// The rest of that length: as much of it as came, and how far the next bits stand.
    Longer(u8, usize, u32),
    /// So many bytes of a string, the first of so many.
    String(u8, usize),
}

impl Fields {
    fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((byte, rest)) = bytes.split_first() {
            if let TrailerState::String(strings, left) = self.state {
                let skipped = left.min(bytes.len());
                bytes = &bytes[skipped..];
                self.state = string(strings, left - skipped);
                continue;
            }
            bytes = rest;
            self.state = self.step(*byte);
        }
    }

    fn step(&mut self, byte: u8) -> TrailerState {
        match self.state {
            TrailerState::Begin => {
                // What it is, the bits of the number that follow, and whether there is a value.
                let (prefix, is_field, has_value) = match byte {
                    0x80.. => (0x7f, true, false),
                    0x40.. => (0x3f, true, true),
                    0x20.. => (0x1f, false, false),
                    _ => (0x0f, true, true),
                };
                self.count += usize::from(is_field);
                let number = byte & prefix;
                // A name without a number is written out.
                let strings = match (has_value, number) {
                    (false, _) => 0,
                    (true, 0) => 2,
                    (true, _) => 1,
                };
                match number == prefix {
                    true => TrailerState::Number(strings),
                    false => next(strings),
                }
            }
            TrailerState::Number(strings) if byte & 0x80 != 0 => TrailerState::Number(strings),
            TrailerState::Number(strings) => next(strings),
            TrailerState::Length(strings) => match usize::from(byte & 0x7f) {
                0x7f => TrailerState::Longer(strings, 0x7f, 0),
                length => string(strings, length),
            },
            TrailerState::Longer(strings, length, shift) => {
                let more = usize::from(byte & 0x7f).checked_shl(shift);
                let length = length.saturating_add(more.unwrap_or(usize::MAX));
                match byte & 0x80 != 0 {
                    true => TrailerState::Longer(strings, length, shift.saturating_add(7)),
                    false => string(strings, length),
                }
            }
            state @ TrailerState::String(..) => state,
        }
    }
}

/// What follows when so many strings do.
fn next(strings: u8) -> TrailerState {
    match strings {
        0 => TrailerState::Begin,
        strings => TrailerState::Length(strings),
    }
}

/// What follows within a string of which so much is left.
fn string(strings: u8, left: usize) -> TrailerState {
    match left {
        0 => next(strings - 1),
        left => TrailerState::String(strings, left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::http2_frames::{FrameEvent, HEADERS, Scanner, frame};

    const CONTINUATION: u8 = 9;

    fn count(block: &[u8]) -> usize {
        let mut counts = Vec::new();
        for size in 1..=block.len() {
            let mut fields = Fields::default();
            block.chunks(size).for_each(|piece| fields.feed(piece));
            assert!(matches!(fields.state, TrailerState::Begin), "{block:?}");
            counts.push(fields.count);
        }
        counts.dedup();
        assert_eq!(counts.len(), 1, "however it is cut");
        counts[0]
    }

    #[test]
    fn fields_are_counted_in_every_form() {
        assert_eq!(count(&[0x82, 0x87, 0xbe]), 3, "by number");
        assert_eq!(count(&[0xff, 0x80, 0x01, 0x84]), 2, "by a large one");
        assert_eq!(count(&[0x3f, 0xe1, 0x1f, 0x20, 0x84]), 1, "sizes of tables");
        assert_eq!(count(b"\x40\x01x\x02yz\x41\x03abc"), 2, "to be remembered");
        assert_eq!(count(b"\x00\x01x\x00\x0f\x10\x01a\x10\x82##\x00"), 3, "not");
        let mut long = b"\x04\x7f\xc9\x02".to_vec();
        long.extend([0x82; 127 + 0x49 + (2 << 7)]);
        long.push(0x84);
        assert_eq!(count(&long), 2, "with a long value");
    }

    #[test]
    fn blocks_are_found_in_their_frames() {
        let mut bytes = frame(HEADERS, 1, 3, &[0x82]);
        bytes.extend(frame(
            CONTINUATION,
            4,
            3,
            b"\x00\x0cx-a-long-name\x01y"[..].into(),
        ));
        // Four bytes of padding, which look like fields, and five of a priority.
        let padded = [&[4, 0, 0, 0, 0, 9][..], b"\x00\x01x\x02yz\x84", &[0x82; 4]].concat();
        bytes.extend(frame(
            HEADERS,
            1 | END_HEADERS | PADDED | PRIORITY,
            5,
            &padded,
        ));
        for size in 1..=bytes.len() {
            let mut scanner = Scanner::default();
            let mut behind = Behind::default();
            for piece in bytes.chunks(size) {
                scanner.feed(piece, |seen| match seen {
                    FrameEvent::Frame(frame) if frame.kind == HEADERS => behind.begins(&frame),
                    FrameEvent::Frame(frame) => behind.goes_on(&frame),
                    FrameEvent::Headers(more) => behind.more(more),
                });
            }
            let counts = [3, 5, 3].map(|stream| behind.take(stream));
            assert_eq!(counts, [Some(2), Some(2), None], "in pieces of {size}");
        }
    }

    #[test]
    fn what_nobody_asks_about_is_forgotten() {
        let mut behind = Behind::default();
        for stream in 0..2 * MOST as u32 {
            let bytes = frame(HEADERS, END_HEADERS, stream, &[0x82]);
            Scanner::default().feed(&bytes, |seen| {
                if let FrameEvent::Frame(frame) = seen {
                    behind.begins(&frame);
                }
            });
        }
        assert_eq!(behind.counted.len(), MOST);
    }
}
