//! What is read of requests whose endpoint takes no more of them.
//!
//! A client that goes away in the middle of its upload says so behind what it has sent: nobody hears
//! of it who does not read that. So an upload that does not go on is read a bit further, in the hope
//! of an end; as far as there is memory for such uploads, one and all.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The most of one request: more than the systems on both sides hold of it, as they are set up.
const MOST: usize = 16 << 20;

/// The most of all requests. Those beyond are not read any further.
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
    fn one_request_has_not_all_of_it_and_all_of_them_no_more_than_there_is() {
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
