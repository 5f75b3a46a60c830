//! Paths in one form, so that the path that is matched is the path that is forwarded.
//!
//! Two spellings of one path must not take two routes, and what stands behind us must not be able to
//! read another path than we did. What can be written in one way without changing its meaning is
//! (RFC 3986, section 6.2.2); what could mean two things is refused.

use std::borrow::Cow;

use crate::document::{DotSegments, EncodedSlash, Paths, RepeatedSlashes};

/// What is made of a request's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathsPlan {
    /// Segments `.` and `..`.
    pub dot_segments: DotSegments,
    /// Slashes that follow upon a slash.
    pub repeated_slashes: RepeatedSlashes,
    /// `%2F`, and `%5C` with it.
    pub encoded_slash: EncodedSlash,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// It does not begin with a slash.
    #[error("does not begin with `/`")]
    Relative,
    /// A character that no path may have.
    #[error("has a character that must be escaped")]
    Character,
    /// `%` without two hex digits behind it.
    #[error("has a `%` that escapes nothing")]
    Escape,
    /// `%00`.
    #[error("has `%00`")]
    Nul,
    /// `%2F` or `%5C` where neither may be.
    #[error("has an escaped slash")]
    EncodedSlash,
    /// A segment `.` or `..`, or one that somebody might take for it.
    #[error("has a segment `.` or `..`")]
    DotSegment,
    /// More `..` than segments before them.
    #[error("leads out of the root")]
    AboveRoot,
    /// A slash upon a slash.
    #[error("has repeated slashes")]
    RepeatedSlash,
}

impl PathsPlan {
    /// What a document says about paths.
    pub(crate) fn of(paths: &Paths) -> Self {
        Self {
            dot_segments: paths.dot_segments.value,
            repeated_slashes: paths.repeated_slashes.value,
            encoded_slash: paths.encoded_slash.value,
        }
    }

    /// The path in its one form; borrowed if it has it already, as almost all have. Without the
    /// query.
    ///
    /// # Errors
    /// Why it must be refused.
    pub fn normal<'a>(&self, path: &'a str) -> Result<Cow<'a, str>, PathFault> {
        if !path.starts_with('/') {
            return Err(PathFault::Relative);
        }
        if is_plain(path.as_bytes()) {
            return Ok(Cow::Borrowed(path));
        }
        let unescaped = self.unescape(path)?;
        let normal = self.resolve(&unescaped)?;
        Ok(if normal == path {
            Cow::Borrowed(path)
        } else {
            Cow::Owned(normal)
        })
    }

    /// Escapes that need not be are not, and the others are written in one way.
    fn unescape(&self, path: &str) -> Result<String, PathFault> {
        let mut bytes = path.bytes();
        let mut out = String::with_capacity(path.len());
        while let Some(byte) = bytes.next() {
            if byte != b'%' {
                if !is_path_character(byte) {
                    return Err(PathFault::Character);
                }
                out.push(char::from(byte));
                continue;
            }
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (Some(high), Some(low)) = (digit(), digit()) else {
                return Err(PathFault::Escape);
            };
            let byte = (high << 4 | low) as u8;
            match byte {
                0 => return Err(PathFault::Nul),
                b'/' | b'\\' if self.encoded_slash == EncodedSlash::Refuse => {
                    return Err(PathFault::EncodedSlash);
                }
                // Before segments are looked at: it separates them like any other.
                b'/' if self.encoded_slash == EncodedSlash::Decode => out.push('/'),
                byte if is_unreserved(byte) => out.push(char::from(byte)),
                byte => out.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(out)
    }

    /// Segments are resolved, merged or refused.
    fn resolve(&self, path: &str) -> Result<String, PathFault> {
        let mut segments: Vec<&str> = Vec::new();
        let mut rest = path[1..].split('/').peekable();
        // Whether the path ends with a slash.
        let mut folder = false;
        while let Some(segment) = rest.next() {
            let last = rest.peek().is_none();
            folder = last && segment.is_empty();
            if segment.is_empty() {
                match self.repeated_slashes {
                    // The one that ends the path is its only one.
                    _ if last => {}
                    RepeatedSlashes::Merge => {}
                    RepeatedSlashes::Keep => segments.push(segment),
                    RepeatedSlashes::Refuse => return Err(PathFault::RepeatedSlash),
                }
                continue;
            }
            if !is_dots(segment) {
                if may_be_dots(segment) {
                    return Err(PathFault::DotSegment);
                }
                segments.push(segment);
                continue;
            }
            if self.dot_segments == DotSegments::Refuse {
                return Err(PathFault::DotSegment);
            }
            if segment == ".." && segments.pop().is_none() {
                return Err(PathFault::AboveRoot);
            }
            folder = last;
        }
        let mut out = String::with_capacity(path.len());
        for segment in &segments {
            out.push('/');
            out.push_str(segment);
        }
        if folder || segments.is_empty() {
            out.push('/');
        }
        Ok(out)
    }
}

/// Whether there is nothing to do for a path: no escape, no empty segment, none that begins with a
/// dot, and only characters that may stand there.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|byte| {
        let odd = before == b'/' && matches!(byte, b'/' | b'.');
        before = *byte;
        !odd && *byte != b'%' && is_path_character(*byte)
    })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Characters of RFC 3986, section 3.3, and those that browsers send without escaping them.
fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
                | b'/'
                | b'%'
                | b'['
                | b']'
                | b'|'
                | b'^'
                | b'{'
                | b'}'
        )
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

/// Whether somebody may take a segment for `.` or `..`: some servers cut off what follows upon a
/// semicolon first, and some read escaped slashes as slashes.
fn may_be_dots(segment: &str) -> bool {
    let pieces = segment.split("%2F").flat_map(|piece| piece.split("%5C"));
    pieces
        .map(|piece| piece.split(';').next().unwrap_or_default())
        .any(is_dots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAFE: PathsPlan = PathsPlan {
        dot_segments: DotSegments::Resolve,
        repeated_slashes: RepeatedSlashes::Merge,
        encoded_slash: EncodedSlash::Refuse,
    };

    const KEEPING: PathsPlan = PathsPlan {
        repeated_slashes: RepeatedSlashes::Keep,
        encoded_slash: EncodedSlash::Keep,
        ..SAFE
    };

    const DECODING: PathsPlan = PathsPlan {
        encoded_slash: EncodedSlash::Decode,
        ..SAFE
    };

    const REFUSING: PathsPlan = PathsPlan {
        dot_segments: DotSegments::Refuse,
        repeated_slashes: RepeatedSlashes::Refuse,
        encoded_slash: EncodedSlash::Refuse,
    };

    #[test]
    fn two_spellings_of_one_path_become_one() {
        for (written, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%2e./b", "/b"),
            ("//a///b//", "/a/b/"),
            ("/%61dmin", "/admin"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a%20b%3f", "/a%20b%3F"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a;x=1/b", "/a;x=1/b"),
            ("/a|b^{c}[d]", "/a|b^{c}[d]"),
        ] {
            assert_eq!(SAFE.normal(written).as_deref(), Ok(normal), "{written}");
        }
        assert!(matches!(SAFE.normal("/a/b"), Ok(Cow::Borrowed(_))));
        assert!(matches!(SAFE.normal("/.well/x"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for (written, fault) in [
            ("", PathFault::Relative),
            ("*", PathFault::Relative),
            ("/a\\b", PathFault::Character),
            ("/a b", PathFault::Character),
            ("/a#b", PathFault::Character),
            ("/a\u{e9}", PathFault::Character),
            ("/<x>", PathFault::Character),
            ("/a%", PathFault::Escape),
            ("/a%2", PathFault::Escape),
            ("/a%zz", PathFault::Escape),
            ("/%u0041", PathFault::Escape),
            ("/a%00b", PathFault::Nul),
            ("/a%2fb", PathFault::EncodedSlash),
            ("/a%5Cb", PathFault::EncodedSlash),
            ("/..", PathFault::AboveRoot),
            ("/a/../../b", PathFault::AboveRoot),
            ("/a/..;x/b", PathFault::DotSegment),
            ("/a/.;/b", PathFault::DotSegment),
        ] {
            assert_eq!(SAFE.normal(written), Err(fault), "{written}");
        }
    }

    #[test]
    fn users_decide_where_they_must() {
        assert_eq!(KEEPING.normal("/a//b").as_deref(), Ok("/a//b"));
        assert_eq!(KEEPING.normal("/a//").as_deref(), Ok("/a//"));
        assert_eq!(KEEPING.normal("/a%2fb").as_deref(), Ok("/a%2Fb"));
        for hidden in ["/a%2f..%2fb", "/..%5cb", "/a%2f..;x", "/%2e%2e%2f"] {
            assert_eq!(
                KEEPING.normal(hidden),
                Err(PathFault::DotSegment),
                "{hidden}"
            );
        }
        for (written, decoded) in [
            ("/a%2fb", Ok("/a/b")),
            ("/a%2F%2Fb%2f", Ok("/a/b/")),
            ("/a%2f..%2fb", Ok("/b")),
            ("/%2e%2e%2fa", Err(PathFault::AboveRoot)),
            // Once: what is escaped twice is data.
            ("/a%252Fb", Ok("/a%252Fb")),
            ("/a%5cb", Ok("/a%5Cb")),
            ("/..%5cb", Err(PathFault::DotSegment)),
        ] {
            let normal = DECODING.normal(written);
            assert_eq!(normal.as_deref(), decoded.as_ref().copied(), "{written}");
        }
        assert_eq!(REFUSING.normal("/a//b"), Err(PathFault::RepeatedSlash));
        assert_eq!(REFUSING.normal("/a/./b"), Err(PathFault::DotSegment));
        assert_eq!(REFUSING.normal("/a/").as_deref(), Ok("/a/"));
    }

    proptest! {
        #[test]
        fn what_is_normal_stays_as_it_is(path in "/[a-c./%;25efEF\\\\0 ]{0,24}") {
            for plan in [SAFE, KEEPING, REFUSING, DECODING] {
                if let Ok(normal) = plan.normal(&path) {
                    let again = plan.normal(&normal);
                    prop_assert_eq!(again.as_deref(), Ok(&*normal));
                    prop_assert!(normal.starts_with('/'));
                    let segments = normal.split('/').filter(|segment| is_dots(segment)).count();
                    prop_assert_eq!(segments, 0);
                    let repeated = normal.contains("//");
                    prop_assert!(!repeated || plan.repeated_slashes == RepeatedSlashes::Keep);
                }
            }
        }
    }
}
