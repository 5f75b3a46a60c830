//! Lines of a head, as they are written.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName};
use portolan_config::fields::{Fields, write_as_usual};

use crate::http::head::{RequestHeader, ResponseHeader};

/// The head of a request, as far as its last header.
pub(crate) fn request(out: &mut BytesMut, head: &RequestHeader) {
    let (method, target) = (head.method.as_str().as_bytes(), head.target());
    out.reserve(method.len() + target.len() + 12);
    out.extend_from_slice(method);
    out.extend_from_slice(b" ");
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    fields(out, &head.headers, false);
}

/// The head of an answer, as far as its last header. `lower`: names in small letters.
pub(crate) fn answer(out: &mut BytesMut, head: &ResponseHeader, lower: bool) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(head.reason().as_bytes());
    out.extend_from_slice(END);
    fields(out, &head.headers, lower);
}

/// Headers, each with its name as it was written, or else as usual.
fn fields(out: &mut BytesMut, fields: &Fields, lower: bool) {
    let lower = lower || fields.is_lower();
    let sizes = fields.iter();
    let size: usize = sizes
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    out.reserve(size + END.len());
    for each in fields.fields() {
        let value = each.value().as_bytes();
        match fields.written(each).filter(|_| !lower) {
            Some(name) => line(out, name, value),
            None => field(out, each.name(), value, lower),
        }
    }
}

/// One header, whose name was not written by anybody before.
pub(crate) fn field(out: &mut BytesMut, name: &HeaderName, value: &[u8], lower: bool) {
    let at = out.len();
    let name = name.as_str().as_bytes();
    line(out, name, value);
    if !lower {
        write_as_usual(&mut out[at..at + name.len()]);
    }
}

/// Trailers, with the empty line behind them.
pub(crate) fn trailers(out: &mut BytesMut, trailers: &HeaderMap, lower: bool) {
    for (name, value) in trailers {
        field(out, name, value.as_bytes(), lower);
    }
    end(out);
}

fn line(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
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
    use crate::http::http1::lines;

    #[test]
    fn heads_are_written_line_by_line() {
        let mut request = RequestHeader::build("PUT", b"/a?b=c", 4).unwrap();
        request.append_header("content-type", "text/plain").unwrap();
        request.append_header("x-a--b-", "x-y").unwrap();
        let head = bytes::Bytes::from_static(b"ETag: \r\n\r\n");
        let written = lines::headers(&head, 0, 1, 0).unwrap();
        let mut two = request.with_headers(written);
        for (name, value) in &request.headers {
            two.append_header(name, value).unwrap();
        }
        let mut request = two;
        let mut out = BytesMut::new();
        super::request(&mut out, &request);
        end(&mut out);
        let text: &[u8] =
            b"PUT /a?b=c HTTP/1.1\r\nETag: \r\nContent-Type: text/plain\r\nX-A--B-: x-y\r\n\r\n";
        assert_eq!(out, text);
        request.headers.write_lower();
        request.insert_header("x-later", "1").unwrap();
        out.clear();
        super::request(&mut out, &request);
        let text: &[u8] = b"PUT /a?b=c HTTP/1.1\r\netag: \r\ncontent-type: text/plain\r\nx-a--b-: x-y\r\nx-later: 1\r\n";
        assert_eq!(out, text);
        let mut head = ResponseHeader::build(404, 1).unwrap();
        head.append_header("x-a", "1").unwrap();
        for (lower, text) in [
            (
                false,
                &b"HTTP/1.1 404 Not Found\r\nX-A: 1\r\nDate: now\r\n"[..],
            ),
            (
                true,
                &b"HTTP/1.1 404 Not Found\r\nx-a: 1\r\ndate: now\r\n"[..],
            ),
        ] {
            out.clear();
            answer(&mut out, &head, lower);
            field(&mut out, &http::header::DATE, b"now", lower);
            assert_eq!(out, text);
        }
        let mut behind = HeaderMap::new();
        behind.insert("grpc-status", "0".parse().unwrap());
        out.clear();
        trailers(&mut out, &behind, false);
        assert_eq!(out, &b"Grpc-Status: 0\r\n\r\n"[..]);
    }
}
