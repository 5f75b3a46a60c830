//! A client's connection, as the engine reads and writes it.
//!
//! Between the socket (or its TLS) and the engine stands a buffer of our own. Reading: the engine
//! gets one request's bytes at a time, after the head as a whole has passed (see [`head`]). Writing:
//! small writes are collected until the engine flushes, or until it has nothing more to write for
//! the moment.

mod frames;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod head;
mod waiting;

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf as _, BytesMut};
use pingora::http::ResponseHeader;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::{ALPN, SslDigest};
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use portolan_config::plan::LimitsPlan;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

use self::frames::{Frames, Refused};
pub(crate) use self::framing::Framing;
pub(crate) use self::head::is_host;
use self::head::{Scan, scan};
use self::waiting::Waiting;
use crate::body_rate::BodyRate;
use crate::context::ConnectionContext;
use crate::ledger::Entry;
use crate::refusal::Refusal;

/// What HTTP/2 connections begin with (RFC 9113, section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is read at a time.
const READ_SIZE: usize = 8 << 10;

/// Writes up to this size are collected; larger ones go out at once.
const COLLECT: usize = 16 << 10;

/// How long a client may take nothing of what it is sent.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// How long a client that was told to go away may take to read that.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
    speaks: Speaks,
    /// Read, and not yet given to the engine.
    read: BytesMut,
    /// Bytes of `read` that belong to the head the engine has not had yet.
    head: usize,
    /// The framing of what follows the head.
    framing: Framing,
    /// Written by the engine, and not yet sent.
    write: BytesMut,
    /// The frames of HTTP/2.
    frames: Option<Box<Frames>>,
    /// The client was told to go away for what it did: nothing of it reaches the engine any more,
    /// nor the other way round.
    ending: Option<Waiting>,
    /// How fast a body must come, and how it does.
    min_body_rate: Option<u64>,
    body_rate: BodyRate,
    /// Waiting for more of a body, and for the client to take what it is sent.
    body: Waiting,
    stall: Waiting,
    /// The engine has polled for reading since its last write: it waits for something.
    waited: bool,
    context: Arc<ConnectionContext>,
    /// The request whose head is being read.
    entry: Option<Entry>,
    proxy_digest: Arc<ProxyDigest>,
    socket_digest: Arc<SocketDigest>,
    /// Set by whoever sees the response that upgrades the connection.
    upgraded: Arc<AtomicBool>,
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

impl Connection {
    /// A connection over this transport. What it speaks is found out, not assumed.
    pub(crate) fn new(transport: Transport, context: Arc<ConnectionContext>) -> Self {
        let upgraded = context.upgraded.clone();
        let response = ResponseHeader::build(200, Some(0));
        // The engine carries a value of ours with every request, but only beside the answer of a
        // proxy behind which the client is. There is none: the answer is made up.
        let proxy_digest = Arc::new(ProxyDigest::new(
            Box::new(response.expect("200 is a status")),
            Some(Box::new(context.clone())),
        ));
        let socket_digest = SocketDigest::from_raw_fd(raw_fd(&transport));
        let _ = socket_digest.peer_addr.set(Some(context.peer.into()));
        let _ = socket_digest.local_addr.set(Some(context.local.into()));
        Self {
            transport,
            speaks: Speaks::Http1,
            read: BytesMut::new(),
            head: 0,
            framing: Framing::NONE,
            write: BytesMut::new(),
            frames: None,
            ending: None,
            min_body_rate: None,
            body_rate: BodyRate::default(),
            body: Waiting::default(),
            stall: Waiting::default(),
            waited: false,
            context,
            entry: None,
            proxy_digest,
            socket_digest: Arc::new(socket_digest),
            upgraded,
        }
    }

    /// Whom it is with.
    pub(crate) fn context(&self) -> &Arc<ConnectionContext> {
        &self.context
    }

