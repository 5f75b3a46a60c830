//! What a request is known by, in logs and to endpoints.

use http::header::HeaderName;
use portolan_config::fields::Fields;

pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken over.
const LONGEST_ID: usize = 128;

/// A request's id: the one a trusted peer gave it, or a new one.
pub(crate) fn request_id(headers: &Fields, trusted: bool, random: &mut fastrand::Rng) -> String {
    if trusted
        && let Some(given) = headers
            .get(&X_REQUEST_ID)
            .and_then(|value| value.to_str().ok())
        && (1..=LONGEST_ID).contains(&given.len())
        && given.bytes().all(|b| b.is_ascii_graphic())
    {
        return given.to_owned();
    }
    let digits = [random.u64(..), random.u64(..)].map(hexadecimal);
    String::from_utf8_lossy(digits.as_flattened()).into_owned()
}

/// Sixteen digits, without the machinery of formatting: every request gets a few of them.
pub(crate) fn hexadecimal(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 16];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    digits
}
