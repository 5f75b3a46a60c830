//! Tokens that say who somebody is: what a route believes of them, and whose signature.

use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderName;
use schemars::{Schema, json_schema};

use crate::decode::collections::{Entries, OneOrMany};
use crate::decode::document;
use crate::document::values::{ClaimName, Realm};
use crate::names::CookieName;
use crate::scalar::{FromScalar, LeafError, keywords};
use crate::source::At;
use crate::units::TimeSpan;

document! {
    /// JSON Web Tokens (RFC 7519), signed with a key that an issuer publishes. A request without one,
    /// or with one that does not hold, gets 401 and is told why (RFC 6750); one whose token lacks a
    /// scope or a claim gets 403. Tokens without an end (`exp`), unsigned ones (`none`) and those
    /// signed with a shared secret (HS256 and the like) are never believed.
    pub struct JwtAuth as "`jwt`" {
        /// The public keys of who signs tokens.
        pub keys: TokenKeys,
        /// Who must have issued a token (`iss`): one, or a list of those who may. Without it, whoever
        /// has one of the keys may, and `check` warns.
        pub issuer: Option<OneOrMany<At<String>>>,
        /// For whom a token must be (`aud`): one of these. Without it, tokens for anybody are taken,
        /// and `check` warns.
        pub audience: Option<OneOrMany<At<String>>>,
        /// How tokens may be signed. A key is only ever used as its kind allows.
        pub algorithms: Vec<At<TokenAlgorithm>> = "[RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]",
        /// How far the clocks of issuers and of this machine may be apart: at most 10m.
        pub leeway: At<TimeSpan> = "60s",
        /// Where the token stands: `{ header: X-Token }` or `{ cookie: session }`. By default in
        /// `Authorization: Bearer`.
        pub from: TokenPlace = "{}",
        /// Scopes that a token must have, all of them (in its `scope`, or in `scp`).
        pub scopes: Vec<At<ScopeName>>,
        /// Claims that a token must have, all of them: each with this value, or with one of these. A
        /// claim with several values needs to have one of them.
        pub claims: Entries<ClaimName, OneOrMany<At<String>>>,
        /// Claims that endpoints get, each with the header in which they do. What clients send under
        /// these headers is taken off.
        pub headers: Entries<ClaimName, At<HeaderName>>,
        /// What clients are told the route belongs to.
        pub realm: At<Realm> = "restricted",
    }
}

document! {
    /// Public keys, as a JSON Web Key Set (RFC 7517): of a file, or of a URL.
    pub struct TokenKeys as "`keys`" {
        /// A file. It is watched; keys that can be used replace the ones before at once, and a file
        /// that cannot be used never does.
        pub file: Option<At<PathBuf>>,
        /// Where the issuer publishes them: https, or http on this machine. Routes with the same URL
        /// share what comes. Until it has come for the first time, requests get 503; when it cannot be
        /// had later, the keys before go on.
        pub url: Option<At<KeysUrl>>,
        /// Trust these certificates (PEM) for the URL, and not those of the system.
        pub ca: Option<At<PathBuf>>,
        /// How often the URL is asked: 1s to 7d. A token that names a key that nobody knows has it
        /// asked sooner, but never twice within 10 s.
        pub refresh: At<TimeSpan> = "5m",
        /// How long the URL may take to answer: at most 1m.
        pub timeout: At<TimeSpan> = "5s",
    }
}

document! {
    /// Where a token stands in a request.
    pub struct TokenPlace as "`from`" {
        /// In this header, alone or behind `Bearer`.
        pub header: Option<At<HeaderName>>,
        /// In this cookie. Of several of that name it is the first that is accepted, wherever it
        /// stands; endpoints that are to get it (`forward_authorization`) get no other.
        pub cookie: Option<At<CookieName>>,
    }
}

keywords! {
    /// How a token is signed (RFC 7518, section 3.1; RFC 8037).
    pub enum TokenAlgorithm {
        /// RSA (PKCS #1 v1.5) with SHA-256.
        Rs256 = "RS256",
        /// RSA (PKCS #1 v1.5) with SHA-384.
        Rs384 = "RS384",
        /// RSA (PKCS #1 v1.5) with SHA-512.
        Rs512 = "RS512",
        /// RSA (PSS) with SHA-256.
        Ps256 = "PS256",
        /// RSA (PSS) with SHA-384.
        Ps384 = "PS384",
        /// RSA (PSS) with SHA-512.
        Ps512 = "PS512",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        Es384 = "ES384",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

/// Where keys are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysUrl(Arc<str>);

impl KeysUrl {
    /// The shared text.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromScalar for KeysUrl {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        let bad = || LeafError::bad("is not a URL");
        let uri: http::Uri = text.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        let host = authority.host();
        if host.is_empty() {
            return Err(bad());
        }
        if authority.as_str().contains('@') {
            return Err(LeafError::bad("has a user in it"));
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let here = host == "localhost"
            || bare
                .parse()
                .is_ok_and(|address: std::net::IpAddr| address.is_loopback());
        match uri.scheme_str() {
            Some("https") => Ok(Self(text.into())),
            Some("http") if here => Ok(Self(text.into())),
            Some("http") => Err(LeafError::bad("is not https")
                .help("whoever is on the way could put keys of their own in the place of these")),
            _ => Err(bad()),
        }
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["https://id.example.com/.well-known/jwks.json"] })
    }
}

/// A scope (RFC 6749, section 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeName(Arc<str>);

impl ScopeName {
    /// The shared text.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromScalar for ScopeName {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        let part = |b: u8| (b'!'..=b'~').contains(&b) && !matches!(b, b'"' | b'\\');
        if text.is_empty() || !text.bytes().all(part) {
            return Err(LeafError::bad("is not a scope")
                .help("a scope has no spaces, quotes or backslashes; several are a list"));
        }
        Ok(Self(text.into()))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "pattern": "^[!#-\\[\\]-~]+$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_where_nobody_can_replace_them() {
        for good in [
            "https://id.example.com/jwks.json",
            "http://localhost:8080/keys",
            "http://127.0.0.1/keys",
            "http://[::1]:80/keys",
        ] {
            assert_eq!(KeysUrl::parse(good).unwrap().show(), good);
        }
        for bad in [
            "id.example.com",
            "ftp://id.example.com/",
            "http://id.example.com/keys",
            "http://10.0.0.1/keys",
            "https://user:password@id.example.com/",
            "https:///keys",
            "",
        ] {
            assert!(KeysUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_what_can_be_said() {
        assert!(ClaimName::parse("https://example.com/roles").is_ok());
        assert!(ClaimName::parse("/realm_access/roles").is_ok());
        assert!(ClaimName::parse("").is_err() && ClaimName::parse("a\nb").is_err());
        assert!(ScopeName::parse("orders:read").is_ok());
        for bad in ["", "a b", "a\"", "ä"] {
            assert!(ScopeName::parse(bad).is_err(), "{bad}");
        }
    }
}
