//! A deadline that moves.
//!
//! Every request has deadlines that hardly any request meets. To set a timer for each and take it
//! back costs more than a timer that goes off too early now and then: this one is only moved when
//! it would go off too late.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;

use tokio::time::{Instant, Sleep};

/// A timer that goes off at a deadline, whichever it is by then.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    /// Goes off at the deadline, or earlier.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Whether this is past. If not, the task is woken when it is; perhaps earlier.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, until: Instant) -> bool {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return true;
            }
            sleep.as_mut().reset(until);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    async fn wait(timer: &mut Timer, until: Instant) {
        poll_fn(|cx| match timer.poll(cx, until) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_when_the_last_deadline_says() {
        let mut timer = Timer::default();
        let began = Instant::now();
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        // Set, moved on, moved back, and used again.
        let mut poll_once =
            async |milliseconds| poll_fn(|cx| Poll::Ready(timer.poll(cx, at(milliseconds)))).await;
        assert!(!poll_once(100).await);
        assert!(!poll_once(500).await);
        assert!(!poll_once(50).await);
        for deadline in [300, 301, 900] {
            wait(&mut timer, at(deadline)).await;
            assert_eq!(began.elapsed(), Duration::from_millis(deadline));
        }
        assert!(timer_is_past(&mut timer, at(900)).await, "again");
    }

    async fn timer_is_past(timer: &mut Timer, until: Instant) -> bool {
        poll_fn(|cx| Poll::Ready(timer.poll(cx, until))).await
    }
}
