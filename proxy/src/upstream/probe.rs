//! Probes: asks an endpoint whether it serves, in the way in which requests are sent to it.
//!
//! A probe goes the way of every other request: connected to alike, written by the same code, over
//! whatever is spoken with the endpoint, and its answer is read by the same strict rules. Only its
//! connections are its own: probes never wait for requests, nor requests for probes. One over which a
//! probe failed is not used again, for it may be what is dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use pingora::{Error, ErrorType, Result};
use portolan_config::fields::Fields;
use portolan_config::plan::{PoolPlan, ProbeExpect, ProbeKind, ProbePlan};
use portolan_control::clock::Clock;
use portolan_control::health::exhaustion::SHORTAGES;
use portolan_control::health::retry::TryFault;
use portolan_control::health::verdict::ProbeFailure;
use portolan_control::pool::dial::ProbeOutcome;

use crate::http::head::RequestHeader;
use crate::upstream::connect::peer::Peers;
use crate::upstream::connect::pool::Upstream;
use crate::upstream::exchange::inquire::{Question, Unanswered, inquire};
use crate::upstream::fault;

/// The largest answer that is read: an answer to a health check is small.
const LARGEST_ANSWER: usize = 1 << 20;

const USER_AGENT: &str = concat!("portolan-probe/", env!("CARGO_PKG_VERSION"));

/// How many connections are kept from one probe to the next: one for every endpoint, if the process may
/// open as many files, most of which are for requests.
fn most_kept() -> usize {
    const FEWEST: usize = 128;
    const MOST: usize = 1 << 16;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    open_files(&limits).map_or(FEWEST, |files| (files / 8).clamp(FEWEST, MOST))
}

/// How many files the process may open, by what the system says of its limits.
fn open_files(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

/// Asks endpoints.
pub(crate) struct Prober {
    /// Its connections.
    upstream: Arc<Upstream>,
    /// They are looked after.
    keeps_house: AtomicBool,
    clock: Clock,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Prober")
    }
}

impl Prober {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            upstream: Arc::new(Upstream::of_its_own(most_kept())),
            keeps_house: AtomicBool::new(false),
            clock,
        }
    }

    /// Probes an endpoint, within the plan's timeout.
    pub(crate) async fn probe(&self, pool: &PoolPlan, peers: &Peers) -> ProbeOutcome {
        let began = self.clock.now();
        let Some(plan) = &pool.probe else {
            return ProbeOutcome {
                result: Ok(()),
                took: Duration::ZERO,
            };
        };
        if !self.keeps_house.swap(true, Ordering::Relaxed) {
            self.upstream.maintain();
        }
        let asking = tokio::time::timeout(plan.timeout, self.ask(plan, peers));
        let result = match asking.await {
            Ok(result) => result,
            Err(_) => Err(ProbeFailure::Timeout(plan.timeout)),
        };
        if result.is_err() {
            peers.probe_failed();
        }
        ProbeOutcome {
            result,
            took: self.clock.now().since(began),
        }
    }

    async fn ask(&self, plan: &ProbePlan, peers: &Peers) -> Result<(), ProbeFailure> {
        match &plan.kind {
            ProbeKind::Tcp => {
                let target = peers.probe();
                let connected = self.upstream.try_connect(&target).await;
                connected.map_err(|error| {
                    let error = fault::told_apart(error, target.address());
                    connect_failure(&error, plan.timeout)
                })
            }
            ProbeKind::Http { path, expect } => {
                let request = http_request(path, &peers.probe_host)?;
                let answer = self.exchange(peers, plan, request, Bytes::new()).await?;
                judge(&answer, expect)
            }
            ProbeKind::Grpc { service } => {
                let request = grpc_request(&peers.probe_host)?;
                let body = grpc_check(service);
                let answer = self.exchange(peers, plan, request, body).await?;
                judge_grpc(&answer)
            }
        }
    }

    /// Sends a request and reads the whole answer.
    async fn exchange(
        &self,
        peers: &Peers,
        plan: &ProbePlan,
        request: RequestHeader,
        body: Bytes,
    ) -> Result<ProbeAnswer, ProbeFailure> {
        let probe = Question {
            upstream: self.upstream.clone(),
            target: peers.probe(),
            head: request,
            body,
            patience: plan.timeout,
            most: LARGEST_ANSWER,
        };
        let reply = inquire(probe, &self.clock).await;
        let reply = reply.map_err(|why| match why {
            Unanswered::Failed(failed) => match failed.fault {
                TryFault::Connect => connect_failure(&failed.error, plan.timeout),
                TryFault::Timeout => ProbeFailure::Timeout(plan.timeout),
                _ => ProbeFailure::Broken(words(&failed.error)),
            },
            Unanswered::Broken(error) => ProbeFailure::Broken(words(&error)),
            Unanswered::TooMuch => {
                ProbeFailure::Unexpected("an answer of more than 1 MiB".to_owned())
            }
        })?;
        Ok(ProbeAnswer {
            status: reply.head.status,
            grpc_status: grpc_status(&reply.head.headers, reply.trailers.as_ref()),
            headers: reply.head.headers,
            body: reply.body,
        })
    }
}

