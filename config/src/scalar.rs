//! Single values: how a text becomes a typed value, and what to say when it does not.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use ipnet::{IpNet, Ipv4Net};
use schemars::{Schema, json_schema};

use crate::diagnostic::Code;

/// Why a text is not the value it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafError {
    /// The kind of problem.
    pub code: Code,
    /// What is wrong with it, after "`text` ".
    pub message: Cow<'static, str>,
    /// What to write instead.
    pub help: Option<String>,
}

impl LeafError {
    /// A value that says something impossible.
    pub fn bad(message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code: Code::BadValue,
            message: message.into(),
            help: None,
        }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Names another kind of problem.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }
}

/// A value that is written as one text.
pub trait FromScalar: Sized {
    /// Whether such values are never printed, wherever they come from.
    const SECRET: bool = false;

    /// Whether such values are texts even when they look like numbers.
    const TEXT: bool = false;

    /// Reads the text.
    ///
    /// # Errors
    /// When the text does not say such a value.
    fn parse(text: &str) -> Result<Self, LeafError>;

    /// The text that says this value, as short as it gets.
    fn show(&self) -> String;

    /// Its JSON Schema.
    fn schema() -> Schema;
}

/// Free text.
impl FromScalar for String {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        Ok(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

impl FromScalar for Arc<str> {
    fn parse(text: &str) -> Result<Self, LeafError> {
        Ok(text.into())
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        String::schema()
    }
}

impl FromScalar for bool {
    fn parse(text: &str) -> Result<Self, LeafError> {
        match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => {
                let error = LeafError::bad("is neither `true` nor `false`");
                Err(match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "1" => error.help("write `true`"),
                    "no" | "off" | "0" => error.help("write `false`"),
                    _ => error,
                })
            }
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

impl FromScalar for u32 {
    fn parse(text: &str) -> Result<Self, LeafError> {
        text.parse()
            .map_err(|_| LeafError::bad("is not a whole number from 0 to 4294967295"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": Self::MAX })
    }
}

impl FromScalar for f64 {
    fn parse(text: &str) -> Result<Self, LeafError> {
        text.parse()
            .ok()
            .filter(|number: &Self| number.is_finite())
            .ok_or_else(|| LeafError::bad("is not a number"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "number" })
    }
}

impl FromScalar for PathBuf {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        if text.is_empty() {
            return Err(LeafError::bad("is not a path"));
        }
        Ok(Self::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "title": "path", "type": "string", "minLength": 1 })
    }
}

/// An address as it is compared: IPv4 written in IPv6 (`::ffff:192.0.2.1`, RFC 4291, section 2.5.5.2)
/// is IPv4. Clients' addresses are brought into this form as well.
fn address(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .filter(|inside| inside.contains(':'))?,
        None => text,
    };
    Some(bare.parse::<IpAddr>().ok()?.to_canonical())
}

/// A network as it is compared: one of addresses that are IPv4 written in IPv6 is one of IPv4. A shorter
/// prefix around all of these (`::/0`, say) means IPv6 alone: who is known by an IPv4 address is in
/// networks of IPv4, and `0.0.0.0/0` names all of them.
fn canonical(net: IpNet) -> IpNet {
    /// The bits before the IPv4 address.
    const BEFORE: u8 = 96;
    let inside = match net {
        IpNet::V6(net) if net.prefix_len() >= BEFORE => net,
        _ => return net,
    };
    let v4 = inside.addr().to_ipv4_mapped();
    let v4 = v4.and_then(|v4| Ipv4Net::new(v4, inside.prefix_len() - BEFORE).ok());
    v4.map_or(net, IpNet::V4)
}

impl FromScalar for IpAddr {
    fn parse(text: &str) -> Result<Self, LeafError> {
        address(text).ok_or_else(|| LeafError::bad("is not an IP address"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["192.0.2.1", "2001:db8::1"] })
    }
}

impl FromScalar for IpNet {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let bad = || {
            LeafError::bad("is not a network")
                .help("write an address and a prefix length, like `10.0.0.0/8` or `2001:db8::/32`")
        };
        if !text.contains('/') {
            return address(text).map(Self::from).ok_or_else(bad);
        }
        let net: Self = text.parse().map(canonical).map_err(|_| bad())?;
        if net.trunc() != net {
            return Err(LeafError::bad("has bits set behind its prefix")
                .help(format!("did you mean `{}`?", net.trunc())));
        }
        Ok(net)
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"] })
    }
}

impl FromScalar for SocketAddr {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let address: Self = text.parse().map_err(|_| socket_address_error(text))?;
        Ok(match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => Self::new(ip, address.port()),
            IpAddr::V6(_) => address,
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["127.0.0.1:8080", "[::1]:8080"] })
    }
}

