//! Clients that take nothing of what they are sent.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use super::waiting::Waiting;

/// How long a client may take nothing.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(60);

/// How long a connection has waited for its client to take something.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    waiting: Waiting,
    given_up: bool,
}

impl Stall {
    /// What became of a write, unless the client has taken nothing for too long: then nothing more can be
    /// written, and `first` is called, once for the connection.
    pub(crate) fn check<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
        first: impl FnOnce(),
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting.over();
            return written;
        }
        if !self.given_up {
            if !self.waiting.poll_longer_than(cx, WRITE_STALL) {
                return written;
            }
            self.given_up = true;
            first();
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_is_given_up_once_however_often_it_is_tried() {
        let mut stall = Stall::default();
        let mut counted = 0;
        let begun = Instant::now();
        // What it takes now and then begins the wait anew.
        for _ in 0..3 {
            let waiting =
                poll_fn(|cx| stall.check(cx, Poll::<io::Result<()>>::Pending, || counted += 1));
            let waited = tokio::time::timeout(WRITE_STALL / 2, waiting).await;
            assert!(waited.is_err());
            poll_fn(|cx| stall.check(cx, Poll::Ready(Ok(())), || counted += 1))
                .await
                .unwrap();
        }
        assert_eq!(begun.elapsed(), WRITE_STALL * 3 / 2);
        for _ in 0..3 {
            let waiting =
                poll_fn(|cx| stall.check(cx, Poll::<io::Result<()>>::Pending, || counted += 1));
            let error = waiting.await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(begun.elapsed(), WRITE_STALL * 5 / 2);
        assert_eq!(counted, 1);
    }
}
