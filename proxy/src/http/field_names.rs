//! Names of headers, as those read them that take one spelling for another.

use http::HeaderName;

/// Whether two names are the same, also for those who take `_` for `-`.
pub(crate) fn is_alike(one: &HeaderName, other: &HeaderName) -> bool {
    let bytes = |b: u8| if b == b'_' { b'-' } else { b };
    let one = one.as_str().bytes().map(bytes);
    one.eq(other.as_str().bytes().map(bytes))
}
