//! HTTP/2 with as little work as it can be done with: the requests are frames that are ready, and of
//! the answers only what says that they are the right ones is looked at.

use portolan_control::clock::{Clock, Tick};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::load::{HOST, Tally};
use crate::origin::SMALL;

/// Requests that are under way at once on a connection.
const STREAMS: u32 = 10;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

/// On a SETTINGS or PING frame, and on one that ends a stream.
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// More than a connection ever gets: it need not ask for more.
const WINDOW: u32 = 0x7FFF_FFFF - 65_535;

/// `:status: 200`, as one byte of HPACK.
const STATUS_200: u8 = 0x88;

/// A request that is under way.
struct Under {
    stream: u32,
    began: Tick,
    body: usize,
}

/// One connection, until nobody waits for it any more.
///
/// # Panics
/// When an answer is not that of the endpoints.
pub(crate) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: S,
    seed: u64,
    clock: Clock,
    tally: &Tally,
) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut out = PREFACE.to_vec();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    frame(&mut out, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
    let mut next = 1;
    let mut under = Vec::new();
    for _ in 0..STREAMS {
        under.push(begin(&mut next, &mut out, &mut random, clock));
    }
    let mut read = Vec::with_capacity(64 * 1024);
    loop {
        if !out.is_empty() {
            connection
                .write_all(&out)
                .await
                .expect("requests are taken");
            connection.flush().await.expect("requests are taken");
            out.clear();
        }
        let more = connection.read_buf(&mut read).await.expect("answers");
        assert!(more > 0, "closed with requests under way");
        let mut at = 0;
        while let Some((head, payload)) = first_frame(&read[at..]) {
            at += head.len() + payload.len();
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5] & 0x7F, head[6], head[7], head[8]]);
            match kind {
                DATA | HEADERS => {
                    let its = under.iter_mut().find(|under| under.stream == stream);
                    let its = its.expect("a request was made");
                    if kind == DATA {
                        its.body += payload.len();
                    } else {
                        assert!(flags & END_HEADERS != 0, "a small head is one frame");
                        // The server may first say how large its table is.
                        let status = payload.iter().find(|byte| **byte & 0xE0 != 0x20);
                        assert_eq!(status, Some(&STATUS_200), "another answer");
                    }
                    if flags & END_STREAM != 0 {
                        assert_eq!(its.body, SMALL, "the whole answer");
                        tally.add(clock.now().since(its.began));
                        *its = begin(&mut next, &mut out, &mut random, clock);
                    }
                }
                SETTINGS if flags & ACK == 0 => frame(&mut out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(&mut out, PING, ACK, 0, payload),
                RST_STREAM | GOAWAY => panic!("refused: {kind} {payload:?}"),
                _ => {}
            }
        }
        read.drain(..at);
    }
}

fn begin(next: &mut u32, out: &mut Vec<u8>, random: &mut fastrand::Rng, clock: Clock) -> Under {
    let stream = *next;
    *next += 2;
    let block = header_block(stream == 1, random);
    frame(out, HEADERS, END_STREAM | END_HEADERS, stream, &block);
    Under {
        stream,
        began: clock.now(),
        body: 0,
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The first frame, if it is there as a whole: its head and its payload.
fn first_frame(read: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = read.split_at_checked(9)?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    Some((head, rest.get(..length as usize)?))
}

/// A request in HPACK, as browsers do it: what repeats itself is put into the table by the first
/// request, and is a byte from then on; the path and the client's address are new every time.
fn header_block(first: bool, random: &mut fastrand::Rng) -> Vec<u8> {
    let text = |block: &mut Vec<u8>, text: &str| {
        // Without Huffman coding. All are shorter than 127 bytes.
        block.push(text.len() as u8);
        block.extend_from_slice(text.as_bytes());
    };
    // :method: GET, :scheme: https
    let mut block = vec![0x82, 0x87];
    // :path, not to be remembered
    block.push(0x04);
    text(&mut block, &format!("/v1/items/{}", random.u16(..)));
    if first {
        for (name, value) in [(0x41, HOST), (0x7A, "load"), (0x53, "*/*")] {
            block.push(name);
            text(&mut block, value);
        }
    } else {
        block.extend_from_slice(&[0xC0, 0xBF, 0xBE]);
    }
    let from = std::net::Ipv4Addr::from_bits(random.u32(0x0100_0000..0xE000_0000));
    block.push(0x00);
    text(&mut block, "x-forwarded-for");
    text(&mut block, &from.to_string());
    block
}
