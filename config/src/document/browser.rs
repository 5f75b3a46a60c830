//! What browsers are told: to use https, to be careful, and which other sites may ask.

use http::{HeaderName, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::document;
use crate::decode::encode::Encode;
use crate::decode::reader::Decode;
use crate::decode::reader::Reader;
use crate::node::{Node, Value};
use crate::scalar::{FromScalar, LeafError, keywords};
use crate::source::At;
use crate::units::TimeSpan;

document! {
    /// Strict-Transport-Security (RFC 6797): browsers that have seen it use https for this host from
    /// then on, whatever a link says. Sent over TLS alone, instead of what the endpoint says.
    pub struct Hsts as "`hsts`" {
        /// How long browsers remember it. `0s` makes them forget.
        pub max_age: At<TimeSpan> = "365d",
        /// For every host below this one as well.
        pub include_subdomains: At<bool> = "false",
        /// Agree to be built into browsers. Needs `include_subdomains` and a `max_age` of a year, and is
        /// hard to take back.
        pub preload: At<bool> = "false",
    }
}

document! {
    /// Headers that make browsers more careful with an answer: `X-Content-Type-Options: nosniff`,
    /// `X-Frame-Options`, `Referrer-Policy` and `X-Permitted-Cross-Domain-Policies: none`.
    pub struct SecurityHeadersLong as "`security_headers`" {
        /// Who may show the page in a frame.
        pub frame_options: At<FrameOptions> = "sameorigin",
        /// How much other sites learn about where a visitor comes from.
        pub referrer_policy: At<ReferrerPolicy> = "strict-origin-when-cross-origin",
        /// Also instead of what the endpoint says. By default the endpoint's own word counts.
        pub overwrite: At<bool> = "false",
    }
}

/// The headers, `true` for all of them as they are by default.
#[derive(Clone, Debug, PartialEq)]
pub struct SecurityHeaders(pub SecurityHeadersLong);

impl Decode for SecurityHeaders {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if matches!(&node.value, Value::Scalar(scalar) if scalar.text == "true") {
            let mut on = SecurityHeadersLong::decode(&Node::from_default("{}"), reader)?;
            on.origin = node.origin;
            return Some(Self(on));
        }
        SecurityHeadersLong::decode(node, reader).map(Self)
    }
}

impl Encode for SecurityHeaders {
    fn encode(&self) -> Option<Node> {
        self.0.encode()
    }
}

impl JsonSchema for SecurityHeaders {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecurityHeaders".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = SecurityHeadersLong::json_schema(generator);
        json_schema!({ "anyOf": [ { "enum": [true] }, long ] })
    }
}

keywords! {
    /// Who may show a page in a frame.
    pub enum FrameOptions {
        /// Pages of the same site.
        SameOrigin = "sameorigin",
        /// Nobody.
        Deny = "deny",
    }
}

keywords! {
    /// How much other sites learn about where a visitor comes from.
    pub enum ReferrerPolicy {
        /// Nothing.
        NoReferrer = "no-referrer",
        /// Nothing for other sites.
        SameOrigin = "same-origin",
        /// The site, and nothing where https ends.
        StrictOrigin = "strict-origin",
        /// The page within the site, the site for others, and nothing where https ends.
        StrictOriginWhenCrossOrigin = "strict-origin-when-cross-origin",
    }
}

document! {
    /// Which other sites may use this route from a browser (CORS). Preflights are answered here, and
    /// never reach an endpoint; what endpoints say about it in `Access-Control-*` is replaced.
    pub struct Cors as "`cors`" {
        /// The sites: `https://app.example.com`, `https://*.example.com` for all below it, or `*`
        /// for every site.
        pub origins: Vec<At<OriginPattern>>,
        /// The methods they may use.
        pub methods: Vec<At<Method>> = "[GET, HEAD, POST]",
        /// The request headers they may send, beside those that are always allowed.
        pub headers: Vec<At<HeaderName>>,
        /// The answer's headers they may read, beside those that they always may.
        pub expose: Vec<At<HeaderName>>,
        /// Whether browsers send cookies along. Not for every site (`*`).
        pub credentials: At<bool> = "false",
        /// How long browsers remember a preflight.
        pub max_age: At<TimeSpan> = "10m",
    }
}

/// A site, or all sites below a host, or every site.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OriginPattern {
    /// `*`
    Any,
    /// Exactly this one.
    Exact(String),
    /// All below a host: what stands before the part that varies, and what stands behind it.
    Below {
        /// `https://`
        scheme: String,
        /// `.example.com`, with a port if there is one.
        suffix: String,
    },
}

impl OriginPattern {
    /// Whether an Origin header names such a site.
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == origin,
            Self::Below { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|rest| rest.strip_suffix(suffix.as_str()))
                .is_some_and(|part| {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
                    !part.is_empty() && part.bytes().all(plain)
                }),
        }
    }
}

impl FromScalar for OriginPattern {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let bad = |message: &'static str| {
            LeafError::bad(message)
                .help("like `https://app.example.com` or `https://*.example.com`")
        };
        let (scheme, rest) = lower
            .split_once("://")
            .ok_or_else(|| bad("is not a site"))?;
        if !matches!(scheme, "http" | "https") {
            return Err(bad("is neither http nor https"));
        }
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (rest, None),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(bad("has a port that is none"));
        }
        let host = name.strip_prefix("*.").unwrap_or(name);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(bad("is a site with something that no Origin has"));
        }
        // Browsers leave the usual port out.
        let usual = matches!(
            (scheme, port),
            ("http", Some("80")) | ("https", Some("443"))
        );
        let rest = if usual { name } else { rest };
        Ok(match rest.strip_prefix('*') {
            Some(suffix) => Self::Below {
                scheme: format!("{scheme}://"),
                suffix: suffix.to_owned(),
            },
            None => Self::Exact(format!("{scheme}://{rest}")),
        })
    }

    fn show(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Exact(exact) => exact.clone(),
            Self::Below { scheme, suffix } => format!("{scheme}*{suffix}"),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(\\*|https?://.+)$", "examples": ["https://app.example.com"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_match_as_browsers_write_them() {
        let matches =
            |pattern: &str, origin: &str| OriginPattern::parse(pattern).unwrap().matches(origin);
        assert!(matches("*", "https://anything.example"));
        assert!(matches(
            "https://App.example.com:443",
            "https://app.example.com"
        ));
        assert!(!matches(
            "https://app.example.com",
            "http://app.example.com"
        ));
        assert!(!matches(
            "https://app.example.com",
            "https://app.example.com.evil.net"
        ));
        assert!(matches("https://*.example.com", "https://a.b.example.com"));
        for not in [
            "https://example.com",
            "https://.example.com",
            "https://evilexample.com",
            "https://evil.net/.example.com",
            "https://evil.net:1.example.com",
            "http://a.example.com",
            "https://a.example.com:8443",
            "null",
        ] {
            assert!(!matches("https://*.example.com", not), "{not}");
        }
        assert!(matches(
            "https://*.example.com:8443",
            "https://a.example.com:8443"
        ));
        for bad in [
            "app.example.com",
            "null",
            "ftp://x",
            "https://",
            "https://a/b",
            "https://a:b",
            "https://*",
        ] {
            assert!(OriginPattern::parse(bad).is_err(), "{bad}");
        }
    }
}
