//! A service of one's own that says who may pass.

use http::HeaderName;

use crate::decode::document;
use crate::document::values::UrlPath;
use crate::names::Name;
use crate::source::At;
use crate::units::{ByteSize, Count, TimeSpan};

document! {
    /// An authorization service that is asked about every request. It gets a GET without a body, which
    /// says in `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For` what is asked for. With 2xx it
    /// lets the request pass. Any other answer of it below 500 is the client's: its status, its body,
    /// and what it says in `Location`, `Set-Cookie`, `WWW-Authenticate`, `Content-Type`,
    /// `Cache-Control` and `Retry-After`.
    pub struct ForwardAuth as "`forward_auth`" {
        /// The pool of the service: its endpoints are checked, balanced and connected to like any
        /// other's. One that cannot be reached is followed by another.
        pub to: At<Name>,
        /// The path that is asked for there.
        pub path: At<UrlPath> = "/",
        /// Which of the request's headers the service gets. By default all but those about the body.
        pub send_headers: Option<Vec<At<HeaderName>>>,
        /// Headers of the service's answer that endpoints get with the request. What clients send under
        /// these names is taken off, whatever the service says.
        pub copy_headers: Vec<At<HeaderName>>,
        /// How long the service may take, over all tries: at most 1m.
        pub timeout: At<TimeSpan> = "2s",
        /// Questions of this route that may be under way at the same time. Requests beyond get 503.
        pub at_once: At<Count> = "1024",
        /// How much of the body of an answer to a client is passed on: at most 1MiB.
        pub max_body: At<ByteSize> = "64KiB",
        /// Let requests pass when the service cannot be reached, does not answer in time or answers with
        /// 5xx. By default they get 503.
        pub fail_open: At<bool> = "false",
    }
}
