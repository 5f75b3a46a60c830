//! Requests that Portolan answers itself: why, and with what.
//!
//! A new reason is one line below: its status, its label in metrics and logs, the sentence that a human
//! reads, and `closes` if the connection must not be used for another request.

use std::time::Duration;

use http::StatusCode;

macro_rules! refusals {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident $(($status:ident: $type:ty))? = $code:expr, $reason:literal, $detail:literal $(, $closes:ident)?;
    )*) => {
        /// Why a request is not passed on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $( $(#[doc = $doc])+ $name $(($type))?, )*
        }

        /// The same without what they carry, to count by.
        enum Place { $( $name, )* }

        impl Refusal {
            /// The names of all reasons, each where its counter stands.
            pub const REASONS: [&'static str; [$($reason),*].len()] = [$($reason),*];

            /// The status that says so.
            pub fn status(self) -> StatusCode {
                match self {
                    $( Self::$name $(($status))? => $code, )*
                }
            }

            /// The label in metrics and logs.
            pub fn reason(self) -> &'static str {
                match self {
                    $( Self::$name { .. } => $reason, )*
                }
            }

            /// What a human is told. Never an internal address, never a pool's name.
            pub fn detail(self) -> &'static str {
                match self {
                    $( Self::$name { .. } => $detail, )*
                }
            }

            /// Whether the connection of an HTTP/1.1 client must be closed behind the answer: what was not
            /// read of the request would be taken for the next one.
            pub fn closes_connection(self) -> bool {
                match self {
                    $( Self::$name { .. } => refusals!(@closes $($closes)?), )*
                }
            }

            /// Where its counter stands.
            pub(crate) fn place(self) -> usize {
                match self {
                    $( Self::$name { .. } => Place::$name as usize, )*
                }
            }
        }
    };
    (@closes closes) => { true };
    (@closes) => { false };
}

refusals! {
    /// The request could be read in two ways, or not at all.
    Malformed = StatusCode::BAD_REQUEST, "malformed",
        "The request is malformed.", closes;
    /// The head says in two ways how long the body is, or in none that can be relied upon.
    AmbiguousLength = StatusCode::BAD_REQUEST, "ambiguous_length",
        "How long the request's body is cannot be told for certain.", closes;
    /// The host is missing, given twice, or not one.
    BadHost = StatusCode::BAD_REQUEST, "bad_host",
        "The request's host is missing or ambiguous.", closes;
    /// A path that could be read in two ways.
    BadPath = StatusCode::BAD_REQUEST, "bad_path",
        "The request's path is malformed or ambiguous.", closes;
    /// The target is longer than the listener allows.
    UriTooLong = StatusCode::URI_TOO_LONG, "uri_too_long",
        "The request's target is too long.", closes;
    /// The headers are larger than the listener allows, or more.
    HeadersTooLarge = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large",
        "The request's headers are too large.";
    /// The headers took longer than the listener allows.
    HeadersTooSlow = StatusCode::REQUEST_TIMEOUT, "headers_too_slow",
        "The request's headers took too long.";
    /// The body is larger than the listener allows.
    BodyTooLarge = StatusCode::PAYLOAD_TOO_LARGE, "body_too_large",
        "The request's body is too large.", closes;
    /// The body came more slowly than the listener allows.
    BodyTooSlow = StatusCode::REQUEST_TIMEOUT, "body_too_slow",
        "The request's body took too long.";
    /// A method that no proxy of this kind passes on.
    MethodNotAllowed = StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed",
        "This method is not passed on.", closes;
    /// No route takes it.
    NoRoute = StatusCode::NOT_FOUND, "no_route",
        "Nothing is served under this address.";
    /// The listener or the route is not for this client.
    AccessDenied = StatusCode::FORBIDDEN, "access_denied",
        "Access is not allowed from here.";
    /// Nobody said who the client is, or somebody who is not known.
    Unauthenticated = StatusCode::UNAUTHORIZED, "unauthenticated",
        "Authentication is required.";
    /// The client's token is not believed.
    InvalidToken = StatusCode::UNAUTHORIZED, "invalid_token",
        "The token is not accepted.";
    /// The client's token is believed, and does not say what it would have to.
    InsufficientScope = StatusCode::FORBIDDEN, "insufficient_scope",
        "The token does not allow this.";
    /// No token can be judged: the keys could not be had yet.
    NoKeys = StatusCode::SERVICE_UNAVAILABLE, "no_keys",
        "The service cannot take the request now.";
    /// The route's authorization service said so.
    AuthDenied(status: u16) =
        StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), "auth_denied",
        "Access is not allowed.";
    /// The route's authorization service did not answer.
    AuthUnavailable = StatusCode::SERVICE_UNAVAILABLE, "auth_unavailable",
        "The service cannot take the request now.";
    /// More passwords are to be checked than can be, or more questions to an authorization service
    /// are under way than may be.
    AuthBusy = StatusCode::SERVICE_UNAVAILABLE, "auth_busy",
        "The service cannot take the request now.";
    /// The client has come too often.
    RateLimited = StatusCode::TOO_MANY_REQUESTS, "rate_limited",
        "Too many requests; try again later.";
    /// The certificate shown on this connection is not the one for this host.
    WrongCertificate = StatusCode::MISDIRECTED_REQUEST, "wrong_certificate",
        "This connection was made for another host; open a new one for this host.";
    /// No pool can take it.
    NobodyCanServe = StatusCode::SERVICE_UNAVAILABLE, "nobody_can_serve",
        "The service cannot take the request now.";
    /// Refused on purpose: the share of a dead member that is shed.
    Shed = StatusCode::SERVICE_UNAVAILABLE, "shed",
        "The service cannot take the request now.";
    /// The route says what to answer when no pool can serve.
    AllDown(status: u16) =
        StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE), "all_down",
        "The service cannot take the request now.";
    /// No endpoint could be reached.
    Unreachable = StatusCode::BAD_GATEWAY, "unreachable",
        "The service could not be reached.";
    /// An endpoint's answer was not HTTP, or was cut short before it began.
    Broken = StatusCode::BAD_GATEWAY, "broken",
        "The service's answer was broken.";
    /// The request asks for an upgrade, and its endpoints offer none.
    UpgradeNotOffered = StatusCode::NOT_IMPLEMENTED, "upgrade_not_offered",
        "The service does not take upgrades of this kind.";
    /// Nothing came in time.
    TooSlow = StatusCode::GATEWAY_TIMEOUT, "too_slow",
        "The service took too long to answer.";
    /// This instance has no descriptors, local ports or memory left to ask an endpoint.
    EdgeExhausted = StatusCode::SERVICE_UNAVAILABLE, "edge_exhausted",
        "The service cannot take the request now.";
    /// Something went wrong within Portolan.
    Internal = StatusCode::INTERNAL_SERVER_ERROR, "internal",
        "Something went wrong.";
    /// The process ended before there was an answer. Nobody is told: the connection is cut.
    Stopped = StatusCode::SERVICE_UNAVAILABLE, "stopped",
        "The service is stopping.";
}

