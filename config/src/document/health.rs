//! Active health checks.

use schemars::{Schema, json_schema};

use crate::decode::collections::{Entries, OneOrMany};
use crate::decode::document;
use crate::scalar::{FromScalar, LeafError};
use crate::source::At;
use crate::units::{Count, Percent, Port, TimeSpan};

document! {
    /// How endpoints are probed. One of `http`, `tcp` and `grpc` says how; with none, a TCP
    /// connection is opened.
    pub struct Health as "`health`" {
        /// Ask for this path over HTTP (over TLS if the pool has `tls`), and expect what `expect`
        /// says.
        pub http: Option<At<String>>,
        /// Open a TCP connection (and, if the pool has `tls`, finish the handshake).
        pub tcp: Option<At<bool>>,
        /// Ask `grpc.health.v1.Health/Check` for this service (`""` for the whole server).
        pub grpc: Option<At<String>>,
        /// The port to probe. By default the endpoint's own.
        pub port: Option<At<Port>>,
        /// The Host that probes ask for. By default the pool's `host`, else the endpoint's address.
        pub host: Option<At<String>>,
        /// The time between two probes of an endpoint, less up to a tenth, so that probes spread.
        pub every: At<TimeSpan> = "5s",
        /// The time between two probes while the verdict is changing. By default the smaller of
        /// `every` and `1s`. An unhealthy endpoint that has passed a probe is asked again after a
        /// quarter of it.
        pub fast_every: Option<At<TimeSpan>>,
        /// How long a probe may take, to the last byte of its answer.
        pub timeout: At<TimeSpan> = "2s",
        /// So many failed probes in a row take a healthy endpoint out.
        pub down_after: At<Count> = "3",
        /// So many successful probes in a row bring it back.
        pub up_after: At<Count> = "2",
        /// What an HTTP answer must look like. Everything given must hold.
        pub expect: Expect = "{}",
    }
}

document! {
    /// What requests themselves tell about endpoints. One that fails them while its probes succeed
    /// is ejected: it gets no requests for a while, then a few, and then all of its share again.
    pub struct Outlier as "`outlier`" {
        /// So many requests in a row that an endpoint fails eject it: no connection, a broken one,
        /// no answer in time, or status 502, 503 or 504. An endpoint that fails a part of its
        /// requests anyway is given as many more as chance explains.
        pub consecutive_failures: At<Count> = "3",
        /// How long it is left out the first time: doubled each time it fails again, up to 30s.
        pub eject_for: At<TimeSpan> = "2s",
        /// The share of a pool's endpoints that may be left out, but always at least one. When more
        /// of them fail, the whole pool counts as down if another pool of the target can serve.
        pub max_ejected: At<Percent> = "50%",
    }
}

document! {
    /// What an HTTP probe's answer must look like.
    pub struct Expect as "`expect`" {
        /// Status codes, single or as ranges.
        pub status: OneOrMany<At<StatusRange>> = "200-299",
        /// Headers that must be there with these values.
        pub headers: Entries<http::HeaderName, At<String>>,
        /// Values that a JSON body must have, by JSON pointer (RFC 6901): `"/status": healthy`.
        pub json: Entries<JsonPointer, At<String>>,
        /// A text that the body must contain.
        pub body_contains: Option<At<String>>,
    }
}

/// Status codes from one to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The first.
    pub from: u16,
    /// The last.
    pub to: u16,
}

impl FromScalar for StatusRange {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let code = |text: &str| {
            text.trim()
                .parse()
                .ok()
                .filter(|code| (100..=599).contains(code))
        };
        let range = match text.split_once('-') {
            Some((from, to)) => code(from).zip(code(to)),
            None => code(text).map(|code| (code, code)),
        };
        match range {
            Some((from, to)) if from <= to => Ok(Self { from, to }),
            _ => Err(LeafError::bad("is not a status code or a range of them")
                .help("write `200` or `200-299`")),
        }
    }

    fn show(&self) -> String {
        if self.from == self.to {
            self.from.to_string()
        } else {
            format!("{}-{}", self.from, self.to)
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 100, "maximum": 599 },
            { "type": "string", "pattern": "^[1-5][0-9]{2}(-[1-5][0-9]{2})?$" },
        ] })
    }
}

/// A place in a JSON document (RFC 6901): empty for the whole, else parts that begin with `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(String);

impl JsonPointer {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromScalar for JsonPointer {
    fn parse(text: &str) -> Result<Self, LeafError> {
        if text.is_empty() || text.starts_with('/') {
            return Ok(Self(text.to_owned()));
        }
        Err(LeafError::bad("is not a JSON pointer").help(format!(
            "JSON pointers begin with a slash: `/{}`",
            text.replace('.', "/")
        )))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(/.*)?$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_ranges() {
        assert_eq!(StatusRange::parse("200-299").unwrap().show(), "200-299");
        assert_eq!(
            StatusRange::parse("204").unwrap(),
            StatusRange { from: 204, to: 204 }
        );
        for bad in ["299-200", "99", "600", "2xx", ""] {
            assert!(StatusRange::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pointers_begin_with_a_slash() {
        assert!(JsonPointer::parse("/a/0").is_ok());
        assert!(
            JsonPointer::parse("a.b")
                .unwrap_err()
                .help
                .unwrap()
                .contains("/a/b")
        );
    }
}