    /// Whether something has come that the engine has not had yet.
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
            if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                self.speak_http2();
            }
            return Ok(self.speaks);
        }
        loop {
            let have = self.read.len().min(H2_PREFACE.len());
            if self.read[..have] != H2_PREFACE[..have] {
                return Ok(Speaks::Http1);
            }
            if have == H2_PREFACE.len() {
                self.speak_http2();
                return Ok(Speaks::Http2);
            }
            if self.fill().await? == 0 {
                return Err(NoRequest::Closed);
            }
        }
    }

    fn speak_http2(&mut self) {
        self.speaks = Speaks::Http2;
        self.frames = Some(Box::new(Frames::new(Instant::now())));
    }

    /// Waits until the head of the next request is there as a whole: as long as a connection may be
    /// idle until it begins, and as long as a head may take from then on. The `first` request of a
    /// connection has begun when the connection has.
    pub(crate) async fn next_request(
        &mut self,
        limits: &LimitsPlan,
        first: bool,
    ) -> Result<(), NoRequest> {
        self.framing = Framing::NONE;
        self.min_body_rate = limits.min_body_rate;
        self.body_rate = BodyRate::default();
        self.body.over();
        let limit = tokio::time::sleep(limits.idle_timeout);
        tokio::pin!(limit);
        if first {
            // On a new connection a client has something to say.
            limit.as_mut().reset(Instant::now() + limits.header_timeout);
        }
        let mut begun = false;
        let mut seen = 0;
        loop {
            self.accept();
            match scan(&self.read, seen, limits) {
                Scan::Whole(length, framing) => {
                    self.head = length;
                    self.framing = framing;
                    return Ok(());
                }
                Scan::Refused(refusal) => return Err(NoRequest::Refused(refusal)),
                Scan::Partial => {}
            }
            seen = self.read.len();
            if seen > 0 && !std::mem::replace(&mut begun, true) && !first {
                limit.as_mut().reset(Instant::now() + limits.header_timeout);
            }
            tokio::select! {
                biased;
                filled = self.fill() => if filled? == 0 {
                    return Err(NoRequest::Closed);
                },
                () = &mut limit => {
                    return Err(if begun {
                        NoRequest::Refused(Refusal::HeadersTooSlow)
                    } else {
                        NoRequest::Idle
                    });
                }
            }
        }
    }

    /// A request is accepted with its first byte. Empty lines before it are nobody's.
    pub(crate) fn accept(&mut self) {
        let begun = || self.read.iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        if self.entry.is_none() && begun() {
            self.entry = Some(Entry::open(self.context.clone(), "HTTP/1.1"));
        }
    }

    /// The request that was accepted, for whoever goes on with it.
    pub(crate) fn take_entry(&mut self) -> Option<Entry> {
        self.entry.take()
    }

    /// Reads more into the buffer.
    async fn fill(&mut self) -> Result<usize, NoRequest> {
        self.read.reserve(READ_SIZE);
        let read = match &mut self.transport {
            Transport::Plain(stream) => stream.read_buf(&mut self.read).await,
            Transport::Tls(stream) => stream.read_buf(&mut self.read).await,
        };
        read.map_err(|_| NoRequest::Closed)
    }

    /// Ends the connection so that the client can read our last answer: closing while it still
    /// sends would make its system throw the answer away (RFC 9112, section 9.6).
    pub(crate) async fn linger(&mut self) {
        const MOST: usize = 1 << 20;
        let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
        let mut read = 0;
        while read < MOST {
            self.read.clear();
            match self.fill().await {
                Ok(0) | Err(_) => return,
                Ok(more) => read += more,
            }
        }
    }

    /// Reads more into the buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(READ_SIZE);
        match &mut self.transport {
            Transport::Plain(stream) => poll_read_buf(Pin::new(stream), cx, &mut self.read),
            Transport::Tls(stream) => poll_read_buf(Pin::new(stream.as_mut()), cx, &mut self.read),
        }
    }

    /// Sends what was collected.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            let written = self.transport.poll_write(cx, &self.write);
            match ready!(self.unless_stalled(cx, written))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.write.advance(written),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What became of a write, unless the client has taken nothing for too long.
    fn unless_stalled(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall.over();
        } else if self.stall.poll_longer_than(cx, WRITE_STALL) {
            self.context.totals.refused_connections.one("write_stalled");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        written
    }

    /// The engine gets these bytes of an HTTP/2 client, unless it has sent too much of their kind.
    /// Whether it gets them.
    fn let_pass(&mut self, bytes: &[u8]) -> bool {
        let Some(frames) = &mut self.frames else {
            return true;
        };
        let Err(abuse) = frames.came(bytes, Instant::now) else {
            return true;
        };
        tracing::debug!(peer = %self.context.peer, "connection ended: {}", abuse.reason());
        self.context.totals.refused_connections.one(abuse.reason());
        if let Some(goaway) = frames.goaway() {
            self.write.extend_from_slice(&goaway);
        }
        self.ending = Some(Waiting::default());
        false
    }

    /// Sends the last words and reads what still comes, so that they can be read; then fails.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        const OVER: io::ErrorKind = io::ErrorKind::ConnectionAborted;
        let late = self
            .ending
            .as_mut()
            .is_some_and(|ending| ending.poll_longer_than(cx, LAST_WORDS));
        if late {
            return Poll::Ready(Err(OVER.into()));
        }
        if ready!(self.poll_drain(cx)).is_err() || ready!(self.transport.poll_shutdown(cx)).is_err()
        {
            return Poll::Ready(Err(OVER.into()));
        }
        loop {
            self.read.clear();
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(OVER.into())),
                Ok(_) => {}
            }
        }
    }

    fn poll_transport_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    /// Whether bytes of a body are to come.
    fn in_body(&self) -> bool {
        self.speaks == Speaks::Http1
            && self.head == 0
            && !self.framing.is_done()
            && self.framing != Framing::Everything
    }
}

impl Transport {
    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, out),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, out),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}

