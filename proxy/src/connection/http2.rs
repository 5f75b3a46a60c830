//! A connection that speaks HTTP/2, as the library that speaks it reads and writes it: every frame is
//! looked at on its way ([`Frames`]), and what is written is collected for a moment: answers to several
//! requests go out together if they are there at the same time ([`Turn`]).

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Buf as _;
use portolan_control::counters::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Bodies, Frames, Refused};
use super::{Connection, LAST_WORDS, READ_SIZE, Waiting};

/// A connection over HTTP/2.
#[derive(Debug)]
pub(crate) struct Http2Connection {
    connection: Box<Connection>,
    frames: Frames,
    /// The client was told to go away for what it did: nothing of it passes any more, nor the other
    /// way round.
    ending: Option<Waiting>,
    /// Requests of this connection that are under way.
    under_way: Arc<Gauge>,
    /// What is known of their bodies.
    bodies: Arc<Mutex<Bodies>>,
    turn: Turn,
}

/// When what was collected is sent: not at once, for more may be ready already.
#[derive(Debug, Default)]
struct Turn {
    /// It is waited for.
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
    /// Begins to wait, if nobody does: until everybody has gone on who can at the moment, or, if
    /// that is `later`, also those who can when the network was looked at next.
    fn begin(&mut self, cx: &mut Context<'_>, later: bool) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.bell.rung.store(false, Ordering::Relaxed);
        if let Ok(mut task) = self.bell.task.lock() {
            *task = Some(cx.waker().clone());
        }
        let bell = Waker::from(self.bell.clone());
        if later {
            // To be asked once is all it takes: it rings by itself.
            let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&bell));
        } else {
            bell.wake();
        }
    }

    /// Whether it has come.
    fn has_come(&self) -> bool {
        self.begun && self.bell.rung.load(Ordering::Relaxed)
    }
}

impl Http2Connection {
    /// `under_way`: the requests that its client waits for; `bodies`: what is known of their bodies.
    pub(crate) fn new(
        connection: Box<Connection>,
        under_way: Arc<Gauge>,
        bodies: Arc<Mutex<Bodies>>,
    ) -> Self {
        let carried = connection.context().carried.clone();
        Self {
            connection,
            frames: Frames::new(Instant::now(), carried),
            ending: None,
            under_way,
            bodies,
            turn: Turn::default(),
        }
    }

    /// Whether these bytes of the client pass: not if it has sent too much of their kind.
    fn let_pass(&mut self, bytes: &[u8]) -> bool {
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let came = self.frames.came(bytes, &mut bodies, Instant::now);
        drop(bodies);
        let Err(abuse) = came else {
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
        if this.turn.has_come() && this.connection.poll_send(cx)?.is_ready() {
            this.turn.begun = false;
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
        if !this.connection.outgoing.has_room() {
            ready!(this.connection.poll_send(cx))?;
        }
        this.connection.outgoing.small().extend_from_slice(bytes);
        this.turn.begin(cx, this.under_way.get() > 0);
        let totals = &this.connection.context.totals;
        this.frames.go(bytes, |refused| match refused {
            Refused::Stream(reason) => totals.refused_streams.one(reason),
            Refused::Connection(reason) => totals.refused_connections.one(reason),
        });
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library flushes after every part of an answer. What was collected goes when its turn has
        // come, with whatever else is there by then: that is one record and one call of the system.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_half_close(cx)
    }
}
