//! Requests that are answered with the address to ask instead.

use schemars::{Schema, json_schema};

use crate::decode::document;
use crate::document::values::UrlPath;
use crate::scalar::{FromScalar, LeafError, keywords};
use crate::source::At;

document! {
    /// Send clients to another address instead of serving them: it stands in the answer's Location.
    /// What is not said here stays as the client asked for it.
    pub struct Redirect as "`redirect`" {
        /// The status, which says for how long and with which method clients ask the new address.
        pub status: At<RedirectStatus> = "307",
        /// The scheme of the new address. By default the one that the client used, as far as Portolan
        /// or a trusted proxy before it can tell.
        pub scheme: Option<At<RedirectScheme>>,
        /// The host of the new address, with a port if it is not the scheme's own: `www.example.com`,
        /// `[2001:db8::1]:8443`.
        pub host: Option<At<RedirectHost>>,
        /// The whole path of the new address.
        pub path: Option<At<UrlPath>>,
        /// What stands in the new path instead of the prefix in the route's `path`: with `/new`,
        /// a route for `/old` sends `/old/x` to `/new/x`. Instead of `path`.
        pub prefix: Option<At<UrlPath>>,
        /// Leave out the query.
        pub strip_query: At<bool> = "false",
    }
}

keywords! {
    /// How a redirect is meant (RFC 9110, section 15.4).
    pub enum RedirectStatus {
        /// For good; browsers make GET of POST.
        MovedPermanently = "301",
        /// For now; browsers make GET of POST.
        Found = "302",
        /// The answer to this request stands there: ask with GET.
        SeeOther = "303",
        /// For now, with the same method.
        Temporary = "307",
        /// For good, with the same method.
        Permanent = "308",
    }
}

keywords! {
    /// The scheme of an address.
    pub enum RedirectScheme {
        /// In clear text.
        Http = "http",
        /// Over TLS.
        Https = "https",
    }
}

/// A host with a port or without, as it stands in an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectHost(String);

impl RedirectHost {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromScalar for RedirectHost {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let bad = || {
            LeafError::bad("is not a host")
                .help("write a host and perhaps a port: `www.example.com`, `www.example.com:8443`")
        };
        let authority: http::uri::Authority = text.parse().map_err(|_| bad())?;
        let host = authority.host();
        let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let sound = match address {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
                !host.is_empty() && host.bytes().all(letter)
            }
        };
        let port = match &text[host.len().min(text.len())..] {
            "" => true,
            port => port
                .strip_prefix(':')
                .is_some_and(|port| port.parse::<u16>().is_ok_and(|number| number > 0)),
        };
        if !sound || !port || !text.starts_with(host) {
            return Err(bad());
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}
