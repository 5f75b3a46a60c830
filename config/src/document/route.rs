//! Which requests go where, and what is done to them on the way.

use http::{HeaderName, HeaderValue, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::access::RateLimit;
use super::auth::Auth;
use super::browser::{Cors, Hsts, SecurityHeaders};
use super::clients::Clients;
use super::redirect::Redirect;
use super::retry::{Hedge, Retry};
use super::target::Target;
use crate::decode::collections::{Entries, OneOrMany, Shared};
use crate::decode::document;
use crate::decode::encode::{Encode, canonical_entry};
use crate::decode::reader::Decode;
use crate::decode::reader::Reader;
use crate::decode::switch::Switch;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::values::UrlPath;
use crate::names::{CookieName, HostPattern};
use crate::node::{Node, Value};
use crate::scalar::{FromScalar, LeafError, keywords};
use crate::source::{At, Origin};
use crate::units::TimeSpan;

document! {
    /// Which requests go to which target. Of several routes that match, an exact host wins over a
    /// wildcard and a wildcard over none; then an exact path over a pattern, and a pattern over
    /// the longest prefix; then more conditions over fewer; then the order of the file.
    pub struct Route as "a route" {
        /// The label in metrics and logs. By default the host and the path.
        pub name: Option<At<String>>,
        /// The host it answers to: `api.example.com`, or `*.example.com` for all below it. Without
        /// a host, every host.
        pub host: Option<At<HostPattern>>,
        /// Several hosts. Instead of `host`.
        pub hosts: Vec<At<HostPattern>>,
        /// The paths it is for, as a prefix of whole segments (`/v1` takes `/v1` and `/v1/x`, not
        /// `/v10`), or `{ exact: /x }`, or `{ regex: "^/x/[0-9]+$" }`.
        pub path: Option<PathMatch>,
        /// The methods it is for. Without any, all.
        pub methods: Vec<At<Method>>,
        /// Headers that must be there with these values.
        pub headers: Entries<HeaderName, At<String>>,
        /// Where the requests go. Every route has it, or `redirect`.
        pub to: Option<Target>,
        /// Send clients to another address, instead of `to`.
        pub redirect: Option<Box<Redirect>>,
        /// When a request is tried again.
        pub retry: Shared<Retry> = "{}",
        /// How long a request may take until its client gets response headers, over all tries.
        /// After that, only `timeouts.idle` counts.
        pub timeout: At<TimeSpan> = "60s",
        /// A second try beside a slow first one. By default there is none.
        pub hedge: Option<Box<Hedge>>,
        /// How soon traffic must have left a dead endpoint, whichever pool of the target it is in.
        /// `check` fails when a pool's probes can take longer (`portolan check` prints how long).
        pub rto: Option<At<TimeSpan>>,
        /// What happens when no pool of the target can serve.
        pub when_all_down: Shared<WhenAllDown> = "try_all",
        /// Keep a client where it was first served, by a cookie, a header or its address. `off`:
        /// every request is drawn anew.
        pub affinity: Switch<Box<Affinity>> = "off",
        /// Tell the client how its request was steered, in `x-portolan-*` headers. For testing:
        /// these name pools and endpoints.
        pub expose: At<bool> = "false",
        /// Who may use it: everybody else gets 403. Who cannot be placed is in no country. Without
        /// it, everybody whom `deny` does not name.
        pub allow: Option<Box<Clients>>,
        /// Who may not use it, even if `allow` names them.
        pub deny: Option<Box<Clients>>,
        /// Who may use it, by what they can prove: names and passwords, tokens, or whatever a
        /// service of your own asks for. `off`: nobody is asked.
        pub auth: Switch<Box<Auth>> = "off",
        /// How often one client may come: one limit, or a list of them that all must hold.
        pub rate_limit: Option<OneOrMany<RateLimit>>,
        /// Tell browsers to use https alone. Sent over TLS, by Portolan or by a trusted proxy before it.
        pub hsts: Switch<Box<Hsts>> = "off",
        /// Tell browsers to be careful with answers. `true` is a good beginning.
        pub security_headers: Switch<Box<SecurityHeaders>> = "off",
        /// Which other sites may use it from a browser. `off`: what endpoints say about it stays.
        pub cors: Switch<Box<Cors>> = "off",
        /// Changes to the request's headers before it is sent on.
        pub request_headers: Shared<HeaderEdits> = "{}",
        /// Changes to the answer's headers.
        pub response_headers: Shared<HeaderEdits> = "{}",
        /// Changes to the request's path.
        pub rewrite: Option<Box<Rewrite>>,
    }
}

/// The paths a route is for. Short: a prefix of whole segments.
#[derive(Clone, Debug, PartialEq)]
pub enum PathMatch {
    /// This path and everything below it.
    Prefix(At<UrlPath>),
    /// This path alone.
    Exact(At<UrlPath>),
    /// Every path that this pattern finds something in.
    Regex(At<PathPattern>),
}

/// A regular expression over paths.
#[derive(Clone, Debug)]
pub struct PathPattern(regex::Regex);

impl PathPattern {
    /// The compiled pattern.
    pub fn regex(&self) -> &regex::Regex {
        &self.0
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl FromScalar for PathPattern {
    fn parse(text: &str) -> Result<Self, LeafError> {
        // A pattern that compiles into more than this would slow every request down.
        regex::RegexBuilder::new(text)
            .size_limit(1 << 20)
            .build()
            .map(Self)
            .map_err(|error| {
                let said = error.to_string();
                let last = said.lines().last().unwrap_or_default();
                LeafError::bad(format!(
                    "is not a regular expression: {}",
                    last.strip_prefix("error: ").unwrap_or(last)
                ))
            })
    }

    fn show(&self) -> String {
        self.0.as_str().to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "format": "regex" })
    }
}

document! {
    /// An exact path or a pattern; one of them.
    pub struct PathMatchLong as "`path`" {
        /// This path alone.
        pub exact: Option<At<UrlPath>>,
        /// This path and everything below it, by whole segments.
        pub prefix: Option<At<UrlPath>>,
        /// A regular expression that must find something in the path. `^` and `$` anchor it.
        pub regex: Option<At<PathPattern>>,
    }
}

impl Decode for PathMatch {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(_) = node.value {
            return At::decode(node, reader).map(Self::Prefix);
        }
        let before = reader.diagnostics.len();
        let long = PathMatchLong::decode(node, reader)?;
        match (long.exact, long.prefix, long.regex) {
            (Some(path), None, None) => Some(Self::Exact(path)),
            (None, Some(path), None) => Some(Self::Prefix(path)),
            (None, None, Some(pattern)) => Some(Self::Regex(pattern)),
            _ => {
                if reader.diagnostics.len() == before {
                    reader.report(Diagnostic::error(
                        Code::BadValue,
                        node.origin,
                        "`path` needs `exact`, `prefix` or `regex`, one of them",
                    ));
                }
                None
            }
        }
    }
}

