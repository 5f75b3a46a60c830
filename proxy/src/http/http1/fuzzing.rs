//! What must hold for whatever clients and endpoints send. See [`crate::fuzzing`].

use std::time::Duration;

use bytes::BytesMut;
use http::header;
use portolan_config::plan::LimitsPlan;
use portolan_control::refusal::Refusal;

use super::answer::{Asked, take};
use super::body::{Body, Step};
use super::{Bad, request};
use crate::fuzzing::{STRIDES, ends};

/// Heads of an answer that are read: more interim ones would be refused.
const MOST_HEADS: usize = 16;

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

/// What was found of a request: the framing of its body, and what stands behind its head.
type Found = Result<Option<(Body, Vec<u8>)>, Refusal>;

/// The bytes of an HTTP/1.1 client: the same verdict however they are cut, and no request that a
/// plain reading of its lines would take for another one.
pub fn request(bytes: &[u8]) {
    let whole = head_of(bytes, bytes.len().max(1));
    for stride in STRIDES {
        let found = head_of(bytes, stride);
        match (&whole, &found) {
            // What else is wrong may be seen first.
            (Err(_), Err(_)) => {}
            (whole, found) => assert_eq!(whole, found, "in pieces of {stride}"),
        }
    }
    let Ok(Some((body, behind))) = whole else {
        return;
    };
    let head = &bytes[..bytes.len() - behind.len()];
    assert_eq!(plain_framing(head), body);
    let end = end_of(&body, &behind, behind.len().max(1));
    for stride in STRIDES {
        assert_eq!(end_of(&body, &behind, stride), end, "in pieces of {stride}");
    }
}

fn head_of(bytes: &[u8], stride: usize) -> Found {
    let (mut buffer, mut seen, mut from) = (BytesMut::new(), 0, 0);
    for end in ends(bytes.len(), stride) {
        buffer.extend_from_slice(&bytes[from..end]);
        from = end;
        if let Some(head) = request::take(&mut buffer, &mut seen, &LIMITS)? {
            buffer.extend_from_slice(&bytes[end..]);
            return Ok(Some((head.body, buffer.to_vec())));
        }
    }
    Ok(None)
}

/// How the body of a head is framed, read as plainly as can be, and checked on the way.
fn plain_framing(head: &[u8]) -> Body {
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
    let (mut hosts, mut framed, mut body) = (0, 0, Body::Done);
    for line in lines {
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
        let (name, value) = line.split_once(':').expect("a header has a colon");
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()));
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "host" => hosts += 1,
            "content-length" => {
                framed += 1;
                body = Body::Length(value.parse().expect("a length is a number"));
            }
            "transfer-encoding" => {
                framed += 1;
                assert!(value.eq_ignore_ascii_case("chunked"), "{value:?}");
                assert!(line.len() < text.len() && words[2] == "HTTP/1.1");
                body = Body::chunked_request();
            }
            _ => {}
        }
    }
    assert!(hosts <= 1, "two hosts");
    assert!(framed <= 1, "two framings");
    body
}

/// How many bytes belong to a body, and whether it is over by then; nothing if it is malformed.
fn end_of(body: &Body, bytes: &[u8], stride: usize) -> Option<(usize, bool)> {
    let mut body = body.clone();
    let mut read = Read::default();
    let (mut buffer, mut from) = (BytesMut::new(), 0);
    for end in ends(bytes.len(), stride) {
        buffer.extend_from_slice(&bytes[from..end]);
        from = end;
        feed(&mut body, &mut buffer, false, &mut read).ok()?;
    }
    let behind = if read.over { buffer.len() } else { 0 };
    Some((bytes.len() - behind, read.over))
}

/// What was read of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Read {
    /// Status and headers of every head.
    heads: Vec<String>,
    body: Vec<u8>,
    trailers: Option<String>,
    /// The answer is over.
    over: bool,
    /// Bytes that do not belong to it.
    behind: Vec<u8>,
    keep: bool,
}