fn raw_fd(transport: &Transport) -> UniqueIDType {
    use std::os::fd::AsRawFd as _;
    match transport {
        Transport::Plain(stream) => stream.as_raw_fd(),
        Transport::Tls(stream) => stream.get_ref().0.as_raw_fd(),
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ending.is_some() {
            return this.poll_ending(cx);
        }
        if !this.write.is_empty() {
            // The engine waits for the client while something is collected. It may be about to
            // write more, so it gets one more turn; if nothing came, the client shall not wait.
            if std::mem::replace(&mut this.waited, true) {
                let _ = this.poll_drain(cx)?;
                let _ = this.poll_transport_flush(cx)?;
            } else {
                cx.waker().wake_by_ref();
            }
        }
        if this.speaks == Speaks::Http1 && this.upgraded.load(Ordering::Relaxed) {
            this.framing = Framing::Everything;
        }
        loop {
            let unframed = this.speaks == Speaks::Http2;
            if !this.read.is_empty() && (unframed || this.head > 0 || !this.framing.is_done()) {
                let room = out.remaining().min(this.read.len());
                let give = if unframed {
                    room
                } else if this.head > 0 {
                    let give = room.min(this.head);
                    this.head -= give;
                    give
                } else {
                    let framed = this.framing.take(&this.read[..room]);
                    let give = framed.map_err(|malformed| {
                        io::Error::new(io::ErrorKind::InvalidData, malformed)
                    })?;
                    this.body_rate.came(give, Duration::ZERO);
                    give
                };
                let before = out.filled().len();
                out.put_slice(&this.read[..give]);
                this.read.advance(give);
                if !this.let_pass(&out.filled()[before..]) {
                    out.set_filled(before);
                    return this.poll_ending(cx);
                }
                return Poll::Ready(Ok(()));
            }
            if !this.read.is_empty() {
                // The next request is there, and this one is not answered yet: it waits, and
                // whether the client is still there shows when the answer is written.
                return Poll::Pending;
            }
            let framed = !unframed && this.head == 0 && this.framing.is_done();
            if framed || this.head > 0 {
                // The engine only wants to know whether the client is still there: what comes now
                // is the next request's.
                if ready!(this.poll_fill(cx))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // A body goes straight to whoever wants it.
            let before = out.filled().len();
            let read = this.transport.poll_read(cx, out);
            if read.is_pending() {
                if let Some(rate) = this.min_body_rate.filter(|_| this.in_body())
                    && this
                        .body
                        .poll_longer_than(cx, this.body_rate.patience(rate))
                {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                return Poll::Pending;
            }
            ready!(read)?;
            let waited = this.body.over();
            this.body_rate.came(out.filled().len() - before, waited);
            if out.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            if unframed {
                if !this.let_pass(&out.filled()[before..]) {
                    out.set_filled(before);
                    return this.poll_ending(cx);
                }
                return Poll::Ready(Ok(()));
            }
            let got = &out.filled()[before..];
            let framed = this.framing.take(got);
            let own = framed.map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?;
            if own < got.len() {
                // What came behind the body is the next request's.
                this.read.extend_from_slice(&got[own..]);
                out.set_filled(before + own);
            }
            return Poll::Ready(Ok(()));
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.ending.is_some() {
            // Nobody is told any more; the engine hears of the end when it reads.
            return Poll::Ready(Ok(bytes.len()));
        }
        this.waited = false;
        let mut taken = bytes.len();
        if this.write.len() + bytes.len() > COLLECT {
            ready!(this.poll_drain(cx))?;
            if bytes.len() >= COLLECT {
                let written = this.transport.poll_write(cx, bytes);
                taken = ready!(this.unless_stalled(cx, written))?;
            } else {
                this.write.extend_from_slice(bytes);
            }
        } else {
            this.write.extend_from_slice(bytes);
        }
        if let Some(frames) = &mut this.frames {
            let totals = &this.context.totals;
            frames.go(&bytes[..taken], |refused| match refused {
                Refused::Stream(reason) => totals.refused_streams.one(reason),
                Refused::Connection(reason) => totals.refused_connections.one(reason),
            });
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ending.is_some() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_drain(cx))?;
        this.poll_transport_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_drain(cx))?;
        this.transport.poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        if self.in_body() || (self.speaks == Speaks::Http1 && !self.read.is_empty()) {
            // Answered before it was through: it still sends, and shall read why it need not.
            let _ = tokio::time::timeout(LAST_WORDS, self.linger()).await;
        } else {
            let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
        }
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        raw_fd(&self.transport)
    }
}

impl Ssl for Connection {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        None
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        (self.speaks == Speaks::Http2).then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.proxy_digest.clone())
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket_digest.clone())
    }
}

impl Peek for Connection {}

impl Drop for Connection {
    /// An answer that breaks off goes as far as it got: what was collected is sent, unless the
    /// client would have to be waited for.
    fn drop(&mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        if self.poll_drain(&mut nobody).is_ready() {
            let _ = self.poll_transport_flush(&mut nobody);
        }
    }
}

/// The connection inside the engine's stream, if it is one of ours (and all are).
pub(crate) fn from_stream(stream: pingora::protocols::Stream) -> Option<Box<Connection>> {
    let any: Box<dyn Any> = stream.into_any();
    any.downcast().ok()
}
