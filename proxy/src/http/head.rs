//! Heads of requests and answers, as they are between their reader and their writer.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, StatusCode, Version, header};
use pingora::{Error, ErrorType, OrErr as _, Result};
use portolan_config::fields::{AsFieldName, Fields};

/// The head of a request.
#[derive(Clone, Debug)]
pub(crate) struct RequestHeader {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: Fields,
    /// The target as it was written, where that is not the path and query of `uri`: in absolute form,
    /// or that of CONNECT (RFC 9112, sections 3.2.2 and 3.2.3), or one whose query has what the
    /// library for URIs does not take.
    written: Option<Bytes>,
    /// Its client takes trailers.
    trailers: bool,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub(crate) struct ResponseHeader {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: Fields,
    /// What stands behind the status, where that is not what everybody writes there.
    reason: Option<Box<str>>,
}

/// A target that the library for URIs takes, for one that it does not take because of what some
/// clients leave in queries as it is. To whoever reads it, it is the same.
fn escaped(target: &[u8]) -> Option<Bytes> {
    let query = memchr::memchr(b'?', target)?;
    let mut escaped = Vec::with_capacity(target.len() + 16);
    escaped.extend_from_slice(&target[..query]);
    for byte in &target[query..] {
        match byte {
            b'"' => escaped.extend_from_slice(b"%22"),
            b'<' => escaped.extend_from_slice(b"%3C"),
            b'>' => escaped.extend_from_slice(b"%3E"),
            byte => escaped.push(*byte),
        }
    }
    (escaped.len() > target.len()).then(|| escaped.into())
}

/// Whether a value begins and ends with itself: the blanks around it that HTTP/1.1 allows are not part
/// of it, and HTTP/2 allows none (RFC 9113, section 8.2.1).
pub(crate) fn is_whole(value: &HeaderValue) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let bytes = value.as_bytes();
    !blank(bytes.first()) && !blank(bytes.last())
}

/// Whether one of these lists has this member.
pub(crate) fn has_token<'a>(
    mut lists: impl Iterator<Item = &'a HeaderValue>,
    wanted: &[u8],
) -> bool {
    lists.any(|list| {
        let mut members = list.as_bytes().split(|byte| *byte == b',');
        members.any(|member| member.trim_ascii().eq_ignore_ascii_case(wanted))
    })
}

fn bad(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, what)
}

impl RequestHeader {
    /// A request with this target, and room for so many headers.
    ///
    /// # Errors
    /// When it is no method or no target.
    pub(crate) fn build(method: impl TryInto<Method>, target: &[u8], room: usize) -> Result<Self> {
        let method = method.try_into().map_err(|_| bad("no method"))?;
        let target = Bytes::copy_from_slice(target);
        Self::new(
            method,
            target,
            Version::HTTP_11,
            Fields::with_capacity(room),
        )
    }

    /// A request as it was read.
    ///
    /// # Errors
    /// When it is no target.
    pub(crate) fn new(
        method: Method,
        target: Bytes,
        version: Version,
        headers: Fields,
    ) -> Result<Self> {
        let mut request = Self {
            method,
            uri: Uri::default(),
            version,
            headers,
            written: None,
            trailers: false,
        };
        request.set_target(target)?;
        Ok(request)
    }

    /// The same request with other headers.
    pub(crate) fn with_headers(&self, headers: Fields) -> Self {
        Self {
            method: self.method.clone(),
            uri: self.uri.clone(),
            version: self.version,
            headers,
            written: self.written.clone(),
            trailers: self.trailers,
        }
    }

    /// What stands between method and version over HTTP/1.1.
    pub(crate) fn target(&self) -> &[u8] {
        match (&self.written, self.uri.path_and_query()) {
            (Some(written), _) => written,
            (None, Some(path)) => path.as_str().as_bytes(),
            (None, None) => b"/",
        }
    }

    /// Whether its client takes trailers behind the answer, as far as that was looked for.
    pub(crate) fn takes_trailers(&self) -> bool {
        self.trailers
    }

