//! Who may use a route, and how often.

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::document;
use crate::decode::encode::Encode;
use crate::decode::reader::Decode;
use crate::decode::reader::Reader;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::values::ClaimName;
use crate::names::{CookieName, Name};
use crate::node::{Node, Value};
use crate::source::{At, Origin};
use crate::units::{Count, TimeSpan};

document! {
    /// How often one client may come. A bucket of `burst` tokens for everybody who is told apart by
    /// `on`: a request takes one out, and `requests` of them come back within `per`. Whoever finds
    /// no token gets 429 and is told when there will be one. What is known about clients survives
    /// reloads as long as these keys stay as they are.
    pub struct RateLimit as "`rate_limit`" {
        /// What it is called in metrics, logs and the RateLimit fields of answers. By default `limit`,
        /// and `limit-2`, `limit-3` for the next ones.
        pub name: Option<At<Name>>,
        /// How many requests a client may send within `per`, again and again.
        pub requests: At<Count>,
        /// The time in which so many tokens come back.
        pub per: At<TimeSpan> = "1s",
        /// How many requests may come at once. By default as many as `requests`.
        pub burst: Option<At<Count>>,
        /// What tells clients apart: `client_ip` (IPv6 addresses by their /64, which is what one
        /// customer has at least), `{ header: X-Api-Key }`, `{ cookie: session }` or
        /// `{ jwt_claim: sub }` of the token that the route's `auth` asks for. Requests without that
        /// header, cookie or claim are limited by their client's address. Of several cookies of that
        /// name it is the one whose value sorts first. Limits by a claim are asked when the token was
        /// believed, all others before.
        pub on: LimitKey = "client_ip",
        /// Tell clients in every answer how much is left (`RateLimit` and `RateLimit-Policy`).
        /// Those who are refused are always told.
        pub headers: At<bool> = "false",
        /// How many clients are kept apart at the same time: 8 bytes of memory for each, taken when
        /// the route is first used. When more come, those who used least are forgotten first.
        pub clients: At<Count> = "131072",
    }
}

/// What tells the clients of a rate limit apart.
#[derive(Clone, Debug, PartialEq)]
pub enum LimitKey {
    /// The client's address.
    ClientIp(Origin),
    /// A header's value.
    Header(At<HeaderName>),
    /// A cookie's value.
    Cookie(At<CookieName>),
    /// A claim of the token.
    JwtClaim(At<ClaimName>),
}

document! {
    /// A header, a cookie or a claim.
    pub struct LimitKeyLong as "`on`" {
        /// The header's name.
        pub header: Option<At<HeaderName>>,
        /// The cookie's name.
        pub cookie: Option<At<CookieName>>,
        /// The name of a claim of the token that was believed (see `auth`).
        pub jwt_claim: Option<At<ClaimName>>,
    }
}

impl Decode for LimitKey {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(scalar) = &node.value {
            if scalar.text == "client_ip" {
                return Some(Self::ClientIp(node.origin));
            }
            reader.report(
                Diagnostic::error(
                    Code::BadValue,
                    node.origin,
                    format!("`{}` does not tell clients apart", scalar.text),
                )
                .help("write `client_ip`, `{ header: NAME }`, `{ cookie: NAME }` or `{ jwt_claim: NAME }`"),
            );
            return None;
        }
        let before = reader.diagnostics.len();
        let long = LimitKeyLong::decode(node, reader)?;
        match (long.header, long.cookie, long.jwt_claim) {
            (Some(header), None, None) => Some(Self::Header(header)),
            (None, Some(cookie), None) => Some(Self::Cookie(cookie)),
            (None, None, Some(claim)) => Some(Self::JwtClaim(claim)),
            _ => {
                if reader.diagnostics.len() == before {
                    reader.report(Diagnostic::error(
                        Code::BadValue,
                        node.origin,
                        "`on` needs `header`, `cookie` or `jwt_claim`, one of them",
                    ));
                }
                None
            }
        }
    }
}

impl Encode for LimitKey {
    fn encode(&self) -> Option<Node> {
        let empty = |origin: Origin| LimitKeyLong {
            header: None,
            cookie: None,
            jwt_claim: None,
            origin,
        };
        match self {
            Self::ClientIp(origin) => return Some(Node::scalar("client_ip", *origin)),
            Self::Header(header) => LimitKeyLong {
                header: Some(header.clone()),
                ..empty(header.origin)
            },
            Self::Cookie(cookie) => LimitKeyLong {
                cookie: Some(cookie.clone()),
                ..empty(cookie.origin)
            },
            Self::JwtClaim(claim) => LimitKeyLong {
                jwt_claim: Some(claim.clone()),
                ..empty(claim.origin)
            },
        }
        .encode()
    }
}

impl JsonSchema for LimitKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LimitKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = LimitKeyLong::json_schema(generator);
        json_schema!({ "anyOf": [ { "enum": ["client_ip"] }, long ] })
    }
}
