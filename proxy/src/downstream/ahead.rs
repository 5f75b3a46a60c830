//! What is read of stalled uploads: requests whose endpoint takes no more of them for now.
//!
//! A client that goes away in the middle of its upload says so behind what it has sent, and that can only
//! be found out by reading it. So a stalled upload is read a bit further, up to a limit for each and one
//! for all of them together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes of one request: more than the systems of client and proxy normally hold of it.
const MOST: usize = 16 << 20;

/// The most bytes of all requests together. Beyond that none is read any further.
const MOST_OF_ALL: usize = 64 << 20;

/// Bytes of all requests.
static ALL: AtomicUsize = AtomicUsize::new(0);

/// Bytes of a request that were read ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead(usize);

impl Ahead {
    /// Whether more may be read.
    pub(super) fn has_room(&self) -> bool {
        self.0 < MOST && ALL.load(Ordering::Relaxed) < MOST_OF_ALL
    }

    /// So much more was read.
    pub(super) fn read(&mut self, bytes: usize) {
        self.0 += bytes;
        ALL.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The endpoint has taken it.
    pub(super) fn taken(&mut self) {
        if self.0 > 0 {
            ALL.fetch_sub(self.0, Ordering::Relaxed);
            self.0 = 0;
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.taken();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_limit_for_each_request_and_one_for_all() {
        let mut all: Vec<Ahead> = Vec::new();
        while all.len() < MOST_OF_ALL / MOST {
            let mut one = Ahead::default();
            assert!(one.has_room());
            one.read(MOST);
            assert!(!one.has_room());
            all.push(one);
        }
        let mut another = Ahead::default();
        assert!(!another.has_room());
        all[0].taken();
        assert!(another.has_room() && all[0].has_room());
        another.read(MOST);
        assert!(!all[0].has_room());
        drop(all);
        drop(another);
        assert_eq!(ALL.load(Ordering::Relaxed), 0);
    }
}
