//! Tells operators when lines of a log are lost, once when it begins and once when it is over.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Tick};
use crate::events::event::Event;
use crate::events::journal::Journal;
use crate::events::log_loss::Log;
use crate::telemetry::lines::Loss;

/// Lines are lost no longer when they were written, and none was lost for so long.
const CALM: Duration = Duration::from_secs(10);

/// While lines are lost, it is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of a log: how many lines were lost at the last look.
#[derive(Debug, Default)]
struct LossWatch {
    lost: u64,
    /// The loss under way: since how many lost lines, and when the last one was seen.
    losing: Option<(u64, Tick)>,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Lines are lost.
    Began,
    /// They are lost no longer; so many were.
    Over(u64),
}

impl LossWatch {
    /// What is to be told when so many lines were lost until `now`; `again`: something was written since.
    fn look(&mut self, lost: u64, again: bool, now: Tick) -> Option<News> {
        let more = lost > self.lost;
        let before = std::mem::replace(&mut self.lost, lost);
        match self.losing {
            None if more => {
                self.losing = Some((before, now));
                Some(News::Began)
            }
            Some((since, _)) if more => {
                self.losing = Some((since, now));
                None
            }
            Some((since, last)) if again && now.since(last) >= CALM => {
                self.losing = None;
                Some(News::Over(lost - since))
            }
            _ => None,
        }
    }
}

/// Tells what is lost of a log, for as long as the process lives. While nothing is, it sleeps.
pub async fn keep_telling(log: Log, loss: Arc<Loss>, journal: Arc<Journal>, clock: Clock) {
    let mut watch = LossWatch::default();
    loop {
        match watch.look(loss.lines.get(), loss.is_written_again(), clock.now()) {
            Some(News::Began) => {
                let why = loss.why();
                journal.emit(&Event::LinesLost { log, why });
            }
            Some(News::Over(lost)) => journal.emit(&Event::LinesWritten { log, lost }),
            None => {}
        }
        match watch.losing {
            Some(_) => tokio::time::sleep(LOOK).await,
            None => loss.alarm.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_and_its_end_when_lines_are_written_again() {
        let at = |seconds| Tick::after(Duration::from_secs(seconds));
        let mut watch = LossWatch::default();
        assert_eq!(watch.look(0, true, at(0)), None);
        assert_eq!(watch.look(3, false, at(1)), Some(News::Began));
        assert_eq!(watch.look(7, false, at(2)), None);
        // Nobody has anything to write: that is not its end.
        assert_eq!(watch.look(7, false, at(60)), None);
        // Now and then a line gets through.
        assert_eq!(watch.look(9, true, at(61)), None);
        assert_eq!(watch.look(9, true, at(70)), None);
        assert_eq!(watch.look(9, true, at(71)), Some(News::Over(9)));
        assert_eq!(watch.look(9, true, at(72)), None);
        // The next one is told as the first was.
        assert_eq!(watch.look(10, false, at(73)), Some(News::Began));
        assert_eq!(watch.look(10, true, at(83)), Some(News::Over(1)));
    }
}
