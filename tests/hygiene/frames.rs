//! HTTP/2 by hand: frames that no library would send.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::harness::soon;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// A frame, ready to be sent.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Headers, each written out in full.
pub(super) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.push(0);
        for text in [name, value] {
            length(text.len(), &mut bytes);
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// A length in seven bits and as many more bytes as it takes (RFC 7541, section 5.1).
fn length(length: usize, bytes: &mut Vec<u8>) {
    if length < 127 {
        bytes.push(length as u8);
        return;
    }
    bytes.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    bytes.push(rest as u8);
}

/// A plain request for a path.
pub(super) fn get(path: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", path),
    ])
}

/// What became of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer.
    Status(u16),
    /// A reset, and its code.
    Reset(u32),
    /// The whole connection is over, with this code.
    Away(u32),
}

/// A client.
pub(super) struct Client {
    reader: Reader,
    write: OwnedWriteHalf,
}

/// A frame that came.
pub(super) struct Came {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Client {
    /// Connects and says hello, with these settings.
    pub(super) async fn connect(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (read, mut write) = stream.into_split();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, settings));
        write.write_all(&hello).await.unwrap();
        Self {
            reader: Reader(read),
            write,
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.unwrap();
    }

    /// The next frame; none when the other side has closed.
    pub(super) async fn next(&mut self) -> Option<Came> {
        self.reader.next().await
    }

    /// What becomes of these streams, in whatever order.
    pub(super) async fn outcomes(&mut self, streams: &[u32]) -> BTreeMap<u32, Outcome> {
        let mut outcomes = BTreeMap::new();
        while outcomes.len() < streams.len() {
            let came = self.next().await.expect("the connection stands");
            let outcome = match came.kind {
                HEADERS if came.stream != 0 && !outcomes.contains_key(&came.stream) => {
                    Outcome::Status(status(&came.payload))
                }
                RST_STREAM if !outcomes.contains_key(&came.stream) => {
                    Outcome::Reset(code(&came.payload))
                }
                GOAWAY => {
                    for stream in streams {
                        let away = Outcome::Away(code(&came.payload[4..]));
                        outcomes.entry(*stream).or_insert(away);
                    }
                    break;
                }
                _ => continue,
            };
            if streams.contains(&came.stream) {
                outcomes.insert(came.stream, outcome);
            }
        }
        outcomes
    }

    /// Floods the other side with this until it closes: the code of its GOAWAY, if that could be
    /// read.
    pub(super) async fn flood(
        self,
        mut make: impl FnMut(u32) -> Vec<u8> + Send + 'static,
    ) -> Option<u32> {
        let Self {
            mut reader,
            mut write,
        } = self;
        let sending = tokio::spawn(async move {
            for number in 0.. {
                if write.write_all(&make(number)).await.is_err() {
                    return;
                }
            }
        });
        let mut goaway = None;
        let reading = async {
            while let Some(came) = reader.next().await {
                if came.kind == GOAWAY {
                    goaway = Some(code(&came.payload[4..]));
                }
            }
        };
        soon("the other side closes", reading).await;
        sending.abort();
        goaway
    }
}

/// The half of a client that reads.
struct Reader(OwnedReadHalf);

impl Reader {
    async fn next(&mut self) -> Option<Came> {
        let reading = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Came {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            })
        };
        soon("a frame, or the end", reading).await
    }
}

/// The error code at the beginning of these bytes.
pub(super) fn code(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The status of an answer: the first of its headers (RFC 9113, section 8.3), by number or in full.
fn status(block: &[u8]) -> u16 {
    match block[0] {
        0x88 => 200,
        0x89 => 204,
        0x8a => 206,
        0x8b => 304,
        0x8c => 400,
        0x8d => 404,
        0x8e => 500,
        // Written out, by the name's number 8.
        0x48 | 0x08 => {
            let length = usize::from(block[1] & 0x7f);
            let bytes = &block[2..2 + length];
            if block[1] & 0x80 == 0 {
                std::str::from_utf8(bytes).unwrap().parse().unwrap()
            } else {
                digits(bytes)
            }
        }
        other => panic!("a status like 0x{other:02x}"),
    }
}

/// Three digits in the code of RFC 7541, appendix B: 0 to 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u16> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)))
        .collect();
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let value = |count: usize| {
            bits[at..at + count]
                .iter()
                .fold(0, |all, bit| all << 1 | bit)
        };
        let short = value(5);
        let digit = if short < 3 {
            at += 5;
            short
        } else {
            let long = value(6);
            at += 6;
            long - 0b01_1001 + 3
        };
        number = number * 10 + digit;
    }
    number
}
