//! What is asked of `explain`: a request that nobody has sent.

use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use portolan_config::fields::Fields;
use portolan_config::plan::LocationId;

/// A request that nobody has sent.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The client's address, if it matters.
    pub client: Option<IpAddr>,
    /// The client's place, if it is not to be looked up.
    pub place: Option<LocationId>,
    /// The client's autonomous system, if it is not to be looked up.
    pub system: Option<u32>,
    /// The host asked for.
    pub host: &'a str,
    /// The path asked for, without a query.
    pub path: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a Fields,
    /// How it comes in, if a listener is to be asked as well.
    pub entrance: Option<Entrance>,
    /// The time since 1970, where tokens are to be judged by it.
    pub now: Option<Duration>,
}

/// A question as people ask it: with a URL.
#[derive(Clone, Debug)]
pub struct Asked {
    client: Option<IpAddr>,
    host: String,
    path: String,
    method: Method,
    headers: Fields,
    entrance: Entrance,
}

impl Asked {
    /// Reads what somebody typed.
    ///
    /// # Errors
    /// What of it cannot be read.
    pub fn new<'a>(
        client: Option<IpAddr>,
        method: &str,
        url: &str,
        headers: impl IntoIterator<Item = (&'a String, &'a String)>,
    ) -> Result<Self, String> {
        let bad_url = || format!("`{url}` is not a URL like https://api.example.com/v1");
        let uri: http::Uri = url.parse().map_err(|_| bad_url())?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad_url()),
        };
        let authority = uri.authority().ok_or_else(bad_url)?;
        // Clients keep what stands before the `@` to themselves.
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        let usual = if secure { 443 } else { 80 };
        let port = match authority.port() {
            Some(_) => authority.port_u16().ok_or_else(bad_url)?,
            None => usual,
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let entrance = Entrance {
            secure,
            port,
            target_bytes: target.len(),
        };
        let mut map = Fields::new();
        for (name, value) in headers {
            let name: http::HeaderName = name
                .parse()
                .map_err(|_| format!("`{name}` is not a header name"))?;
            let value = value
                .parse()
                .map_err(|_| format!("`{value}` is not a header value"))?;
            map.append(name, value);
        }
        Ok(Self {
            client: client.map(|client| client.to_canonical()),
            host: host.to_owned(),
            path: uri.path().to_owned(),
            method: method
                .parse()
                .map_err(|_| format!("`{method}` is not a method"))?,
            headers: map,
            entrance,
        })
    }

    /// The question.
    pub fn question(&self) -> Question<'_> {
        Question {
            client: self.client,
            place: None,
            system: None,
            host: &self.host,
            path: &self.path,
            method: &self.method,
            headers: &self.headers,
            entrance: Some(self.entrance),
            now: None,
        }
    }
}

/// How a request comes in.
#[derive(Clone, Copy, Debug)]
pub struct Entrance {
    /// Over TLS: its URL begins with `https`.
    pub secure: bool,
    /// The port of its URL.
    pub port: u16,
    /// How long its target is, path and query.
    pub target_bytes: usize,
}
