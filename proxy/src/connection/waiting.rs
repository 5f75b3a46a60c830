//! How long something is waited for, from poll to poll.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Nobody waits longer for anything: other deadlines come first.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A wait that may be under way. Costs nothing until there is one.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Waiting {
    /// Goes on waiting, or begins to. Whether that takes longer than the limit by now; if not, the
    /// task is woken when it does.
    pub(crate) fn poll_longer_than(&mut self, cx: &mut Context<'_>, limit: Duration) -> bool {
        let timer = match (self.since, &mut self.timer) {
            (Some(_), Some(timer)) => timer,
            (_, timer) => {
                let now = Instant::now();
                self.since = Some(now);
                let until = now + limit.min(LONGEST);
                let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                timer.as_mut().reset(until);
                timer
            }
        };
        timer.as_mut().poll(cx).is_ready()
    }

    /// It is over. How long it took, if there was one.
    pub(crate) fn over(&mut self) -> Duration {
        self.since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed())
    }
}
