//! When a request is tried again, and how long all of it may take.

use http::Method;
use schemars::{Schema, json_schema};

use crate::decode::document;
use crate::scalar::{FromScalar, LeafError};
use crate::source::At;
use crate::units::{ByteSize, Count, Percent, TimeSpan};

document! {
    /// When a request is tried again. What was certainly not sent is retried whatever its method;
    /// after that, only methods that may be repeated (GET, HEAD, OPTIONS, TRACE, PUT, DELETE) and
    /// requests with an `Idempotency-Key`. The next try goes to another endpoint; after a second
    /// failure in one pool, and for the last try, to another pool if the target has one that can serve.
    /// Nothing is retried once the client has response headers.
    pub struct Retry as "`retry`" {
        /// How often a request may be sent, with the first time: 1 to 10, but to no endpoint twice. A connection that cannot be
        /// made, or is lost before anything was sent, costs no try while the target has an endpoint
        /// left. `1` switches retries off, these too.
        pub tries: At<Count> = "3",
        /// What is tried again: `connect` (no connection), `reset` (the connection broke before
        /// there was an answer), `timeout` (no answer within `per_try` or `timeouts.first_byte`),
        /// and statuses from 500 to 599.
        pub on: Vec<At<RetryOn>> = "[connect, reset, timeout, 502, 503, 504]",
        /// How long one try may take until response headers come. By default as long as
        /// `timeouts.first_byte` of the pool allows.
        pub per_try: Option<At<TimeSpan>>,
        /// How many tries there may be beside the first ones, as a share of the route's requests; ten
        /// a second, twenty at once, are always allowed, with `0%` as well (`tries: 1` allows none). What was certainly not sent, and what leaves an endpoint that
        /// was found dead, does not count.
        pub budget: At<Percent> = "20%",
        /// Requests with a body larger than this are sent on as it comes, and are not tried again
        /// after bytes of them were sent. At most 1MiB.
        pub max_body: At<ByteSize> = "64KiB",
    }
}

document! {
    /// Tries of one request that are under way at the same time: a second one beside a slow first one,
    /// and one beside a try whose endpoint has gone silent. Whichever is answered first is taken; an
    /// answer of 400 or above only when the first try has failed.
    pub struct Hedge as "`hedge`" {
        /// When the second try begins: after a time, or when the first takes longer than a share
        /// of the endpoint's recent answers did (`p50` to `p99`). By default there is a second try
        /// only beside one whose endpoint has gone silent.
        pub after: Option<At<HedgeAfter>>,
        /// How many of the route's requests may have a second try because the first is slow.
        pub budget: At<Percent> = "5%",
        /// The methods of which two tries may be under way at the same time. Others are repeated only
        /// after their first try has ended.
        pub methods: Vec<At<Method>> = "[GET, HEAD, OPTIONS]",
    }
}

/// A failure that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// No connection.
    Connect,
    /// The connection broke before there was an answer.
    Reset,
    /// No answer in time.
    Timeout,
    /// An answer with this status.
    Status(u16),
}

impl FromScalar for RetryOn {
    fn parse(text: &str) -> Result<Self, LeafError> {
        match text {
            "connect" => Ok(Self::Connect),
            "reset" => Ok(Self::Reset),
            "timeout" => Ok(Self::Timeout),
            _ => match text.parse() {
                Ok(status @ 500..=599) => Ok(Self::Status(status)),
                Ok(_) => Err(LeafError::bad("is not a status from 500 to 599")),
                Err(_) => Err(LeafError::unknown_word(
                    text,
                    &["connect", "reset", "timeout", "502", "503", "504"],
                )),
            },
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Connect => "connect".to_owned(),
            Self::Reset => "reset".to_owned(),
            Self::Timeout => "timeout".to_owned(),
            Self::Status(status) => status.to_string(),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "enum": ["connect", "reset", "timeout"] },
            { "type": "integer", "minimum": 500, "maximum": 599 },
            { "type": "string", "pattern": "^5[0-9]{2}$" },
        ] })
    }
}

/// When a second try begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfter {
    /// After this time.
    Time(TimeSpan),
    /// When so many of a hundred recent answers had come.
    Percentile(u8),
}

impl FromScalar for HedgeAfter {
    fn parse(text: &str) -> Result<Self, LeafError> {
        if let Some(number) = text.strip_prefix('p') {
            return match number.parse() {
                Ok(percentile @ 50..=99) => Ok(Self::Percentile(percentile)),
                _ => Err(LeafError::bad("is not a percentile from p50 to p99")),
            };
        }
        TimeSpan::parse(text).map(Self::Time)
    }

    fn show(&self) -> String {
        match self {
            Self::Time(time) => time.show(),
            Self::Percentile(percentile) => format!("p{percentile}"),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(p[5-9][0-9]|[0-9]+(ms|s|m|h|d))$", "examples": ["p95", "300ms"] })
    }
}
