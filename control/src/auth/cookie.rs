//! Cookies, as they stand in requests (RFC 6265, section 4.2).

use http::header;
use portolan_config::fields::Fields;

/// The most cookies of one name that are looked at.
pub const MOST_COOKIES: usize = 8;

/// The values of a request's cookies of this name, in the order in which they came, which says nothing.
pub fn cookies<'a>(headers: &'a Fields, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(header::COOKIE);
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| is_cookie(pair, name))
}

/// The value of a cookie, as it stands between semicolons, if it has this name.
pub fn is_cookie<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let pair = pair.trim_ascii();
    let behind = pair.strip_prefix(name.as_bytes())?;
    behind.strip_prefix(b"=")
}

/// The value by which clients are told apart that nobody can verify. Of several cookies of this name it
/// is the one that sorts first: the same in whatever order they come.
pub fn cookie<'a>(headers: &'a Fields, name: &'a str) -> Option<&'a [u8]> {
    cookies(headers, name).min()
}
