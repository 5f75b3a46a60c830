//! A client's connection: its socket or the TLS over it, and what was read and is to be written.
//!
//! Over HTTP/1.1 the head of a request is read here as a whole, with its deadlines, before anybody
//! sees it ([`crate::http::http1::request`]); the rest is the [`crate::downstream`]'s. Over HTTP/2 the
//! frames are looked at on their way ([`http2`]).

mod behind;
pub(crate) mod carried;
pub(crate) mod client_certificate;
pub(crate) mod context;
pub(crate) mod entry;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod http2;
mod presence;
mod stall;
mod waiting;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::BytesMut;
use portolan_config::plan::LimitsPlan;
use portolan_control::refusal::Refusal;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

use self::presence::Presence;
use self::stall::Stall;
use crate::connection::context::ConnectionContext;
use crate::connection::entry::LedgerEntry;
use crate::http::buffer_pool;
use crate::http::http1::request;
use crate::http::http1::request::Head;
use crate::http::http2_frames::H2_PREFACE;
use crate::http::write_buffer::WriteBuffer;
use crate::timer::Timer;

pub(crate) use self::frames::Bodies;
pub(crate) use self::stall::WRITE_STALL;
pub(crate) use self::waiting::Waiting;

/// How much is read at a time.
const READ_SIZE: usize = 8 << 10;

/// How much is read at a time from a client of which nothing is expected.
const PEEK_SIZE: usize = 512;

/// How long a client that could send more is not read before it is looked whether it is still there:
/// most are read again long before.
const NOT_READ: Duration = Duration::from_millis(500);

/// How long a client that was told to go away may take to read that.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(2);

/// The socket, or TLS over it.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    transport: Transport,
    /// Read, and not yet taken.
    pub(crate) read: BytesMut,
    /// To be written.
    pub(crate) outgoing: WriteBuffer,
    /// Written, and perhaps not sent.
    unflushed: bool,
    /// Waiting for the client to take what it is sent.
    stall: Stall,
    /// The client has half-closed the connection, and all that it sent was read.
    ended: bool,
    /// Waiting until the client is read again.
    unread: Waiting,
    /// The socket, while it is watched.
    presence: Option<Presence>,
    /// The next deadline of whatever is under way.
    pub(crate) timer: Timer,
    context: Arc<ConnectionContext>,
    /// The request whose head is being read.
    entry: Option<LedgerEntry>,
}

/// Why no request came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoRequest {
    /// The client has closed the connection, or it broke.
    Closed,
    /// Nothing came for as long as a connection may be idle.
    Idle,
    /// What came must be refused.
    Refused(Refusal),
}

/// How long an idle connection may go on waiting.
pub(crate) trait Patience {
    /// When it is to end if nothing has come by then; none as long as nobody asks it to. The task is
    /// woken when that changes.
    fn ends(&mut self, cx: &mut Context<'_>) -> Option<Instant>;
}

impl Connection {
    /// A connection over this transport. What it speaks is found out, not assumed.
    pub(crate) fn new(transport: Transport, context: Arc<ConnectionContext>) -> Self {
        Self {
            transport,
            read: BytesMut::new(),
            outgoing: WriteBuffer::default(),
            unflushed: false,
            stall: Stall::default(),
            ended: false,
            unread: Waiting::default(),
            presence: None,
            timer: Timer::default(),
            context,
            entry: None,
        }
    }

    /// Whom it is with.
    pub(crate) fn context(&self) -> &Arc<ConnectionContext> {
        &self.context
    }

    /// Whether something has come that nobody has taken yet.
    pub(crate) fn has_begun(&self) -> bool {
        !self.read.is_empty()
    }

    /// Whether it began to be HTTP/2 and nothing else. No method of HTTP/1.1 is `PRI`, and what is
    /// shorter may become one.
    pub(crate) fn is_half_preface(&self) -> bool {
        self.read.starts_with(b"PRI ") && H2_PREFACE.starts_with(&self.read)
    }

    /// Finds out what the client speaks: over TLS it has said so, otherwise HTTP/2 begins with its
    /// preface. Reads no more than it takes to know.
    pub(crate) async fn find_out(&mut self) -> Result<Speaks, NoRequest> {
        if let Transport::Tls(tls) = &self.transport {
            return Ok(match tls.get_ref().1.alpn_protocol() {
                Some(b"h2") => Speaks::Http2,
                _ => Speaks::Http1,
            });
        }
        loop {
            let have = self.read.len().min(H2_PREFACE.len());
            if self.read[..have] != H2_PREFACE[..have] {
                return Ok(Speaks::Http1);
            }
            if have == H2_PREFACE.len() {
                return Ok(Speaks::Http2);
            }
            match std::future::poll_fn(|cx| self.poll_fill(cx, READ_SIZE)).await {
                Ok(0) | Err(_) => return Err(NoRequest::Closed),
                Ok(_) => {}
            }
        }
    }

