//! What is to be written to a socket: small things put together, and a large one behind them that is
//! not copied.

use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use crate::http::buffer_pool;
use crate::http::http1::write;

/// What is written in pieces up to this size is put together.
const SMALL: usize = 16 << 10;

const LINE_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n";
const LAST_CHUNK_AND_END: &[u8] = b"0\r\n\r\n";
const LINE_END_AND_LAST_CHUNK_AND_END: &[u8] = b"\r\n0\r\n\r\n";

/// What is to be written, in order.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    small: BytesMut,
    large: Bytes,
    /// What stands behind the large one.
    tail: Bytes,
}

impl WriteBuffer {
    /// Whether there is nothing to be written.
    pub(crate) fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty() && self.tail.is_empty()
    }

    /// Whether it takes more.
    pub(crate) fn has_room(&self) -> bool {
        self.large.is_empty() && self.tail.is_empty() && self.small.len() < SMALL
    }

    /// Where small things are put. Only while there is room.
    pub(crate) fn small(&mut self) -> &mut BytesMut {
        if self.small.capacity() == 0 {
            self.small = buffer_pool::take();
        }
        &mut self.small
    }

    /// Takes some bytes, as they are. Only while there is room.
    pub(crate) fn put(&mut self, part: Bytes) {
        if part.len() < SMALL {
            self.small().extend_from_slice(&part);
        } else {
            self.large = part;
        }
    }

    /// Takes some bytes as a chunk (RFC 9112, section 7.1). Only while there is room.
    pub(crate) fn put_chunk(&mut self, part: Bytes) {
        let mut digits = [0; 16];
        let small = self.small();
        small.extend_from_slice(hexadecimal(part.len(), &mut digits));
        small.extend_from_slice(LINE_END);
        self.put(part);
        if self.large.is_empty() {
            self.small.extend_from_slice(LINE_END);
        } else {
            self.tail = Bytes::from_static(LINE_END);
        }
    }

    /// Ends a body of chunks, with trailers if there are any; `lower`: their names in small letters.
    /// That has always room.
    pub(crate) fn end_chunks(&mut self, trailers: Option<&HeaderMap>, lower: bool) {
        if self.large.is_empty() && self.tail.is_empty() {
            let small = self.small();
            small.extend_from_slice(LAST_CHUNK);
            match trailers {
                Some(trailers) => write::trailers(small, trailers, lower),
                None => write::end(small),
            }
            return;
        }
        self.tail = match (trailers, &*self.tail) {
            (None, b"") => Bytes::from_static(LAST_CHUNK_AND_END),
            (None, LINE_END) => Bytes::from_static(LINE_END_AND_LAST_CHUNK_AND_END),
            // Of the line end behind a chunk there may be half.
            (_, before) => {
                let mut tail = BytesMut::from(before);
                tail.extend_from_slice(LAST_CHUNK);
                match trailers {
                    Some(trailers) => write::trailers(&mut tail, trailers, lower),
                    None => write::end(&mut tail),
                }
                tail.freeze()
            }
        };
    }

    /// Forgets all of it.
    pub(crate) fn clear(&mut self) {
        self.small.clear();
        self.large.clear();
        self.tail.clear();
    }

    /// Writes once, as much as is taken: how much that was.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<usize>> {
        let written = if self.large.is_empty() && self.tail.is_empty() {
            to.as_mut().poll_write(cx, &self.small)
        } else {
            let slices = [
                IoSlice::new(&self.small),
                IoSlice::new(&self.large),
                IoSlice::new(&self.tail),
            ];
            to.as_mut().poll_write_vectored(cx, &slices)
        };
        let count = ready!(written)?;
        let small = count.min(self.small.len());
        let large = (count - small).min(self.large.len());
        if small == self.small.len() {
            buffer_pool::put(std::mem::take(&mut self.small));
        } else {
            self.small.advance(small);
        }
        self.large.advance(large);
        self.tail.advance(count - small - large);
        Poll::Ready(Ok(count))
    }
}

/// A number in hexadecimal digits.
fn hexadecimal(number: usize, digits: &mut [u8; 16]) -> &[u8] {
    let mut rest = number;
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a time.
    struct Narrow(Vec<u8>, usize);

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let take = self.1.min(bytes.len());
            self.0.extend_from_slice(&bytes[..take]);
            Poll::Ready(Ok(take))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn drain(outgoing: &mut WriteBuffer, at_once: usize) -> Vec<u8> {
        let mut to = Narrow(Vec::new(), at_once);
        let mut nobody = Context::from_waker(std::task::Waker::noop());
        while !outgoing.is_empty() {
            assert!(
                outgoing
                    .poll_write(&mut nobody, Pin::new(&mut to))
                    .is_ready()
            );
        }
        to.0
    }

    #[test]
    fn what_is_put_comes_out_in_order_however_it_is_taken() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("1"));
        for size in [1, 9, 255, SMALL - 1, SMALL, 3 * SMALL] {
            for at_once in [1, 7, 1 << 20] {
                let mut outgoing = WriteBuffer::default();
                outgoing.small().extend_from_slice(b"head ");
                let part = vec![b'x'; size];
                outgoing.put_chunk(part.clone().into());
                assert_eq!(outgoing.has_room(), size < SMALL / 2);
                outgoing.end_chunks(None, false);
                let mut whole = format!("head {size:x}\r\n").into_bytes();
                whole.extend_from_slice(&part);
                whole.extend_from_slice(b"\r\n0\r\n\r\n");
                assert!(drain(&mut outgoing, at_once) == whole, "{size} {at_once}");
                assert!(outgoing.has_room());
                outgoing.end_chunks(None, false);
                assert_eq!(drain(&mut outgoing, at_once), b"0\r\n\r\n");
                // The same with trailers.
                outgoing.put_chunk(part.clone().into());
                outgoing.end_chunks(Some(&trailers), false);
                let mut whole = format!("{size:x}\r\n").into_bytes();
                whole.extend_from_slice(&part);
                whole.extend_from_slice(b"\r\n0\r\nX-Sum: 1\r\n\r\n");
                assert!(drain(&mut outgoing, at_once) == whole, "{size} {at_once}");
            }
        }
        // However much of a chunk was taken when it turns out to have been the last.
        let head = format!("{SMALL:x}\r\n").len();
        for taken in (0..head + 3).chain(head + SMALL - 2..=head + SMALL + 2) {
            let mut outgoing = WriteBuffer::default();
            outgoing.put_chunk(vec![b'x'; SMALL].into());
            let mut to = Narrow(Vec::new(), taken);
            let mut nobody = Context::from_waker(std::task::Waker::noop());
            if taken > 0 {
                let took = outgoing.poll_write(&mut nobody, Pin::new(&mut to));
                assert!(matches!(took, Poll::Ready(Ok(_))));
            }
            outgoing.end_chunks(None, false);
            let whole = [to.0, drain(&mut outgoing, 1 << 20)].concat();
            let body = vec![b'x'; SMALL];
            let begin = format!("{SMALL:x}\r\n");
            let expected = [begin.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
            assert!(whole == expected, "{taken}");
        }
        let mut outgoing = WriteBuffer::default();
        outgoing.put(vec![b'x'; SMALL].into());
        outgoing.end_chunks(None, false);
        assert!(drain(&mut outgoing, 100).ends_with(b"x0\r\n\r\n"));
        outgoing.end_chunks(Some(&trailers), true);
        assert_eq!(drain(&mut outgoing, 100), b"0\r\nx-sum: 1\r\n\r\n");
    }
}
