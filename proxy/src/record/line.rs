//! One line of the access log: a JSON object, written without a detour. Every request has one, so its
//! names are written as they are, and of its values only text that needs it is escaped.

use std::cell::Cell;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portolan_control::clock::Clock;

/// What is known of a request that has ended.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    pub(crate) time: Timestamp,
    pub(crate) request_id: &'a str,
    pub(crate) client: Option<IpAddr>,
    pub(crate) country: &'a str,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) protocol: &'a str,
    pub(crate) tls: Option<&'a str>,
    pub(crate) route: Option<&'a str>,
    pub(crate) pool: Option<&'a str>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) tries: u32,
    pub(crate) status: u16,
    pub(crate) outcome: &'a str,
    pub(crate) reason: &'a str,
    /// Why Portolan answered itself, if it did.
    pub(crate) refused: Option<&'a str>,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) duration: Duration,
    /// To response headers, from the beginning of the last try.
    pub(crate) upstream: Option<Duration>,
    pub(crate) why: Option<&'a str>,
    pub(crate) config: &'a str,
}

impl Line<'_> {
    /// Appends it, with the end of the line.
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let mut object = Object { out };
        object.begin();
        object.plain(b"{\"time\":\"", &self.time.text);
        object.text(b"\",\"request_id\":", self.request_id);
        object.address(b",\"client\":", self.client, None);
        object.text(b",\"country\":", self.country);
        object.text(b",\"method\":", self.method);
        object.text(b",\"host\":", self.host);
        object.text(b",\"path\":", self.path);
        object.text(b",\"protocol\":", self.protocol);
        object.maybe(b",\"tls\":", self.tls);
        object.maybe(b",\"route\":", self.route);
        object.maybe(b",\"pool\":", self.pool);
        let (address, port) = (
            self.endpoint.map(|endpoint| endpoint.ip()),
            self.endpoint.map(|endpoint| endpoint.port()),
        );
        object.address(b",\"endpoint\":", address, port);
        object.number(b",\"tries\":", self.tries.into());
        object.number(b",\"status\":", self.status.into());
        object.text(b",\"outcome\":", self.outcome);
        object.text(b",\"reason\":", self.reason);
        object.maybe(b",\"refused\":", self.refused);
        object.number(b",\"bytes_in\":", self.bytes_in);
        object.number(b",\"bytes_out\":", self.bytes_out);
        object.milliseconds(b",\"duration_ms\":", Some(self.duration));
        object.milliseconds(b",\"upstream_ms\":", self.upstream);
        object.maybe(b",\"why\":", self.why);
        object.text(b",\"config\":", self.config);
        object.plain(b"}\n", b"");
    }
}

/// An object under way. Each member comes with what stands before its value.
struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl Object<'_> {
    /// Most lines need no more room than this.
    fn begin(&mut self) {
        self.out.reserve(768);
    }

    fn plain(&mut self, before: &[u8], value: &[u8]) {
        self.out.extend_from_slice(before);
        self.out.extend_from_slice(value);
    }

    fn text(&mut self, before: &[u8], value: &str) {
        self.out.extend_from_slice(before);
        if value.bytes().any(|byte| ESCAPED[usize::from(byte)]) {
            // Writing to memory does not fail.
            let _ = serde_json::to_writer(&mut *self.out, value);
            return;
        }
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    fn maybe(&mut self, before: &[u8], value: Option<&str>) {
        match value {
            Some(value) => self.text(before, value),
            None => self.plain(before, b"null"),
        }
    }

    fn number(&mut self, before: &[u8], value: u64) {
        self.plain(before, itoa::Buffer::new().format(value).as_bytes());
    }

    fn address(&mut self, before: &[u8], address: Option<IpAddr>, port: Option<u16>) {
        let Some(address) = address else {
            return self.plain(before, b"null");
        };
        self.plain(before, b"\"");
        match (address, port) {
            (IpAddr::V4(address), _) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    self.number(if at == 0 { b"" } else { b"." }, octet.into());
                }
            }
            // Writing to memory does not fail.
            (IpAddr::V6(address), None) => drop(write!(self.out, "{address}")),
            (IpAddr::V6(address), Some(_)) => drop(write!(self.out, "[{address}]")),
        }
        if let Some(port) = port {
            self.number(b":", port.into());
        }
        self.out.push(b'"');
    }

    /// To the microsecond.
    fn milliseconds(&mut self, before: &[u8], time: Option<Duration>) {
        let Some(time) = time else {
            return self.plain(before, b"null");
        };
        let microseconds = (time.as_nanos() + 500) / 1_000;
        let microseconds = u64::try_from(microseconds).unwrap_or(u64::MAX);
        self.number(before, microseconds / 1_000);
        let rest = (microseconds % 1_000) as u32;
        let digit = |of: u32| b'0' + (rest / of % 10) as u8;
        self.out
            .extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
    }
}

