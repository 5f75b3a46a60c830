//! What browsers are told, ready to be sent.

use http::{HeaderName, HeaderValue};

use crate::document::OriginPattern;

/// What browsers are told about the answers of a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BrowserPlan {
    /// Strict-Transport-Security, over TLS.
    pub hsts: Option<HeaderValue>,
    /// Headers that make them careful.
    pub security: Vec<(HeaderName, HeaderValue)>,
    /// Those also instead of what the endpoint says.
    pub overwrite: bool,
    /// Which other sites may ask.
    pub cors: Option<Box<CorsPlan>>,
}

/// Which other sites may ask.
#[derive(Clone, Debug, PartialEq)]
pub struct CorsPlan {
    origins: Vec<OriginPattern>,
    any: bool,
    /// For Access-Control-Allow-Methods.
    pub methods: HeaderValue,
    /// For Access-Control-Allow-Headers.
    pub headers: Option<HeaderValue>,
    /// For Access-Control-Expose-Headers.
    pub expose: Option<HeaderValue>,
    /// Whether browsers send cookies along.
    pub credentials: bool,
    /// For Access-Control-Max-Age.
    pub max_age: HeaderValue,
}

impl CorsPlan {
    pub(crate) fn new(cors: &crate::document::Cors) -> Self {
        let list = |words: Vec<&str>| HeaderValue::try_from(words.join(", ")).ok();
        let names = |names: &[crate::source::At<HeaderName>]| {
            let words: Vec<&str> = names.iter().map(|name| name.value.as_str()).collect();
            (!words.is_empty()).then(|| list(words)).flatten()
        };
        let origins: Vec<OriginPattern> = cors.origins.iter().map(|o| o.value.clone()).collect();
        Self {
            any: origins.contains(&OriginPattern::Any),
            origins,
            methods: list(cors.methods.iter().map(|m| m.value.as_str()).collect())
                .unwrap_or(HeaderValue::from_static("")),
            headers: names(&cors.headers),
            expose: names(&cors.expose),
            credentials: cors.credentials.value,
            max_age: HeaderValue::from(cors.max_age.value.duration().as_secs()),
        }
    }

    /// What Access-Control-Allow-Origin says to a site; nothing if it may not ask.
    pub fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        if self.any {
            return Some(HeaderValue::from_static("*"));
        }
        let text = origin.to_str().ok()?;
        self.origins
            .iter()
            .any(|pattern| pattern.matches(text))
            .then(|| origin.clone())
    }

    /// Whether answers depend on who asks.
    pub fn varies(&self) -> bool {
        !self.any
    }
}
