//! Names that users give to things. Built only by parsing, so that whatever holds one has one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use schemars::{Schema, json_schema};

use crate::scalar::{FromScalar, LeafError};

/// The longest name. Names are metric labels and path segments of the API.
const LONGEST: usize = 64;

/// The name of a pool or a service. The two share one name space.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shared text.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromScalar for Name {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        let first = text.bytes().next();
        if !first.is_some_and(|b| b.is_ascii_alphanumeric()) {
            return Err(LeafError::bad(
                "is not a name: names begin with a letter or a digit",
            ));
        }
        if let Some(bad) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')))
        {
            return Err(
                LeafError::bad(format!("is not a name: `{bad}` cannot be part of one"))
                    .help("names are made of letters, digits, `-`, `_` and `.`"),
            );
        }
        if text.len() > LONGEST {
            return Err(LeafError::bad("is longer than 64 characters"));
        }
        Ok(Self(text.into()))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "title": "name", "type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$" })
    }
}

/// The name of a cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(Arc<str>);

impl CookieName {
    /// The shared text.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromScalar for CookieName {
    fn parse(text: &str) -> Result<Self, LeafError> {
        // A token (RFC 6265, section 4.1.1; RFC 9110, section 5.6.2).
        let part = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || !text.bytes().all(part) {
            return Err(LeafError::bad("is not a cookie's name")
                .help("write letters, digits, `-`, `_` and `.`"));
        }
        if text.len() > LONGEST {
            return Err(LeafError::bad("is longer than 64 characters"));
        }
        Ok(Self(text.into()))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": 64 })
    }
}

/// What hosts a route answers to: `api.example.com`, or `*.example.com` for everything below it.
///
/// Kept in lower case, without a trailing dot and without a port, and IPv6 addresses in brackets and in
/// their shortest form, which is how requests are compared with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This host alone.
    Exact(String),
    /// Every host below this one (which is kept with its leading dot: `.example.com`).
    Below(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

impl FromScalar for HostPattern {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        let host = text.trim_end_matches('.').to_ascii_lowercase();
        let (below, name) = match host.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, host.as_str()),
        };
        if !below && name.parse::<Ipv4Addr>().is_ok() {
            return Ok(Self::Exact(host));
        }
        let bracketed = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let inside = bracketed.unwrap_or(name);
        if !below && let Ok(address) = inside.parse::<Ipv6Addr>() {
            return Ok(Self::Exact(format!("[{address}]")));
        }
        if inside
            .split_once('%')
            .is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok())
        {
            return Err(LeafError::bad("names an interface of one machine").help(
                "no request asks for such a host (RFC 9110, section 4.2): write the address alone",
            ));
        }
        if bracketed.is_some() {
            return Err(LeafError::bad("is not an IPv6 address")
                .help("only IPv6 addresses stand in brackets, like `[2001:db8::1]`"));
        }
        if name.contains("://") || name.contains('/') {
            return Err(LeafError::bad("is a URL, not a host").help("write the host alone"));
        }
        if let Some((name, port)) = name.rsplit_once(':')
            && port.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(LeafError::bad("has a port")
                .help(format!("hosts are matched without their port: `{name}`")));
        }
        if name.contains('*') {
            return Err(LeafError::bad("has a `*` where none can stand")
                .help("`*.example.com` matches everything below example.com"));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            let error = LeafError::bad("is not a host name");
            return Err(if name.is_ascii() {
                error
            } else {
                error.help("write international names in their ASCII form (`xn--…`)")
            });
        }
        Ok(if below {
            Self::Below(format!(".{name}"))
        } else {
            Self::Exact(host)
        })
    }

    fn show(&self) -> String {
        match self {
            Self::Exact(host) => host.clone(),
            Self::Below(suffix) => format!("*{suffix}"),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["api.example.com", "*.example.com"] })
    }
}

/// A DNS name and a port that endpoints are found under: `api.internal:8080`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsEndpoint {
    /// The name, in lower case.
    pub host: String,
    /// The port of every address found.
    pub port: u16,
}

impl fmt::Display for DnsEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromScalar for DnsEndpoint {
    fn parse(text: &str) -> Result<Self, LeafError> {
        if text.parse::<std::net::SocketAddr>().is_ok() {
            return Err(LeafError::bad("is an address, not a name").help("write `address: …`"));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(LeafError::bad("has no port").help(format!("write `{text}:80`")));
        };
        let port = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| LeafError::bad("has no port from 1 to 65535"))?;
        match HostPattern::parse(host)? {
            HostPattern::Exact(host) => Ok(Self { host, port }),
            HostPattern::Below(_) => Err(LeafError::bad("is not one name")),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["api.internal:8080"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_simple_words() {
        assert!(Name::parse("aws-us.east_1").is_ok());
        assert!(Name::parse("").is_err());
        assert!(Name::parse("-x").is_err());
        assert!(Name::parse("a/b").unwrap_err().message.contains("`/`"));
        assert!(Name::parse(&"x".repeat(65)).is_err());
    }

    #[test]
    fn hosts_are_compared_without_case_and_dots() {
        let show = |text| {
            HostPattern::parse(text)
                .map(|h| h.to_string())
                .map_err(|e| e.message)
        };
        assert_eq!(show("API.Example.com."), Ok("api.example.com".into()));
        assert_eq!(show("*.Example.com"), Ok("*.example.com".into()));
        assert!(show("example.com:80").unwrap_err().contains("port"));
        assert!(show("https://x").unwrap_err().contains("URL"));
        assert!(show("a.*.com").unwrap_err().contains('*'));
        assert!(show("a..b").is_err());
    }

    #[test]
    fn addresses_are_hosts_in_one_spelling() {
        let show = |text| {
            HostPattern::parse(text)
                .map(|h| h.to_string())
                .map_err(|e| e.message)
        };
        for (text, is) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("[2001:DB8:0:0::1]", "[2001:db8::1]"),
            ("2001:0db8:0000:0000:0000:0000:0000:0001", "[2001:db8::1]"),
            ("[::FFFF:c000:0201]", "[::ffff:192.0.2.1]"),
            ("64:ff9b::192.0.2.1", "[64:ff9b::c000:201]"),
        ] {
            assert_eq!(show(text), Ok(is.into()), "{text}");
        }
        for (text, said) in [
            ("[fe80::1%eth0]", "interface"),
            ("fe80::1%25eth0", "interface"),
            ("[::1", "port"),
            ("[1.2.3.4]", "IPv6"),
            ("[::1]:80", "port"),
            ("*.[::1]", ""),
        ] {
            let wrong = show(text).unwrap_err();
            assert!(wrong.contains(said), "{text}: {wrong}");
        }
    }

    #[test]
    fn dns_endpoints_are_names_with_ports() {
        assert_eq!(
            DnsEndpoint::parse("Api.internal:80").unwrap().to_string(),
            "api.internal:80"
        );
        assert!(DnsEndpoint::parse("10.0.0.1:80").is_err());
        assert!(DnsEndpoint::parse("api.internal").is_err());
        assert!(DnsEndpoint::parse("api.internal:0").is_err());
    }
}
