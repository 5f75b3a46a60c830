//! What must hold for whatever endpoints answer. See [`crate::fuzzing`].

use bytes::BytesMut;
use http::header;

use super::body::{Body, Step};
use super::head::{Asked, take};
use super::{Bad, MOST_INTERIM};
use crate::connection::fuzzing::end_of_chunks;
use crate::fuzzing::{STRIDES, ends};

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
            assert!(!headers.contains_key(header::TRANSFER_ENCODING));
            assert!(headers.get_all(header::CONTENT_LENGTH).iter().count() <= 1);
            assert!(
                status != 101 || asked.upgrade,
                "an upgrade nobody asked for"
            );
            read.heads.push(format!("{status} {headers:?}"));
            if (100..200).contains(&status) && status != 101 {
                assert!(head.body.is_done(), "a body of an interim answer");
                if read.heads.len() > MOST_INTERIM as usize {
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

/// A chunked body, which clients and endpoints send alike: whoever finds an end finds the same one, and
/// what is read is what a plain reading finds.
pub fn chunks(bytes: &[u8]) {
    let of_client = end_of_chunks(bytes);
    let mut read = Read::default();
    let mut buffer = BytesMut::from(bytes);
    let of_endpoint = feed(&mut Body::chunked(), &mut buffer, true, &mut read)
        .is_ok()
        .then(|| bytes.len() - buffer.len());
    if let (Some(of_client), Some(of_endpoint)) = (of_client, of_endpoint) {
        assert_eq!(of_client, of_endpoint, "two ends");
    }
    if of_endpoint.is_some() {
        assert_eq!(Some(read.body), plain(bytes));
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
