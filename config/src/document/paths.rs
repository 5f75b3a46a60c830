//! What is made of a request's path before anybody looks at it.

use crate::decode::document;
use crate::leaf::keywords;
use crate::source::At;

document! {
    /// What is made of a request's path before it is matched, so that the path that is matched is
    /// the path that is forwarded. Characters that need no escaping are unescaped and the hex digits
    /// of the others are written in upper case, which changes no meaning. Whatever no setting
    /// allows is answered with 400: `%00`, a backslash, characters that no URL may have, escapes
    /// that are none, and segments like `..;x`. The query is left as it is.
    pub struct Paths as "`paths`" {
        /// Segments `.` and `..`, also when they are escaped. One that leads out of the root is
        /// refused either way.
        pub dot_segments: At<DotSegments> = "resolve",
        /// Slashes that follow upon a slash.
        pub repeated_slashes: At<RepeatedSlashes> = "merge",
        /// Escaped slashes and backslashes: `%2F`, `%5C`. What stands behind Portolan may read
        /// them as slashes, and see another path than routes do.
        pub encoded_slashes: At<EncodedSlashes> = "refuse",
    }
}

keywords! {
    /// What is made of segments `.` and `..`.
    pub enum DotSegments {
        /// They are resolved: `/a/../b` is `/b`.
        Resolve = "resolve",
        /// 400.
        Refuse = "refuse",
    }
}

keywords! {
    /// What is made of slashes that follow upon a slash.
    pub enum RepeatedSlashes {
        /// `/a//b` is `/a/b`.
        Merge = "merge",
        /// They stay: `/a//b` has an empty segment, as keys of object stores may.
        Keep = "keep",
        /// 400.
        Refuse = "refuse",
    }
}

keywords! {
    /// What is made of escaped slashes and backslashes.
    pub enum EncodedSlashes {
        /// 400.
        Refuse = "refuse",
        /// They stay as they are, part of their segment, unless a segment `.` or `..` would come of
        /// reading them as slashes: 400.
        Keep = "keep",
    }
}