/// What came back.
struct ProbeAnswer {
    status: StatusCode,
    headers: Fields,
    body: Bytes,
    /// `grpc-status`, from the trailers or (when there was no body) the headers.
    grpc_status: Option<String>,
}

fn grpc_status(headers: &Fields, trailers: Option<&HeaderMap>) -> Option<String> {
    let behind = trailers.and_then(|trailers| trailers.get("grpc-status"));
    let value = behind.or_else(|| headers.get("grpc-status"))?;
    value.to_str().ok().map(str::to_owned)
}

fn http_request(path: &str, host: &str) -> Result<RequestHeader, ProbeFailure> {
    request(Method::GET, path, host, &[("accept", "*/*")])
}

fn grpc_request(host: &str) -> Result<RequestHeader, ProbeFailure> {
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    request(Method::POST, "/grpc.health.v1.Health/Check", host, &headers)
}

fn request(
    method: Method,
    path: &str,
    host: &str,
    headers: &[(&'static str, &'static str)],
) -> Result<RequestHeader, ProbeFailure> {
    let build = || {
        let mut request = RequestHeader::build(method, path.as_bytes(), 2 + headers.len())?;
        request.insert_header("host", host)?;
        request.insert_header("user-agent", USER_AGENT)?;
        for (name, value) in headers {
            request.insert_header(*name, *value)?;
        }
        Ok::<_, Box<Error>>(request)
    };
    build().map_err(|error| ProbeFailure::Unexpected(words(&error)))
}

/// Whether an HTTP answer is as expected.
fn judge(answer: &ProbeAnswer, expect: &ProbeExpect) -> Result<(), ProbeFailure> {
    let unexpected = |what: String| Err(ProbeFailure::Unexpected(what));
    let status = answer.status.as_u16();
    if !expect
        .status
        .iter()
        .any(|range| (range.from..=range.to).contains(&status))
    {
        return unexpected(format!("status {status}"));
    }
    for (name, value) in &expect.headers {
        let there = answer
            .headers
            .get_all(name)
            .any(|have| have.as_bytes() == value.as_bytes());
        if !there {
            return unexpected(format!("no header {name}: {value}"));
        }
    }
    if let Some(text) = &expect.body_contains
        && memchr::memmem::find(&answer.body, text.as_bytes()).is_none()
    {
        return unexpected(format!("the body does not contain `{text}`"));
    }
    if expect.json.is_empty() {
        return Ok(());
    }
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&answer.body) else {
        return unexpected("the body is not JSON".to_owned());
    };
    for (pointer, value) in &expect.json {
        let found = json.pointer(pointer);
        let same = match found {
            Some(serde_json::Value::String(text)) => **text == **value,
            Some(other) => *other.to_string() == **value,
            None => false,
        };
        if !same {
            let found = found.map_or_else(|| "nothing".to_owned(), ToString::to_string);
            return unexpected(format!("{pointer} is {found}, not {value}"));
        }
    }
    Ok(())
}

