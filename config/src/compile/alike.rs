//! What is the same in the document is the same in the plan: made once, and kept once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decode::collections::Shared;

/// The parts of a plan that were made so far, by the parts of the document that they were made of.
pub(super) struct Alike<P>(HashMap<usize, Arc<P>>);

impl<P> Default for Alike<P> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<P> Alike<P> {
    /// The part made of this one. The document must not change in between.
    pub(super) fn of<D>(&mut self, written: &Shared<D>, make: impl FnOnce(&D) -> P) -> Arc<P> {
        if written.is_alone() {
            return Arc::new(make(written));
        }
        let made = self.0.entry(written.address());
        made.or_insert_with(|| Arc::new(make(written))).clone()
    }
}
