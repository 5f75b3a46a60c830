//! Connections to endpoints, by what is spoken on them.

use crate::upstream::connect::http2::connection::Slot;
use crate::upstream::connect::stream::EndpointStream;

/// A connection, or a place on one, for a request.
#[derive(Debug)]
pub(crate) enum Connected {
    H1(EndpointStream),
    H2(Slot),
}

/// A connection that was made, by what is spoken on it.
pub(crate) enum Opened {
    H1(EndpointStream),
    H2(EndpointStream),
}