/// `HealthCheckRequest { service: 1 }`, framed as gRPC wants it.
fn grpc_check(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

/// Whether a gRPC answer says SERVING.
fn judge_grpc(answer: &ProbeAnswer) -> Result<(), ProbeFailure> {
    let unexpected = |what: String| Err(ProbeFailure::Unexpected(what));
    if answer.status != StatusCode::OK {
        return unexpected(format!("status {}", answer.status.as_u16()));
    }
    match answer.grpc_status.as_deref() {
        Some("0") => {}
        Some(other) => {
            return unexpected(match grpc_name(other) {
                Some(name) => format!("grpc-status {other} ({name})"),
                None => format!("grpc-status {other}"),
            });
        }
        None => return Err(ProbeFailure::Broken("no grpc-status".to_owned())),
    }
    // `HealthCheckResponse { status: 1 }`: a varint in field 1; left out, it is UNKNOWN.
    match answer.body.get(5..) {
        Some([0x08, 1, ..]) => Ok(()),
        Some([0x08, 2, ..]) => unexpected("NOT_SERVING".to_owned()),
        Some([0x08, 3, ..]) => unexpected("SERVICE_UNKNOWN".to_owned()),
        _ => unexpected("UNKNOWN".to_owned()),
    }
}

/// What a `grpc-status` other than 0 is called.
fn grpc_name(status: &str) -> Option<&'static str> {
    const NAMES: [&str; 16] = [
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let status: usize = status.parse().ok()?;
    NAMES.get(status.checked_sub(1)?).copied()
}

/// What a probe says that could not connect: nothing, when that was this instance's own fault.
fn connect_failure(error: &Error, timeout: Duration) -> ProbeFailure {
    if let Some(short) = fault::shortage(error) {
        SHORTAGES.one(short);
        return ProbeFailure::Edge(short);
    }
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
            ProbeFailure::Timeout(timeout)
        }
        ErrorType::ConnectNoRoute => ProbeFailure::Unreachable(words(error)),
        _ => ProbeFailure::Connect(words(error)),
    }
}

