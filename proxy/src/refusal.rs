//! Requests that Portolan answers itself: why, and with what.

use http::StatusCode;

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request could be read in two ways, or not at all.
    Malformed,
    /// The head says in two ways how long the body is, or in none that can be relied upon.
    AmbiguousLength,
    /// The host is missing, given twice, or not one.
    BadHost,
    /// A path that could be read in two ways.
    BadPath,
    /// The target is longer than the listener allows.
    UriTooLong,
    /// The headers are larger than the listener allows, or more.
    HeadersTooLarge,
    /// The headers took longer than the listener allows.
    HeadersTooSlow,
    /// The body is larger than the listener allows.
    BodyTooLarge,
    /// The body came more slowly than the listener allows.
    BodyTooSlow,
    /// A method that no proxy of this kind passes on.
    MethodNotAllowed,
    /// No route takes it.
    NoRoute,
    /// The certificate shown on this connection is not the one for this host.
    WrongCertificate,
    /// No pool can take it.
    NobodyCanServe,
    /// Refused on purpose: the share of a dead member that is shed.
    Shed,
    /// The route says what to answer when no pool can serve.
    AllDown(u16),
    /// No endpoint could be reached.
    Unreachable,
    /// An endpoint's answer was not HTTP, or was cut short before it began.
    Broken,
    /// Nothing came in time.
    TooSlow,
    /// Something went wrong within Portolan.
    Internal,
}

impl Refusal {
    /// The status that says so.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::AmbiguousLength | Self::BadHost | Self::BadPath => {
                StatusCode::BAD_REQUEST
            }
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadersTooSlow | Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::WrongCertificate => StatusCode::MISDIRECTED_REQUEST,
            Self::NobodyCanServe | Self::Shed => StatusCode::SERVICE_UNAVAILABLE,
            Self::AllDown(status) => {
                StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Unreachable | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::TooSlow => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What a human is told. Never an internal address, never a pool's name.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::Malformed => "The request is malformed.",
            Self::AmbiguousLength => "How long the request's body is cannot be told for certain.",
            Self::BadHost => "The request's host is missing or ambiguous.",
            Self::BadPath => "The request's path is malformed or ambiguous.",
            Self::UriTooLong => "The request's target is too long.",
            Self::HeadersTooLarge => "The request's headers are too large.",
            Self::HeadersTooSlow => "The request's headers took too long.",
            Self::BodyTooLarge => "The request's body is too large.",
            Self::BodyTooSlow => "The request's body took too long.",
            Self::MethodNotAllowed => "This method is not passed on.",
            Self::NoRoute => "Nothing is served under this address.",
            Self::WrongCertificate => {
                "This connection was made for another host; open a new one for this host."
            }
            Self::NobodyCanServe | Self::Shed | Self::AllDown(_) => {
                "The service cannot take the request now."
            }
            Self::Unreachable => "The service could not be reached.",
            Self::Broken => "The service's answer was broken.",
            Self::TooSlow => "The service took too long to answer.",
            Self::Internal => "Something went wrong.",
        }
    }

    /// The label in metrics and logs.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::AmbiguousLength => "ambiguous_length",
            Self::BadHost => "bad_host",
            Self::BadPath => "bad_path",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::HeadersTooSlow => "headers_too_slow",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooSlow => "body_too_slow",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NoRoute => "no_route",
            Self::WrongCertificate => "wrong_certificate",
            Self::NobodyCanServe => "nobody_can_serve",
            Self::Shed => "shed",
            Self::AllDown(_) => "all_down",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
            Self::TooSlow => "too_slow",
            Self::Internal => "internal",
        }
    }
}
