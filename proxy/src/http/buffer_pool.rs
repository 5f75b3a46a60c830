//! Buffers that nobody uses at the moment.
//!
//! A connection that waits holds none: it takes one when there is something to read or to write, and
//! puts it back. Who puts one back last is taken from first, so the few that are in use stay in the
//! core's caches, however many connections there are. Each thread has its own.

use std::cell::RefCell;

use bytes::BytesMut;

/// How large they are: a head and a small body.
pub(crate) const SIZE: usize = 8 << 10;

/// What has grown larger than this is not kept.
const LARGEST: usize = 32 << 10;

/// The most of one thread.
const MOST: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(crate) fn take() -> BytesMut {
    let spare = SPARE.try_with(|spare| spare.borrow_mut().pop());
    match spare {
        Ok(Some(buffer)) => buffer,
        _ => BytesMut::with_capacity(SIZE),
    }
}

/// Puts a buffer back, whatever stands in it. One that somebody still reads from is not kept.
pub(crate) fn put(mut buffer: BytesMut) {
    buffer.clear();
    if !buffer.try_reclaim(SIZE) || buffer.capacity() > LARGEST {
        return;
    }
    // A thread that ends keeps nothing.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MOST {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_once_nobody_reads_from_them() {
        let mut first = take();
        let place = first.as_ptr();
        first.extend_from_slice(b"head and body");
        let head = first.split_to(4).freeze();
        put(first);
        assert_ne!(take().as_ptr(), place, "somebody reads from it");
        assert_eq!(head, "head");

        let mut second = take();
        let place = second.as_ptr();
        second.extend_from_slice(b"head and body");
        drop(second.split_to(4).freeze());
        put(second);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(again.capacity() >= SIZE);

        put(BytesMut::with_capacity(2 * LARGEST));
        put(BytesMut::new());
        SPARE.with_borrow(|spare| assert!(spare.is_empty()));
    }
}