/// What is wrong with a text that should have been `IP:port`.
fn socket_address_error(text: &str) -> LeafError {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() => (host, port),
        _ => {
            return LeafError::bad("has no port").help("write `IP:port`, like `127.0.0.1:8080`");
        }
    };
    if let Ok(address) = text.parse::<IpAddr>() {
        return LeafError::bad("has no port").help(format!("write `[{address}]:8080`"));
    }
    if port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_err() {
        return LeafError::bad("has a port above 65535");
    }
    if !host.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_ok() {
        return LeafError::bad("is not an address")
            .help(format!("put IPv6 addresses in brackets: `[{host}]:{port}`"));
    }
    LeafError::bad("is not an IP address and a port").help("write `IP:port`, like `127.0.0.1:8080`")
}

impl FromScalar for Method {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let method = Self::from_bytes(text.as_bytes())
            .map_err(|_| LeafError::bad("is not an HTTP method"))?;
        let upper = text.to_ascii_uppercase();
        if text != upper {
            return Err(
                LeafError::bad("is not an HTTP method: methods are case-sensitive")
                    .help(format!("did you mean `{upper}`?")),
            );
        }
        Ok(method)
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["GET", "POST"] })
    }
}

impl FromScalar for HeaderName {
    fn parse(text: &str) -> Result<Self, LeafError> {
        text.to_ascii_lowercase()
            .parse()
            .map_err(|_| LeafError::bad("is not a header name"))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl FromScalar for HeaderValue {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        text.parse()
            .map_err(|_| LeafError::bad("cannot stand in a header"))
    }

    fn show(&self) -> String {
        String::from_utf8_lossy(self.as_bytes()).into_owned()
    }

    fn schema() -> Schema {
        String::schema()
    }
}

/// Words of which one may stand at a place, each with what it means.
macro_rules! keywords {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident { $( $(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal ),* $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $( $(#[doc = $variant_doc])+ $variant ),* }

        impl $name {
            /// Every word, in the order of the reference page.
            pub const WORDS: &'static [&'static str] = &[ $( $text ),* ];

            /// The word that the file uses.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text ),* }
            }
        }

        impl $crate::scalar::FromScalar for $name {
            const TEXT: bool = true;

            fn parse(text: &str) -> Result<Self, $crate::scalar::LeafError> {
                match text {
                    $( $text => Ok(Self::$variant), )*
                    _ => Err($crate::scalar::LeafError::unknown_word(text, Self::WORDS)),
                }
            }

            fn show(&self) -> String {
                self.as_str().to_owned()
            }

            fn schema() -> schemars::Schema {
                $crate::scalar::words_schema(&[ $( ($text, concat!($($variant_doc),+).trim()) ),* ])
            }
        }
    };
}
pub(crate) use keywords;

/// The JSON Schema of words, each with what it means. Those that look like numbers may also be
/// written as such.
pub(crate) fn words_schema(words: &[(&str, &str)]) -> Schema {
    let mut forms = Vec::new();
    for (word, meaning) in words {
        forms.push(serde_json::json!({ "const": word, "description": meaning }));
        if let Ok(number @ serde_json::Value::Number(_)) = serde_json::from_str(word) {
            forms.push(serde_json::json!({ "const": number, "description": meaning }));
        }
    }
    json_schema!({ "oneOf": forms })
}

impl LeafError {
    /// A word that is none of those allowed.
    pub fn unknown_word(text: &str, words: &[&str]) -> Self {
        let error = Self::bad(format!(
            "is not {}",
            crate::diagnostic::quoted_list(words.iter().copied())
        ));
        match crate::diagnostic::nearest(text, words.iter().copied()) {
            Some(word) => error.help(format!("did you mean `{word}`?")),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help<T: FromScalar + std::fmt::Debug>(text: &str) -> String {
        T::parse(text).unwrap_err().help.unwrap_or_default()
    }

    #[test]
    fn networks_want_clean_prefixes_and_take_single_addresses() {
        assert_eq!(
            IpNet::parse("10.0.0.0/8").unwrap().to_string(),
            "10.0.0.0/8"
        );
        assert_eq!(IpNet::parse("::1").unwrap().to_string(), "::1/128");
        assert_eq!(help::<IpNet>("10.1.0.0/8"), "did you mean `10.0.0.0/8`?");
        assert!(IpNet::parse("10.0.0.0/33").is_err());
    }

    #[test]
    fn ipv4_written_in_ipv6_is_ipv4_wherever_it_is_written() {
        let net = |text| IpNet::parse(text).map(|net| net.to_string());
        for (text, is) in [
            ("::ffff:127.0.0.1/128", "127.0.0.1/32"),
            ("::ffff:7f00:1/128", "127.0.0.1/32"),
            ("0:0:0:0:0:FFFF:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            // Everything around it is IPv6 alone, and so is what only looks like it.
            ("::/0", "::/0"),
            ("::/80", "::/80"),
            ("::fffe:0:0/95", "::fffe:0:0/95"),
            ("::10.0.0.0/104", "::a00:0/104"),
            ("64:ff9b::10.0.0.0/104", "64:ff9b::a00:0/104"),
        ] {
            assert_eq!(net(text), Ok(is.to_owned()), "{text}");
        }
        assert_eq!(
            help::<IpNet>("::ffff:10.1.0.0/104"),
            "did you mean `10.0.0.0/8`?"
        );
        let ip = |text| IpAddr::parse(text).map(|ip| ip.to_string()).ok();
        assert_eq!(ip("::ffff:192.0.2.7").as_deref(), Some("192.0.2.7"));
        assert_eq!(ip("[::ffff:192.0.2.7]").as_deref(), Some("192.0.2.7"));
        assert_eq!(ip("[2001:DB8::1]").as_deref(), Some("2001:db8::1"));
        for odd in [
            "]192.0.2.7[",
            "[192.0.2.7]",
            "[::1",
            "::1]",
            "[[::1]]",
            "fe80::1%eth0",
        ] {
            assert_eq!(ip(odd), None, "{odd}");
        }
        let socket = |text| SocketAddr::parse(text).unwrap().to_string();
        assert_eq!(socket("[::ffff:127.0.0.1]:80"), "127.0.0.1:80");
        assert_eq!(socket("[::1]:80"), "[::1]:80");
    }

    #[test]
    fn addresses_explain_what_is_missing() {
        assert!(SocketAddr::parse("[::]:80").is_ok());
        assert!(
            SocketAddr::parse("127.0.0.1:99999")
                .unwrap_err()
                .message
                .contains("65535")
        );
        assert_eq!(help::<SocketAddr>("::1"), "write `[::1]:8080`");
        assert_eq!(
            help::<SocketAddr>("2001:db8::1:80"),
            "write `[2001:db8::1:80]:8080`"
        );
        assert!(
            SocketAddr::parse("localhost")
                .unwrap_err()
                .message
                .contains("no port")
        );
    }

    #[test]
    fn booleans_and_methods_name_the_right_spelling() {
        assert_eq!(help::<bool>("yes"), "write `true`");
        assert_eq!(help::<Method>("get"), "did you mean `GET`?");
        assert_eq!(HeaderName::parse("X-Tenant").unwrap().as_str(), "x-tenant");
    }
}