/// When clients may come back that are told 503, where nothing else says so.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl Refusal {
    /// When the client may come back, for Retry-After (RFC 9110, section 10.2.3): as long as `asked`, or
    /// five seconds where the status is 503 and nothing says how long. None: the answer says nothing.
    pub fn retry_after(self, asked: Option<Duration>) -> Option<Duration> {
        asked.or_else(|| (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER))
    }
}

/// The gRPC status that says what an HTTP status says; nothing for those that are meant for the
/// client's HTTP, and not for its caller.
///
/// It is the table of gRPC's [statuses](https://grpc.io/docs/guides/status-codes/), for what a proxy answers.
pub fn grpc_status(status: StatusCode) -> Option<u8> {
    Some(match status.as_u16() {
        // A connection for another host, and an address elsewhere.
        421 | 300..=399 => return None,
        401 => 16,
        403 => 7,
        404 => 12,
        408 | 504 => 4,
        413 | 429 => 8,
        400 | 405 | 431 | 500 => 13,
        501.. => 14,
        _ => 2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_name_and_a_place_of_its_own() {
        let mut names = Refusal::REASONS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Refusal::REASONS.len());
        for refusal in [Refusal::Malformed, Refusal::AllDown(502), Refusal::Stopped] {
            assert_eq!(Refusal::REASONS[refusal.place()], refusal.reason());
        }
    }

    #[test]
    fn a_route_may_say_what_is_answered_when_all_are_down() {
        assert_eq!(Refusal::AllDown(502).status(), 502);
        assert_eq!(Refusal::AllDown(7).status(), 503, "which is no status");
    }

    #[test]
    fn every_status_has_its_grpc_status() {
        for (status, expected) in [
            (400, Some(13)),
            (401, Some(16)),
            (403, Some(7)),
            (404, Some(12)),
            (405, Some(13)),
            (408, Some(4)),
            (413, Some(8)),
            (418, Some(2)),
            (421, None),
            (308, None),
            (429, Some(8)),
            (431, Some(13)),
            (500, Some(13)),
            (502, Some(14)),
            (503, Some(14)),
            (504, Some(4)),
            (599, Some(14)),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(grpc_status(status), expected, "{status}");
        }
    }
}
