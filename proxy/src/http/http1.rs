//! HTTP/1.1 as it is on the wire, read strictly: what can be read in one way only passes, from clients
//! and from endpoints alike.
//!
//! [`request`] and [`answer`] read heads, from their [`lines`] and what these say about the [`framing`];
//! [`body`] reads what follows them; [`mod@write`] writes heads.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod lines;
pub(crate) mod request;
pub(crate) mod write;

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    /// Something about its head.
    #[error("its head: {0}")]
    Head(&'static str),
    /// Something about its body.
    #[error("its body: {0}")]
    Body(&'static str),
    /// The connection ended before the message did.
    #[error("it ended too early")]
    CutShort,
}