    /// Looks whether its client takes trailers behind the answer (RFC 9110, section 6.5.1). In HTTP/2 that
    /// goes without saying; but gRPC says it there as well.
    pub(crate) fn look_for_trailers(&mut self) {
        self.trailers = self.version != Version::HTTP_10
            && has_token(self.headers.get_all(&header::TE), b"trailers");
    }

    /// What stands behind the first question mark of the target, as it was written.
    pub(crate) fn query(&self) -> Option<&[u8]> {
        let target = self.target();
        memchr::memchr(b'?', target).map(|at| &target[at + 1..])
    }

    /// Changes the target.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn set_target(&mut self, target: Bytes) -> Result<()> {
        let plain = target.starts_with(b"/") || &*target == b"*";
        let (uri, as_written) = match Uri::from_maybe_shared(target.clone()) {
            Ok(uri) => (uri, true),
            Err(_) => {
                let escaped = escaped(&target).ok_or_else(|| bad("no target"))?;
                let uri = Uri::from_maybe_shared(escaped);
                (
                    uri.or_err(ErrorType::InvalidHTTPHeader, "no target")?,
                    false,
                )
            }
        };
        if plain {
            (self.uri, self.written) = (uri, (!as_written).then_some(target));
        } else {
            // Whose host it is, Host says; here only the path counts.
            let path = uri.into_parts().path_and_query;
            let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
            (self.uri, self.written) = (path.into(), Some(target));
        }
        Ok(())
    }

    /// Changes the path, and keeps the query as it was written, and whose host it is.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn set_path(&mut self, path: &str) -> Result<()> {
        let target = match self.query() {
            Some(query) => [path.as_bytes(), b"?", query].concat().into(),
            None => Bytes::copy_from_slice(path.as_bytes()),
        };
        if self.uri.authority().is_none() {
            return self.set_target(target);
        }
        // Over HTTP/2 the host stands in the URI.
        let path = PathAndQuery::from_maybe_shared(target);
        let mut parts = self.uri.clone().into_parts();
        parts.path_and_query = Some(path.or_err(ErrorType::InvalidHTTPHeader, "no path")?);
        let uri = Uri::from_parts(parts);
        self.set_uri(uri.or_err(ErrorType::InvalidHTTPHeader, "no target")?);
        Ok(())
    }

    pub(crate) fn set_uri(&mut self, uri: Uri) {
        (self.uri, self.written) = (uri, None);
    }

    /// For the library that writes HTTP/2.
    pub(crate) fn into_parts(self) -> http::request::Parts {
        let (mut parts, ()) = http::Request::new(()).into_parts();
        (parts.method, parts.uri, parts.version) = (self.method, self.uri, self.version);
        parts.headers = self.headers.into();
        parts
    }
}

impl From<http::request::Parts> for RequestHeader {
    fn from(parts: http::request::Parts) -> Self {
        Self {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            headers: parts.headers.into(),
            written: None,
            trailers: false,
        }
    }
}

impl ResponseHeader {
    /// An answer, and room for so many headers.
    ///
    /// # Errors
    /// When it is no status.
    pub(crate) fn build(status: impl TryInto<StatusCode>, room: usize) -> Result<Self> {
        let status = status.try_into().map_err(|_| bad("no status"))?;
        Ok(Self {
            status,
            version: Version::HTTP_11,
            headers: Fields::with_capacity(room),
            reason: None,
        })
    }

    /// An answer as it was read.
    pub(crate) fn new(status: StatusCode, version: Version, headers: Fields) -> Self {
        Self {
            status,
            version,
            headers,
            reason: None,
        }
    }

    /// What is written behind the status over HTTP/1.1.
    pub(crate) fn reason(&self) -> &str {
        match &self.reason {
            Some(reason) => reason,
            None => self.status.canonical_reason().unwrap_or_default(),
        }
    }

    /// What an endpoint wrote there.
    pub(crate) fn set_reason(&mut self, reason: &str) {
        self.reason = (self.status.canonical_reason() != Some(reason)).then(|| Box::from(reason));
    }

    /// For the library that writes HTTP/2.
    pub(crate) fn into_parts(self) -> http::response::Parts {
        let (mut parts, ()) = http::Response::new(()).into_parts();
        parts.status = self.status;
        parts.headers = self.headers.into();
        parts
    }
}

