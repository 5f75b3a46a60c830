//! What is made of a request's path before anybody looks at it.

use crate::decode::document;
use crate::scalar::keywords;
use crate::source::At;

document! {
    /// What is made of a request's path before it is matched, so that the path that is matched is
    /// the path that is forwarded. Characters that need no escaping are unescaped and the hex digits
    /// of the others are written in upper case, which changes no meaning. Whatever no setting
    /// allows is answered with 400: `%00`, a backslash, characters that no URL may have, escapes
    /// that are none, and segments like `..;x`. The query is left as it is, with whatever browsers
    /// send there.
    pub struct Paths as "`paths`" {
        /// Segments `.` and `..`, also when they are escaped. One that leads out of the root is
        /// refused either way.
        pub dot_segments: At<DotSegments> = "resolve",
        /// Slashes that follow upon a slash.
        pub repeated_slashes: At<RepeatedSlashes> = "merge",
        /// Escaped slashes: `%2F`. Names with a slash in one segment are written like this
        /// (`/group%2Fproject`, `/@scope%2Fpackage`). What stands behind Portolan may read them as
        /// slashes, and see another path than routes do: choose `refuse` or `decode` where routes
        /// protect paths of such a server.
        pub encoded_slash: At<EncodedSlash> = "keep",
    }
    renamed { "encoded_slashes" => "encoded_slash" }
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
    /// What is made of escaped slashes.
    pub enum EncodedSlash {
        /// They stay as they are, part of their segment: `/a%2Fb` has one segment, for routes as for
        /// endpoints. So do escaped backslashes (`%5C`). Where a segment `.` or `..` would come of
        /// reading either as a slash: 400.
        Keep = "keep",
        /// 400, and so are escaped backslashes.
        Refuse = "refuse",
        /// They are slashes, for routes as for endpoints: `/a%2Fb` is `/a/b`. Escaped backslashes
        /// stay as they are.
        Decode = "decode",
    }
}
