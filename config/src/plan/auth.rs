//! Who somebody is.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::document::PasswordHash;

/// What a route asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthPlan {
    /// Names and passwords.
    pub basic: BasicPlan,
    /// In which endpoints get the user's name.
    pub user_header: Option<HeaderName>,
    /// Whether endpoints get the request's Authorization.
    pub forward_authorization: bool,
}

/// Names and passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicPlan {
    /// Every user with the hash of the password.
    pub users: Vec<(Arc<str>, PasswordHash)>,
    /// For WWW-Authenticate.
    pub challenge: HeaderValue,
}