/// The bytes of an endpoint, as the answer to any kind of request: the same however they are cut, and
/// nothing of how they were framed in what is passed on.
pub fn answer(bytes: &[u8]) {
    for (head, upgrade) in [(false, false), (true, false), (false, true)] {
        let asked = Asked { head, upgrade };
        let whole = read(bytes, asked, bytes.len().max(1));
        for stride in STRIDES {
            let cut = read(bytes, asked, stride);
            assert_eq!(cut.is_err(), whole.is_err(), "in pieces of {stride}");
            if let (Ok(cut), Ok(whole)) = (cut, &whole) {
                assert_eq!(&cut, whole, "in pieces of {stride}");
            }
        }
        if let Ok(whole) = whole {
            assert!(!head || whole.body.is_empty(), "a body for HEAD");
            assert!(!(whole.keep && !whole.behind.is_empty() && !whole.over));
        }
    }
}

/// Reads heads until the answer's own, then its body, from a connection that brings pieces of this
/// size and then ends.
fn read(bytes: &[u8], asked: Asked, stride: usize) -> Result<Read, Bad> {
    let mut read = Read::default();
    let mut buffer = BytesMut::new();
    let (mut seen, mut from) = (0, 0);
    let mut body: Option<Body> = None;
    let last = bytes.len().div_ceil(stride);
    for (piece, end) in ends(bytes.len(), stride).enumerate() {
        buffer.extend_from_slice(&bytes[from..end]);
        from = end;
        let closed = piece + 1 == last;
        while body.is_none() && !buffer.is_empty() {
            let Some(head) = take(&mut buffer, &mut seen, asked)? else {
                break;
            };
            let status = head.response.status.as_u16();
            let headers = &head.response.headers;
            assert!(!headers.contains(header::TRANSFER_ENCODING));
            assert!(headers.get_all(header::CONTENT_LENGTH).count() <= 1);
            assert!(
                status != 101 || asked.upgrade,
                "an upgrade nobody asked for"
            );
            read.heads.push(format!("{status} {headers:?}"));
            if (100..200).contains(&status) && status != 101 {
                assert!(head.body.is_done(), "a body of an interim answer");
                if read.heads.len() > MOST_HEADS {
                    return Err(Bad::Head("interim answers without end"));
                }
                continue;
            }
            read.keep = head.keep;
            body = Some(head.body);
        }
        if let Some(body) = &mut body {
            feed(body, &mut buffer, closed, &mut read)?;
        } else if closed {
            return Err(Bad::CutShort);
        }
    }
    if read.over {
        read.behind = buffer.to_vec();
    }
    Ok(read)
}

/// Takes what there is of a body.
fn feed(body: &mut Body, buffer: &mut BytesMut, closed: bool, read: &mut Read) -> Result<(), Bad> {
    while !read.over {
        match body.take(buffer, closed)? {
            Step::Data(data) => {
                assert!(!data.is_empty(), "nothing is not a part");
                read.body.extend_from_slice(&data);
            }
            Step::More => break,
            Step::End(trailers) => {
                read.trailers = trailers.map(|trailers| format!("{trailers:?}"));
                read.over = true;
            }
        }
    }
    Ok(())
}

/// A chunked body, which clients and endpoints send alike: what is read is what a plain reading finds,
/// and what passes for a request's is read as an answer's, too.
pub fn chunks(bytes: &[u8]) {
    let of = |mut body: Body| {
        let mut read = Read::default();
        let mut buffer = BytesMut::from(bytes);
        let over = feed(&mut body, &mut buffer, true, &mut read).is_ok();
        over.then(|| (bytes.len() - buffer.len(), read))
    };
    let (of_client, of_endpoint) = (of(Body::chunked_request()), of(Body::chunked()));
    if let Some(of_client) = &of_client {
        assert_eq!(Some(of_client), of_endpoint.as_ref(), "two ends");
    }
    if let Some((_, read)) = of_endpoint {
        assert_eq!(Some(read.body), plain(bytes));
    }
    let end = end_of(&Body::chunked_request(), bytes, bytes.len().max(1));
    for stride in STRIDES {
        let cut = end_of(&Body::chunked_request(), bytes, stride);
        assert_eq!(cut, end, "in pieces of {stride}");
    }
}

/// The bytes that chunks stand for, read as plainly as can be.
fn plain(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
        let digits = bytes[..line].split(|byte| *byte == b';').next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        bytes = &bytes[line + 2..];
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(bytes.get(..size)?);
        bytes = bytes[size..].strip_prefix(b"\r\n")?;
    }
}
