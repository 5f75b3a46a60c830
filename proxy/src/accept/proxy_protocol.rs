//! Connections that somebody passes on: the PROXY protocol header they begin with, read before
//! anything else.

use std::io;
use std::time::Duration;

use portolan_config::plan::ClientIpPlan;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::proxy_protocol::{Addresses, Parsed, parse};

/// How far is looked ahead: further than any line goes.
const AHEAD: usize = 256;

/// Why a connection is closed that had to begin with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotProxied {
    /// Whoever passes it on may not say for whom.
    Untrusted,
    /// It begins with something else, or ends before the header does.
    Malformed,
    /// The header did not come in time.
    TooSlow,
}

impl NotProxied {
    /// The label in metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Untrusted => "proxy_header_untrusted",
            Self::Malformed => "proxy_header_malformed",
            Self::TooSlow => "proxy_header_too_slow",
        }
    }
}

/// Reads the header, and nothing behind it. Without addresses, the connection is the peer's own.
///
/// # Errors
/// When the connection is to be closed.
pub(crate) async fn header(
    stream: &mut TcpStream,
    trusted: &ClientIpPlan,
    limit: Duration,
) -> Result<Option<Addresses>, NotProxied> {
    let peer = stream.peer_addr().map_err(|_| NotProxied::Malformed)?;
    if !trusted.trusts(peer.ip().to_canonical()) {
        return Err(NotProxied::Untrusted);
    }
    match tokio::time::timeout(limit, read(stream)).await {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(_)) => Err(NotProxied::Malformed),
        Err(_) => Err(NotProxied::TooSlow),
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Option<Addresses>> {
    let mut header = Vec::with_capacity(128);
    let mut ahead = [0; AHEAD];
    loop {
        match parse(&header).map_err(io::Error::other)? {
            Parsed::Whole(_, addresses) => return Ok(addresses),
            Parsed::Partial(missing) => {
                // A line says only at its end that it is over. What is there is looked at before it
                // is taken, since what follows belongs to TLS or HTTP.
                let have = stream.peek(&mut ahead).await?;
                if have == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let line_end = memchr::memchr(b'\n', &ahead[..have]).map(|at| at + 1);
                let take = if header.first().or(ahead.first()) == Some(&b'P') {
                    line_end.unwrap_or(have)
                } else {
                    have.min(missing)
                };
                let begin = header.len();
                header.resize(begin + take, 0);
                stream.read_exact(&mut header[begin..]).await?;
            }
        }
    }
}