impl From<http::response::Parts> for ResponseHeader {
    fn from(parts: http::response::Parts) -> Self {
        Self {
            status: parts.status,
            version: parts.version,
            headers: parts.headers.into(),
            reason: None,
        }
    }
}

/// What requests and answers have alike: how their headers are changed.
macro_rules! changes_headers {
    ($( $head:ident ),*) => { $(
        impl $head {
            /// A header beside others of its name.
            ///
            /// # Errors
            /// When it is no name or no value.
            pub(crate) fn append_header(
                &mut self,
                name: impl TryInto<HeaderName>,
                value: impl TryInto<HeaderValue>,
            ) -> Result<()> {
                let (name, value) = field(name, value)?;
                self.headers.append(name, value);
                Ok(())
            }

            /// A header in place of others of its name.
            ///
            /// # Errors
            /// When it is no name or no value.
            pub(crate) fn insert_header(
                &mut self,
                name: impl TryInto<HeaderName>,
                value: impl TryInto<HeaderValue>,
            ) -> Result<()> {
                let (name, value) = field(name, value)?;
                self.headers.insert(name, value);
                Ok(())
            }

            /// Takes all headers of a name off.
            pub(crate) fn remove_header(&mut self, name: impl AsFieldName) {
                self.headers.remove(name);
            }
        }
    )* };
}

changes_headers!(RequestHeader, ResponseHeader);

fn field(
    name: impl TryInto<HeaderName>,
    value: impl TryInto<HeaderValue>,
) -> Result<(HeaderName, HeaderValue)> {
    match (name.try_into(), value.try_into()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(bad("a header that is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &'static str) -> Result<RequestHeader> {
        RequestHeader::build("GET", target.as_bytes(), 0)
    }

    #[test]
    fn targets_are_kept_as_they_were_written() {
        for (target, path) in [
            ("/", "/"),
            ("/a?b=c", "/a?b=c"),
            ("*", "*"),
            ("http://x.example/a?b", "/a?b"),
            ("http://x.example", "/"),
            ("x.example:443", "/"),
        ] {
            let mut request = request(target).unwrap();
            assert_eq!(request.target(), target.as_bytes());
            assert_eq!(request.uri.path_and_query().unwrap(), path);
            assert!(request.uri.authority().is_none());
            request.set_uri(Uri::from_static("/other"));
            assert_eq!(request.target(), b"/other");
        }
        for none in ["", "/a b", "?a", "/a\"b<", "/a<b?c", "/?a b", "/?\"\u{7f}"] {
            assert!(request(none).is_err(), "{none}");
        }
    }

    #[test]
    fn what_clients_leave_in_queries_is_kept_and_stands_escaped_in_the_uri() {
        for (target, path, query) in [
            (r#"/a?b="<c>"#, "/a?b=%22%3Cc%3E", r#"b="<c>"#),
            (r#"/a?`\{|}^'"#, r#"/a?`\{|}^'"#, r#"`\{|}^'"#),
            (r#"http://x/a?<?>"#, "/a?%3C?%3E", "<?>"),
        ] {
            let mut request = request(target).unwrap();
            assert_eq!(request.target(), target.as_bytes());
            assert_eq!(request.uri.path_and_query().unwrap(), path);
            assert_eq!(request.query(), Some(query.as_bytes()));
            request.set_path("/other").unwrap();
            assert_eq!(request.target(), format!("/other?{query}").as_bytes());
            assert_eq!(request.uri.path(), "/other");
        }
        let mut two = request("/a?b").unwrap();
        two.set_uri(Uri::from_static("https://x.example/a?b"));
        two.set_path("/c").unwrap();
        assert_eq!(two.uri, "https://x.example/c?b");
    }

    #[test]
    fn a_reason_is_kept_only_where_it_is_another_one() {
        let mut head = ResponseHeader::build(200, 0).unwrap();
        head.set_reason("OK");
        assert!(head.reason.is_none() && head.reason() == "OK");
        head.set_reason("Fine");
        assert_eq!(head.reason(), "Fine");
        assert!(ResponseHeader::build(99, 0).is_err());
    }
}
