//! Chance, from the generator of the thread at hand.

/// Chance from this thread's own generator.
pub(crate) fn fastrand_scope<T>(with: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
    with(&mut fastrand::Rng::with_seed(fastrand::u64(..)))
}
