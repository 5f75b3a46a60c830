//! A connection that speaks HTTP/2, as the library that speaks it reads and writes it: every frame is
//! looked at on its way ([`Frames`]), and small writes are collected until they are flushed: answers to
//! several requests go out together if they are there at the same time ([`Turn`]).

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Buf as _;
use portolan_control::stats::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Frames, Refused};
use super::{Connection, LAST_WORDS, READ_SIZE, Waiting};

/// A connection over HTTP/2.
#[derive(Debug)]
pub(crate) struct Http2Connection {
    connection: Box<Connection>,
    frames: Frames,
    /// The client was told to go away for what it did: nothing of it passes any more, nor the other
    /// way round.
    ending: Option<Waiting>,
    /// Something was read since the last write: there may be more to write.
    waited: bool,
    /// Requests of this connection that are under way.
    under_way: Arc<Gauge>,
    turn: Turn,
}

/// A turn of the scheduler that is waited for: whatever is ready goes on before it comes.
#[derive(Debug, Default)]
struct Turn {
    begun: bool,
    bell: Arc<Bell>,
}

/// Rings when the turn has come.
#[derive(Debug, Default)]
struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Relaxed);
        let task = self.task.lock().ok().and_then(|mut task| task.take());
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Turn {
    /// Ready when the turn has come; begins to wait for one if nobody does.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.begun && self.bell.rung.load(Ordering::Relaxed) {
            return Poll::Ready(());
        }
        if let Ok(mut task) = self.bell.task.lock() {
            *task = Some(cx.waker().clone());
        }
        if !std::mem::replace(&mut self.begun, true) {
            self.bell.rung.store(false, Ordering::Relaxed);
            let bell = Waker::from(self.bell.clone());
            // To be asked once is all it takes: it rings by itself.
            let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&bell));
        }
        Poll::Pending
    }
}

impl Http2Connection {
    /// `under_way`: the requests that its client waits for.
    pub(crate) fn new(connection: Box<Connection>, under_way: Arc<Gauge>) -> Self {
        Self {
            connection,
            frames: Frames::new(Instant::now()),
            ending: None,
            waited: false,
            under_way,
            turn: Turn::default(),
        }
    }

    /// Whether these bytes of the client pass: not if it has sent too much of their kind.
    fn let_pass(&mut self, bytes: &[u8]) -> bool {
        let Err(abuse) = self.frames.came(bytes, Instant::now) else {
            return true;
        };
        let context = self.connection.context();
        tracing::debug!(peer = %context.peer, "connection ended: {}", abuse.reason());
        context.totals.refused_connections.one(abuse.reason());
        if let Some(goaway) = self.frames.goaway() {
            self.connection.outgoing.small().extend_from_slice(&goaway);
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
        if late || ready!(self.connection.poll_half_close(cx)).is_err() {
            return Poll::Ready(Err(OVER.into()));
        }
        loop {
            self.connection.read.clear();
            match ready!(self.connection.poll_fill(cx, READ_SIZE)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(OVER.into())),
                Ok(_) => {}
            }
        }
    }
}

impl AsyncRead for Http2Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ending.is_some() {
            return this.poll_ending(cx);
        }
        if !this.connection.outgoing.is_empty() && !this.turn.begun {
            // The client is waited for while something is collected. More may be about to be
            // written, so there is one more turn; if nothing came, the client shall not wait.
            if std::mem::replace(&mut this.waited, true) {
                let _ = this.connection.poll_send(cx)?;
            } else {
                cx.waker().wake_by_ref();
            }
        }
        let before = out.filled().len();
        let read = &mut this.connection.read;
        if read.is_empty() {
            ready!(Pin::new(&mut this.connection.transport).poll_read(cx, out))?;
        } else {
            let give = out.remaining().min(read.len());
            out.put_slice(&read[..give]);
            read.advance(give);
        }
        if !this.let_pass(&out.filled()[before..]) {
            out.set_filled(before);
            return this.poll_ending(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.ending.is_some() {
            // Nobody is told any more; whoever writes hears of the end when it reads.
            return Poll::Ready(Ok(bytes.len()));
        }
        this.waited = false;
        if !this.connection.outgoing.has_room() {
            ready!(this.connection.poll_send(cx))?;
        }
        this.connection.outgoing.small().extend_from_slice(bytes);
        let totals = &this.connection.context.totals;
        this.frames.go(bytes, |refused| match refused {
            Refused::Stream(reason) => totals.refused_streams.one(reason),
            Refused::Connection(reason) => totals.refused_connections.one(reason),
        });
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ending.is_some() {
            return Poll::Ready(Ok(()));
        }
        // With others under way, more may be ready by the next turn: what goes out together costs
        // one record and one call of the system.
        if !this.connection.outgoing.is_empty() && this.under_way.get() > 0 {
            ready!(this.turn.poll(cx));
        }
        ready!(this.connection.poll_send(cx))?;
        this.turn.begun = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_half_close(cx)
    }
}
