//! Values that several sections of the document share.

use std::sync::Arc;

use schemars::{Schema, json_schema};

use crate::scalar::{FromScalar, LeafError};

/// The name of a claim; one that begins with `/` is a JSON pointer (RFC 6901) to a claim within
/// another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimName(Arc<str>);

impl ClaimName {
    /// The shared text.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl FromScalar for ClaimName {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        if text.is_empty() || text == "/" || text.chars().any(char::is_control) {
            return Err(LeafError::bad("is not a claim's name")
                .help("write a name like `sub`, or a path like `/realm_access/roles`"));
        }
        Ok(Self(text.into()))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1 })
    }
}

/// A path of a URL: begins with a slash, has no query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UrlPath(String);

impl UrlPath {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromScalar for UrlPath {
    fn parse(text: &str) -> Result<Self, LeafError> {
        if !text.starts_with('/') {
            return Err(LeafError::bad("does not begin with a slash")
                .help(format!("did you mean `/{text}`?")));
        }
        if text.contains(['?', '#']) {
            return Err(LeafError::bad("has a query")
                .help("routes match the path alone; use `headers` for other properties"));
        }
        if text.contains('*') {
            return Err(LeafError::bad("has a `*`, which paths take literally")
                .help("a path is a prefix already; for more, write `{ regex: … }`"));
        }
        if text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(LeafError::bad("has characters that no path can have"));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^/" })
    }
}

/// What browsers show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm(String);

impl Realm {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromScalar for Realm {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        let plain = |b: u8| (b' '..=b'~').contains(&b) && !matches!(b, b'"' | b'\\');
        if !text.bytes().all(plain) {
            return Err(LeafError::bad("cannot be sent as it is")
                .help("use printable ASCII without quotes and backslashes"));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string" })
    }
}
