//! Lines of a head, as they are written.

use bytes::BytesMut;
use http::HeaderName;

use crate::head::{RequestHeader, ResponseHeader};

/// The head of a request, as far as its last header. Names are written as they are in the standards,
/// `Content-Type`: some servers know no others.
pub(crate) fn request(out: &mut BytesMut, head: &RequestHeader) {
    let (method, target) = (head.method.as_str().as_bytes(), head.target());
    let fields = head.headers.iter();
    let fields: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    out.reserve(method.len() + target.len() + fields + 16);
    out.extend_from_slice(method);
    out.extend_from_slice(b" ");
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &head.headers {
        let at = out.len();
        field(out, name, value.as_bytes());
        let mut begins = true;
        for byte in &mut out[at..at + name.as_str().len()] {
            if begins {
                byte.make_ascii_uppercase();
            }
            begins = *byte == b'-';
        }
    }
}

/// The head of an answer, as far as its last header.
pub(crate) fn answer(out: &mut BytesMut, head: &ResponseHeader) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(head.reason().as_bytes());
    out.extend_from_slice(END);
    for (name, value) in &head.headers {
        field(out, name, value.as_bytes());
    }
}

/// One header.
pub(crate) fn field(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(END);
}

/// Behind the last header.
pub(crate) fn end(out: &mut BytesMut) {
    out.extend_from_slice(END);
}

const END: &[u8] = b"\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_written_line_by_line() {
        let mut request = RequestHeader::build("PUT", b"/a?b=c", 4).unwrap();
        request.append_header("content-type", "text/plain").unwrap();
        request.append_header("x-a--b-", "x-y").unwrap();
        request.append_header("etag", "").unwrap();
        let mut out = BytesMut::new();
        super::request(&mut out, &request);
        end(&mut out);
        let text: &[u8] =
            b"PUT /a?b=c HTTP/1.1\r\nContent-Type: text/plain\r\nX-A--B-: x-y\r\nEtag: \r\n\r\n";
        assert_eq!(out, text);
        let mut head = ResponseHeader::build(404, 1).unwrap();
        head.append_header("x-a", "1").unwrap();
        out.clear();
        answer(&mut out, &head);
        assert_eq!(out, &b"HTTP/1.1 404 Not Found\r\nx-a: 1\r\n"[..]);
    }
}
