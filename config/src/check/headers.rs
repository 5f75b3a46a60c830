//! Headers that belong to Portolan.

/// Headers that belong to the connection or to the framing of the message: Portolan writes them.
pub(crate) const PROTECTED: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];
