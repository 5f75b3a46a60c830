//! Keys of tokens that are published at a URL: had again and again, and sooner when somebody names a
//! key that nobody knows.
//!
//! One task for each URL that the running configuration names. When it asks, [`Schedule`] decides,
//! from numbers alone. Whatever goes wrong, the keys of before go on; that they are getting old is
//! said in the log, in status and in metrics.

pub use crate::events::token_keys::Said;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode, header};
use portolan_certs::acme::directory::{Client, Schemes};
use portolan_certs::{KeySet, TokenKeys};
use portolan_config::plan::{Plan, TokenKeySource};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::{Clock, Tick};
use crate::events::event::Event;
use crate::reload::Reloader;
use crate::supervisor::Supervisor;

/// Whoever is asked is left alone for so long, whoever wants to know.
const REST: Duration = Duration::from_secs(10);

/// The first wait after a failure; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Keys that were not had for so many times as long as they should have been are old.
const OLD: u32 = 3;

/// When a URL is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// When it was last asked.
    asked: Option<Tick>,
    /// How often it failed since it last did not.
    failures: u32,
}

impl Schedule {
    /// It was asked, and answered or did not.
    #[must_use]
    pub fn asked(self, now: Tick, answered: bool) -> Self {
        Self {
            asked: Some(now),
            failures: if answered {
                0
            } else {
                self.failures.saturating_add(1)
            },
        }
    }

    /// When it is asked next. `wanted`: somebody names a key that is not there. `chance`, from 0 to
    /// 1, keeps many instances from asking at the same time.
    pub fn due(self, refresh: Duration, wanted: bool, chance: f64) -> Tick {
        let Some(asked) = self.asked else {
            return Tick::ZERO;
        };
        let wait = match self.failures {
            0 => refresh.mul_f64(1.0 - chance * 0.1),
            failures => {
                let doubled = FIRST_WAIT * (1 << (failures - 1).min(6));
                doubled.min(LONGEST_WAIT).min(refresh)
            }
        };
        asked + if wanted { wait.min(REST) } else { wait }
    }

    /// From when on it may be asked before its time.
    pub fn rested(self) -> Tick {
        self.asked.map_or(Tick::ZERO, |asked| asked + REST)
    }
}

/// How often a URL is asked, and how long it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    refresh: Duration,
    timeout: Duration,
}

/// Looks after the keys of all URLs.
#[derive(Debug)]
pub struct TokenKeyKeeper {
    reloader: Arc<Reloader>,
    clock: Clock,
    supervisor: Supervisor,
    tasks: HashMap<TokenKeySource, Task>,
}