    /// Waits until the head of the next request is there as a whole: as long as a connection may be
    /// idle until it begins, and as long as a head may take from then on. The `first` request of a
    /// connection has begun when the connection has.
    pub(crate) async fn next_request(
        &mut self,
        limits: &LimitsPlan,
        first: bool,
        patience: &mut impl Patience,
    ) -> Result<Head, NoRequest> {
        let mut seen = 0;
        let mut begun = false;
        // On a new connection a client has something to say.
        let mut until = Instant::now()
            + if first {
                limits.header_timeout
            } else {
                limits.idle_timeout
            };
        std::future::poll_fn(|cx| {
            loop {
                if self.read.len() > seen {
                    self.accept();
                    match request::take(&mut self.read, &mut seen, limits) {
                        Ok(Some(head)) => return Poll::Ready(Ok(head)),
                        Ok(None) if !std::mem::replace(&mut begun, true) && !first => {
                            until = Instant::now() + limits.header_timeout;
                        }
                        Ok(None) => {}
                        Err(refusal) => return Poll::Ready(Err(NoRequest::Refused(refusal))),
                    }
                }
                match self.poll_fill(cx, READ_SIZE) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(NoRequest::Closed)),
                    Poll::Ready(Ok(_)) => {}
                }
            }
            let ends = patience.ends(cx).filter(|_| !begun);
            let until = ends.map_or(until, |ends| ends.min(until));
            if !self.timer.poll(cx, until) {
                return Poll::Pending;
            }
            Poll::Ready(Err(if begun {
                NoRequest::Refused(Refusal::HeadersTooSlow)
            } else {
                NoRequest::Idle
            }))
        })
        .await
    }

    /// A request is accepted with its first byte. Empty lines before it are nobody's.
    pub(crate) fn accept(&mut self) {
        let begun = || self.read.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        if self.entry.is_none() && begun() {
            self.entry = Some(LedgerEntry::open(self.context.clone(), "HTTP/1.1"));
        }
    }

    /// The request that was accepted, for whoever goes on with it.
    pub(crate) fn take_entry(&mut self) -> Option<LedgerEntry> {
        self.entry.take()
    }

    /// Reads more, so much at most. Ready with how much that was.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        if room <= buffer_pool::SIZE && self.read.capacity() == 0 {
            self.read = buffer_pool::take();
        }
        self.read.reserve(room);
        let read = poll_read_buf(Pin::new(&mut self.transport), cx, &mut self.read);
        if read.is_pending() && self.read.is_empty() {
            // An idle connection holds no buffer.
            buffer_pool::put(std::mem::take(&mut self.read));
        }
        read
    }

    /// Whether a client that is to say nothing for the moment is gone; it may send its next request
    /// already. What is read is kept. A client that has half-closed the connection (by FIN, over TLS by
    /// close_notify) still waits for its answer.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            if !self.read.is_empty() {
                // Whether it is still there shows when its answer is written.
                return Poll::Pending;
            }
            if self.ended {
                return self.poll_broken(cx);
            }
            let mut room = [0; PEEK_SIZE];
            let mut room = ReadBuf::new(&mut room);
            match ready!(Pin::new(&mut self.transport).poll_read(cx, &mut room)) {
                Ok(()) if room.filled().is_empty() => self.ended = true,
                Ok(()) => self.read.extend_from_slice(room.filled()),
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    /// Whether the client has half-closed the connection.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Ready when the connection broke.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.watched() {
            Some(presence) => presence.poll_broken(cx),
            None => Poll::Pending,
        }
        .map(|()| io::ErrorKind::ConnectionReset.into())
    }

    /// Ready when a client has not been read for so long that it may be gone by now.
    pub(crate) fn poll_unread(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.unread.poll_longer_than(cx, NOT_READ) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Ready when a client that is not read for the moment will send nothing more than what it has
    /// sent: then that may as well be read.
    pub(crate) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.watched() {
            Some(presence) => presence.poll_silent(cx),
            None => Poll::Pending,
        }
    }

    /// The client is read again: its socket need not be watched beside that.
    pub(crate) fn is_read(&mut self) {
        self.unread.over();
        self.presence = None;
    }

    /// Watches the socket, if there is a descriptor left for that.
    fn watched(&mut self) -> Option<&mut Presence> {
        if self.presence.is_none() {
            let socket = match &self.transport {
                Transport::Plain(stream) => stream,
                Transport::Tls(stream) => stream.get_ref().0,
            };
            self.presence = Presence::of(socket).ok();
        }
        self.presence.as_mut()
    }

    /// Sends what there is to be sent.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = self.outgoing.poll_write(cx, Pin::new(&mut self.transport));
            if ready!(self.unless_stalled(cx, written))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
        }
        if self.unflushed {
            // Over TLS, what was written may still wait here for the client to take it.
            let flushed = Pin::new(&mut self.transport).poll_flush(cx);
            ready!(self.unless_stalled(cx, flushed))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// What became of a write, unless the client has taken nothing for too long: then the connection is
    /// closed.
    fn unless_stalled<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let refused = &self.context.totals.refused_connections;
        self.stall
            .check(cx, written, || refused.one("write_stalled"))
    }

    /// Says no more; the client may.
    pub(crate) fn poll_half_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    /// Ends the connection. A client that `may_send` more is heard for a while, so that it can read
    /// our last answer: closing while it still sends would make its system throw the answer away
    /// (RFC 9112, section 9.6).
    pub(crate) async fn close(&mut self, may_send: bool) {
        const MOST: usize = 1 << 20;
        let closing = async {
            let _ = std::future::poll_fn(|cx| self.poll_half_close(cx)).await;
            let mut read = 0;
            while may_send && read < MOST {
                self.read.clear();
                match std::future::poll_fn(|cx| self.poll_fill(cx, READ_SIZE)).await {
                    Ok(0) | Err(_) => return,
                    Ok(more) => read += more,
                }
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, closing).await;
    }

    /// Writes some last words and ends the connection.
    pub(crate) async fn end_with(&mut self, words: Vec<u8>) {
        self.outgoing.put(words.into());
        self.close(true).await;
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, out),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

impl Drop for Connection {
    /// An answer that breaks off goes as far as it got: what was collected is sent, unless the
    /// client would have to be waited for.
    fn drop(&mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        let _ = self.poll_send(&mut nobody);
    }
}