/// What cannot stand in a JSON text as it is.
static ESCAPED: [bool; 256] = {
    let mut escaped = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escaped[byte] = true;
        byte += 1;
    }
    escaped[b'"' as usize] = true;
    escaped[b'\\' as usize] = true;
    escaped
};

/// A time by the calendar, to the millisecond (RFC 3339).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timestamp {
    milliseconds: i64,
    text: [u8; Self::LENGTH],
}

impl Timestamp {
    /// As in `2001-02-03T04:05:06.789Z`.
    const LENGTH: usize = 24;

    fn new(milliseconds: i64) -> Self {
        let mut text = [b'-'; Self::LENGTH];
        if let Ok(time) = jiff::Timestamp::from_millisecond(milliseconds) {
            // What has no room is no year that anybody lives in.
            let _ = write!(&mut text[..], "{time:.3}");
        }
        Self { milliseconds, text }
    }

    /// Now.
    pub(crate) fn now(clock: &Clock) -> Self {
        thread_local! {
            /// The last one: many lines are of the same millisecond.
            static LAST: Cell<Timestamp> = Cell::new(Timestamp::new(0));
        }
        let now = i64::try_from(clock.wall().as_millis()).unwrap_or(i64::MAX);
        let last = LAST.get();
        if last.milliseconds == now {
            return last;
        }
        let new = Self::new(now);
        LAST.set(new);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn times_are_written_as_everybody_writes_them() {
        let text = |milliseconds| String::from_utf8(Timestamp::new(milliseconds).text.to_vec());
        assert_eq!(text(981_173_106_789).unwrap(), "2001-02-03T04:05:06.789Z");
        assert_eq!(text(0).unwrap(), "1970-01-01T00:00:00.000Z");
        assert_eq!(text(i64::MAX).unwrap(), "-".repeat(24));
    }

    #[test]
    fn lines_are_json_whatever_stands_in_them() {
        let line = Line {
            time: Timestamp::new(0),
            request_id: "7",
            client: Some("2001:db8::1".parse().unwrap()),
            country: "-",
            method: "GET",
            host: "a\"b\\c",
            path: "/\u{1}\u{7f}\u{20ac}\n",
            protocol: "HTTP/1.1",
            tls: Some("TLSv1.3"),
            route: None,
            pool: Some("aws"),
            endpoint: Some("10.1.0.255:65535".parse().unwrap()),
            tries: u32::MAX,
            status: 0,
            outcome: "answered",
            reason: "whole",
            refused: None,
            bytes_in: 0,
            bytes_out: u64::MAX,
            duration: Duration::from_nanos(12_003_499),
            upstream: Some(Duration::from_nanos(999_500)),
            why: None,
            config: "0",
        };
        let read = |line: &Line<'_>| -> Value {
            let mut bytes = b"before\n".to_vec();
            line.put(&mut bytes);
            let text = String::from_utf8(bytes).unwrap();
            let text = text.strip_prefix("before\n").unwrap();
            assert_eq!(text.find('\n'), Some(text.len() - 1), "{text}");
            serde_json::from_str(text).unwrap()
        };
        let wanted = json!({
            "time": "1970-01-01T00:00:00.000Z", "request_id": "7", "client": "2001:db8::1", "country": "-",
            "method": "GET", "host": line.host, "path": line.path, "protocol": "HTTP/1.1", "tls": "TLSv1.3",
            "route": null, "pool": "aws", "endpoint": "10.1.0.255:65535", "tries": u32::MAX, "status": 0,
            "outcome": "answered", "reason": "whole", "refused": null, "bytes_in": 0, "bytes_out": u64::MAX,
            "duration_ms": 12.003, "upstream_ms": 1.0, "why": null, "config": "0",
        });
        assert_eq!(read(&line), wanted);
        let other = Line {
            client: Some("1.2.3.4".parse().unwrap()),
            endpoint: Some("[::1]:80".parse().unwrap()),
            ..line
        };
        let read = read(&other);
        assert_eq!(
            (&read["client"], &read["endpoint"]),
            (&json!("1.2.3.4"), &json!("[::1]:80"))
        );
    }
}