#[derive(Debug)]
struct Task {
    pace: watch::Sender<Pace>,
    running: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl TokenKeyKeeper {
    /// One for what the reloader runs.
    pub fn new(reloader: Arc<Reloader>, clock: Clock, supervisor: Supervisor) -> Self {
        Self {
            reloader,
            clock,
            supervisor,
            tasks: HashMap::new(),
        }
    }

    /// Looks after them, until it is dropped or the process stops.
    pub async fn run(mut self) {
        let mut plans = self.reloader.plans();
        loop {
            plans.mark_unchanged();
            self.adopt();
            if plans.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes over what runs: begins with URLs that are new, forgets those that are gone.
    fn adopt(&mut self) {
        let running = self.reloader.running();
        let mut before = std::mem::take(&mut self.tasks);
        for (source, pace) in paces(&running.plan) {
            let (TokenKeySource::Url(url, ca), Some(set)) =
                (&source, running.material.token_keys.get(&source))
            else {
                continue;
            };
            let task = match before.remove(&source) {
                Some(task) => {
                    task.pace.send_if_modified(|known| {
                        let other = *known != pace;
                        *known = pace;
                        other
                    });
                    task
                }
                None => {
                    let (tell, told) = watch::channel(pace);
                    let asker = Asker {
                        set: set.clone(),
                        url: url.clone(),
                        ca: ca.clone(),
                        pace: told,
                        reloader: self.reloader.clone(),
                        clock: self.clock,
                    };
                    Task {
                        pace: tell,
                        running: self
                            .supervisor
                            .keep("token_key_set", move || asker.clone().run()),
                    }
                }
            };
            self.tasks.insert(source, task);
        }
    }
}

/// How often every URL of a plan is asked: as often as any route says, and waited for as long.
fn paces(plan: &Plan) -> HashMap<TokenKeySource, Pace> {
    let mut paces: HashMap<TokenKeySource, Pace> = HashMap::new();
    let auth = plan.routes.iter().filter_map(|route| route.auth.as_ref());
    for keys in auth.filter_map(|auth| Some(&auth.jwt()?.keys)) {
        let (refresh, timeout) = (keys.refresh, keys.timeout);
        let pace = paces
            .entry(keys.source.clone())
            .or_insert(Pace { refresh, timeout });
        pace.refresh = pace.refresh.min(refresh);
        pace.timeout = pace.timeout.max(timeout);
    }
    paces
}

/// Why there are no keys.
#[derive(Debug)]
struct NoKeys {
    error: String,
    /// There is a set, and none of its keys can be used: those of before are not in it.
    withdrawn: bool,
}

impl From<String> for NoKeys {
    fn from(error: String) -> Self {
        Self {
            error,
            withdrawn: false,
        }
    }
}

/// Asks one URL.
#[derive(Clone, Debug)]
struct Asker {
    set: Arc<KeySet>,
    url: Arc<str>,
    ca: Option<PathBuf>,
    pace: watch::Receiver<Pace>,
    reloader: Arc<Reloader>,
    clock: Clock,
}

impl Asker {
    async fn run(mut self) {
        let mut schedule = Schedule::default();
        let mut told_old = false;
        let mut chance = fastrand::f64();
        loop {
            let pace = *self.pace.borrow_and_update();
            let now = self.clock.now();
            let rested = schedule.rested();
            self.set.set_rested(now >= rested);
            let wanted = self.set.is_wanted();
            let due = schedule.due(pace.refresh, wanted, chance);
            if now < due {
                // Its rest is over before its time comes: from then on it can be asked sooner.
                let next = if now < rested { due.min(rested) } else { due };
                tokio::select! {
                    () = tokio::time::sleep(next.since(now)) => {}
                    () = self.set.wanted(), if !wanted => {}
                    changed = self.pace.changed() => if changed.is_err() {
                        return;
                    },
                }
                continue;
            }
            let had = self.ask(pace.timeout).await;
            schedule = schedule.asked(self.clock.now(), had.is_ok());
            chance = fastrand::f64();
            // Before anybody is told of the look: whoever comes now waits for the next one.
            self.set.set_rested(false);
            self.tell(had, pace.refresh, &mut told_old);
        }
    }

    /// Has the keys.
    async fn ask(&self, timeout: Duration) -> Result<TokenKeys, NoKeys> {
        let ca = self.ca.clone();
        // It reads files.
        let client = tokio::task::spawn_blocking(move || Client::new(ca.as_deref(), Schemes::Any));
        let client = client
            .await
            .map_err(|_| "the request broke off".to_owned())?;
        let client = client.map_err(|error| error.to_string())?;
        let request = Request::get(&*self.url)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .body(Default::default())
            .map_err(|error| error.to_string())?;
        let answer = client.send(request, timeout).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::OK => {}
            status if status.is_redirection() => {
                return Err(NoKeys::from(format!(
                    "it was answered with {} and leads elsewhere: name that URL",
                    status.as_u16()
                )));
            }
            status => {
                let status = status.as_u16();
                return Err(NoKeys::from(format!("it was answered with {status}")));
            }
        }
        TokenKeys::parse(answer.body()).map_err(|error| NoKeys {
            withdrawn: error.withdraws(),
            error: error.to_string(),
        })
    }

    /// Puts what came in its place, and says what is new.
    fn tell(&self, had: Result<TokenKeys, NoKeys>, refresh: Duration, told_old: &mut bool) {
        let source = self.set.source().to_string();
        match had {
            Ok(keys) => {
                *told_old = false;
                let (count, failed) = (keys.count(), self.set.error().is_some());
                let faults = keys.faults().to_vec();
                if self.set.replace(keys, self.clock.wall().as_secs()) || failed {
                    let said = Said::Replaced {
                        source,
                        count,
                        faults,
                    };
                    self.reloader.emit(&Event::TokenKeys(said));
                }
            }
            Err(NoKeys { error, withdrawn }) => {
                let new = match withdrawn {
                    true => self.set.withdraw(error.clone()),
                    false => self.set.fail(error.clone()),
                };
                let had = self.set.had().filter(|_| !withdrawn);
                let age = had.map(|had| {
                    let now = self.clock.wall();
                    now.saturating_sub(Duration::from_secs(had))
                });
                if new {
                    self.reloader.emit(&Event::TokenKeys(Said::Failed {
                        source: source.clone(),
                        error,
                        keys: age.is_some(),
                    }));
                }
                if let Some(age) = age.filter(|age| *age > refresh * OLD)
                    && !*told_old
                {
                    *told_old = true;
                    self.reloader
                        .emit(&Event::TokenKeys(Said::Old { source, age }));
                }
            }
        }
    }
}

/// Returns when every URL of what runs was asked once: before that, requests that have tokens could
/// not be judged.
pub async fn asked_once(reloader: &Reloader) {
    let running = reloader.running();
    for set in running.material.token_keys.values() {
        if matches!(set.source(), TokenKeySource::Url(..)) {
            set.looked_once().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Tick {
        Tick::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn keys_are_had_at_once_and_then_now_and_again() {
        let new = Schedule::default();
        assert_eq!(new.due(MINUTE, false, 0.5), Tick::ZERO);
        let asked = new.asked(at(100), true);
        assert_eq!(asked.due(MINUTE, false, 0.0), at(160));
        assert_eq!(asked.due(MINUTE, false, 1.0), at(154));
    }

    #[test]
    fn failures_are_followed_by_longer_and_longer_waits() {
        let mut schedule = Schedule::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            schedule = schedule.asked(at(100), false);
            waits.push(
                schedule
                    .due(MINUTE * 5, false, 0.7)
                    .since(at(100))
                    .as_secs(),
            );
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        // Never seldomer than when all is well.
        let refresh = Duration::from_secs(3);
        assert_eq!(schedule.due(refresh, false, 0.0), at(103));
        assert_eq!(
            schedule.asked(at(200), true).due(refresh, false, 0.0),
            at(203)
        );
    }

    #[test]
    fn who_wants_to_know_is_answered_once_in_a_while() {
        let asked = Schedule::default().asked(at(100), true);
        assert_eq!(asked.due(MINUTE, true, 0.0), at(110));
        assert_eq!(asked.rested(), at(110));
        let soon = Duration::from_secs(5);
        assert_eq!(asked.due(soon, true, 0.0), at(105), "not later than due");
    }
}