impl Encode for PathMatch {
    fn encode(&self) -> Option<Node> {
        let empty = |origin: Origin| PathMatchLong {
            exact: None,
            prefix: None,
            regex: None,
            origin,
        };
        match self {
            Self::Prefix(path) => return path.encode(),
            Self::Exact(path) => PathMatchLong {
                exact: Some(path.clone()),
                ..empty(path.origin)
            },
            Self::Regex(pattern) => PathMatchLong {
                regex: Some(pattern.clone()),
                ..empty(pattern.origin)
            },
        }
        .encode()
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        match self {
            Self::Prefix(path) => path.canonical(out),
            Self::Exact(path) => canonical_entry("exact", path, out),
            Self::Regex(pattern) => canonical_entry("regex", pattern, out),
        }
    }
}

impl JsonSchema for PathMatch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PathMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let prefix = At::<UrlPath>::json_schema(generator);
        let long = PathMatchLong::json_schema(generator);
        json_schema!({ "anyOf": [ prefix, long ] })
    }
}

/// What happens when no pool of the target can serve.
#[derive(Clone, Debug, PartialEq)]
pub enum WhenAllDown {
    /// Try whatever is there.
    Word(At<WhenAllDownWord>),
    /// Answer at once.
    Respond(Respond),
}

keywords! {
    /// What happens when no pool of the target can serve.
    pub enum WhenAllDownWord {
        /// Try the pools below their `min_healthy` by their healthy endpoints; if there are none,
        /// every endpoint as if it were healthy. Never those that are drained.
        TryAll = "try_all",
    }
}

document! {
    /// An answer given at once.
    pub struct WhenAllDownLong as "`when_all_down`" {
        /// The answer.
        pub respond: Respond,
    }
}

document! {
    /// An answer of Portolan's own.
    pub struct Respond as "`respond`" {
        /// Its status, 400 to 599.
        pub status: At<u32> = "503",
        /// What its Retry-After says.
        pub retry_after: At<TimeSpan> = "5s",
    }
}

impl Decode for WhenAllDown {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(_) = node.value {
            return At::decode(node, reader).map(Self::Word);
        }
        WhenAllDownLong::decode(node, reader).map(|long| Self::Respond(long.respond))
    }
}

impl Encode for WhenAllDown {
    fn encode(&self) -> Option<Node> {
        match self {
            Self::Word(word) => word.encode(),
            Self::Respond(respond) => WhenAllDownLong {
                respond: respond.clone(),
                origin: respond.origin,
            }
            .encode(),
        }
    }
}

impl JsonSchema for WhenAllDown {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WhenAllDown".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = At::<WhenAllDownWord>::json_schema(generator);
        let long = WhenAllDownLong::json_schema(generator);
        json_schema!({ "anyOf": [ word, long ] })
    }
}

document! {
    /// What a client is known by; one of them. It stays at its pool and endpoint as long as they
    /// can serve and the pool has a share of such clients' traffic; then another is drawn.
    pub struct Affinity as "`affinity`" {
        /// A cookie of this name, which Portolan sets: it names pool and endpoint in a way that only
        /// Portolan can read and write. A client that had to move stays where it was moved to. Of
        /// several of that name, as browsers send them for several paths and domains, those that name
        /// nobody are passed over.
        pub cookie: Option<At<CookieName>>,
        /// The value of this header: alike values go to the same endpoint. Requests without it are
        /// drawn anew.
        pub header: Option<At<HeaderName>>,
        /// The client's address (`client_ip` says whose counts): requests from one address go to
        /// the same endpoint.
        pub client_ip: Option<At<bool>>,
    }
}

document! {
    /// Changes to headers: first `remove`, then `set`, then `add`.
    pub struct HeaderEdits as "header edits" {
        /// Headers that have this value afterwards, whatever they had before.
        pub set: Entries<HeaderName, At<HeaderValue>>,
        /// Headers that have this value besides those they had before.
        pub add: Entries<HeaderName, At<HeaderValue>>,
        /// Headers that are gone afterwards.
        pub remove: Vec<At<HeaderName>>,
    }
}

document! {
    /// Changes to the request's path.
    pub struct Rewrite as "`rewrite`" {
        /// Take this prefix (whole segments) off the path before the request is sent on.
        pub strip_prefix: At<UrlPath>,
    }
}
