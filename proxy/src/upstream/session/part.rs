//! What comes over a connection to an endpoint, part by part.

use bytes::Bytes;
use http::HeaderMap;

/// How long a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is none.
    None,
    /// The client said.
    Known(u64),
    /// Nobody knows until it ends.
    Unknown,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another head: this was an interim one.
    Interim,
    /// Nothing.
    Nothing,
    /// The answer's body.
    Body,
    /// Whatever both sides have to say: the connection was upgraded.
    Upgraded,
}

/// A part of an answer's body.
#[derive(Debug)]
pub(crate) enum Part {
    /// Some of it, and whether it is known to be the last.
    Body(Bytes, bool),
    /// What comes behind it; nothing comes behind that.
    Trailers(HeaderMap),
    /// It is over.
    End,
}

/// What an error means for a request that was begun and is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It was certainly not processed. `useful`: others were, on the same connection.
    Unprocessed { useful: bool },
    /// It is the connection: a kept one may have been closed meanwhile, or the endpoint has too much to do
    /// with it.
    Stale,
    /// Its head is more than the endpoint takes.
    TooLarge,
    /// Nobody knows.
    Perhaps,
}