/// The engine's error in a few words, without the addresses that stand beside it anyway.
pub(crate) fn words(error: &Error) -> String {
    let kind = match error.etype() {
        ErrorType::ConnectRefused => "connection refused",
        ErrorType::ConnectNoRoute => "no route",
        ErrorType::ConnectTimedout => "connection timed out",
        ErrorType::ConnectError => "connection failed",
        ErrorType::TLSHandshakeFailure | ErrorType::HandshakeError => "TLS handshake failed",
        ErrorType::TLSHandshakeTimedout => "TLS handshake timed out",
        ErrorType::InvalidCert => "invalid certificate",
        ErrorType::ConnectionClosed => "connection closed",
        ErrorType::ReadError => "connection broken while reading",
        ErrorType::WriteError => "connection broken while writing",
        ErrorType::ReadTimedout => "nothing read in time",
        ErrorType::WriteTimedout => "nothing written in time",
        ErrorType::InvalidHTTPHeader => "not HTTP",
        ErrorType::H2Error => "HTTP/2 connection broken",
        ErrorType::HTTPStatus(431) => "the endpoint takes no request of this size",
        other => other.as_str(),
    };
    let more = match error.etype() {
        // Which certificate, which alert: the engine says so in words of its own.
        ErrorType::TLSHandshakeFailure => error
            .context
            .as_ref()
            .and_then(|words| words.as_str().strip_prefix("TLS connect() failed: "))
            .and_then(|words| words.split(" context: ").last())
            .and_then(|words| words.split("tls connect error cause: ").last())
            .and_then(|words| words.rsplit_once(", SNI: "))
            .map(|(words, _)| portolan_certs::verifier::plain(words)),
        ErrorType::InvalidCert => error
            .context
            .as_ref()
            .map(|words| words.as_str().to_owned()),
        ErrorType::ConnectError
        | ErrorType::ReadError
        | ErrorType::WriteError
        | ErrorType::HandshakeError => error
            .root_cause()
            .downcast_ref::<std::io::Error>()
            .map(ToString::to_string),
        ErrorType::H2Error => error
            .root_cause()
            .downcast_ref::<h2::Error>()
            .and_then(h2::Error::reason)
            .map(|reason| format!("{reason:?}")),
        _ => None,
    };
    match more {
        Some(more) => format!("{kind}: {more}"),
        None => kind.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::document::StatusRange;

    fn answer(status: u16, body: &str) -> ProbeAnswer {
        ProbeAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Fields::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            grpc_status: Some("0".to_owned()),
        }
    }

    fn expect() -> ProbeExpect {
        ProbeExpect {
            status: vec![StatusRange { from: 200, to: 299 }],
            headers: Vec::new(),
            json: Vec::new(),
            body_contains: None,
        }
    }

    fn said(answer: &ProbeAnswer, expect: &ProbeExpect) -> String {
        match judge(answer, expect) {
            Ok(()) => "fine".to_owned(),
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn limits_are_read_as_the_system_writes_them() {
        let limits = |files: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max processes             96000                96000                processes\n\
                 Max open files            {files}               524288               files\n"
            )
        };
        assert_eq!(open_files(&limits("1024")), Some(1024));
        assert_eq!(open_files(&limits("unlimited")), Some(usize::MAX));
        assert_eq!(open_files(""), None);
    }

    #[test]
    fn everything_expected_must_hold() {
        assert_eq!(said(&answer(204, ""), &expect()), "fine");
        assert_eq!(
            said(&answer(500, ""), &expect()),
            "unexpected answer: status 500"
        );
        let mut wants = expect();
        wants.json = vec![
            ("/status".into(), "healthy".into()),
            ("/n".into(), "3".into()),
        ];
        let body = r#"{ "status": "healthy", "n": 3 }"#;
        assert_eq!(said(&answer(200, body), &wants), "fine");
        let sick = r#"{ "status": "sick", "n": 3 }"#;
        assert!(said(&answer(200, sick), &wants).contains(r#"/status is "sick", not healthy"#));
        assert!(said(&answer(200, "ok"), &wants).contains("not JSON"));
        let mut wants = expect();
        wants.body_contains = Some("ready".into());
        assert_eq!(said(&answer(200, "I am ready!"), &wants), "fine");
        assert!(said(&answer(200, "no"), &wants).contains("does not contain"));
        let mut wants = expect();
        wants.headers = vec![(http::HeaderName::from_static("x-role"), "primary".into())];
        assert!(said(&answer(200, ""), &wants).contains("no header x-role"));
    }

    #[test]
    fn grpc_health_is_encoded_and_judged() {
        assert_eq!(&grpc_check("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(
            &grpc_check("a.B")[..],
            [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']
        );
        let long = grpc_check(&"x".repeat(300));
        assert_eq!(&long[5..8], [0x0a, 0xac, 0x02]);
        let serving = |body: &[u8]| {
            let mut answer = answer(200, "");
            answer.body = Bytes::copy_from_slice(body);
            judge_grpc(&answer)
        };
        assert!(serving(&[0, 0, 0, 0, 2, 0x08, 1]).is_ok());
        assert!(serving(&[0, 0, 0, 0, 2, 0x08, 2]).is_err());
        assert!(serving(&[0, 0, 0, 0, 0]).is_err());
    }
}
