//! The HTTP/2 connections of one worker, by where they lead; and who waits for one.
//!
//! A request takes a place on a connection that is there, if there is one. Otherwise it waits for one
//! that is being made: as many are, as those who wait need, and no more. When a connection cannot be
//! made, or turns out to be of no use, as many of those who wait are told as it would have served.
//! So three hundred requests at once open three connections to an endpoint that takes a hundred on
//! each, three hundred to one that takes one, and none of them waits for somebody else's failure.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pingora::{Error, ErrorType, Result};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::{Connection, Slot};
use super::state::{Grant, Need};
use crate::upstream::connect::http2::connected::Connected;
use crate::upstream::connect::idle::ByKey;
use crate::upstream::connect::peer::Target;
use crate::upstream::connect::stream::EndpointStream;

/// Who makes connections, and tells the pool of each that has [`arrived`](Pool::arrived), or that none
/// has.
pub(crate) trait Maker: Send + Sync {
    /// Makes one that leads there.
    fn make(self: Arc<Self>, target: Target);
}

/// The connections of one worker.
#[derive(Default)]
pub(crate) struct Pool {
    by_target: HashMap<u64, TargetConnections, ByKey>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// Where some of them lead.
struct TargetConnections {
    target: Target,
    /// Who makes connections.
    maker: Weak<dyn Maker>,
    connections: Vec<PooledConnection>,
    waiting: VecDeque<Waiter>,
    /// Places that those who wait will take.
    wanted: usize,
    /// Connections that are being made.
    attempts: usize,
    /// What the endpoint granted the last one.
    grant: Grant,
    /// Connections in a row on which nothing was accepted.
    barren: u32,
}

/// Those that are replaced before that counts as a failure for those who wait.
const MOST_BARREN: u32 = 3;

/// A connection that is there.
struct PooledConnection {
    connection: Arc<Connection>,
    /// Since when it was seen to be idle.
    idle: Option<Instant>,
}

/// A request that waits.
struct Waiter {
    need: Need,
    /// How many places it takes.
    places: usize,
    tell: oneshot::Sender<Result<Connected>>,
}

/// What a request gets for now.
pub(crate) enum Joined {
    /// A place.
    Place(Slot),
    /// Whoever tells it.
    Waits(oneshot::Receiver<Result<Connected>>),
}

impl Pool {
    /// A place on a connection that is there.
    pub(crate) fn take(&mut self, key: u64, need: Need) -> Option<Slot> {
        self.by_target.get(&key)?.take(need)
    }

    /// A place, or the promise of one.
    pub(crate) fn join(&mut self, maker: Weak<dyn Maker>, target: &Target, need: Need) -> Joined {
        let key = target.key();
        let entry = self
            .by_target
            .entry(key)
            .or_insert_with(|| TargetConnections {
                target: target.clone(),
                maker: maker.clone(),
                connections: Vec::new(),
                waiting: VecDeque::new(),
                wanted: 0,
                attempts: 0,
                grant: Grant::UNKNOWN,
                barren: 0,
            });
        if let Some(slot) = entry.take(need) {
            return Joined::Place(slot);
        }
        entry.maker = maker;
        let (tell, told) = oneshot::channel();
        let places = entry.grant.places(need);
        entry.wanted += places;
        entry.waiting.push_back(Waiter { need, places, tell });
        entry.make();
        Joined::Waits(told)
    }

    /// A connection was made, or not.
    pub(crate) fn arrived(&mut self, key: u64, made: Result<Arrived>) {
        let Some(entry) = self.by_target.get_mut(&key) else {
            return;
        };
        entry.attempts -= 1;
        match made {
            Ok(Arrived::H2(connection)) => {
                entry.connections.push(PooledConnection {
                    connection,
                    idle: None,
                });
                entry.serve();
            }
            // Whoever may be spoken to both ways has chosen: one connection for each request.
            Ok(Arrived::H1(stream)) => {
                entry.grant.streams = 1;
                entry.weigh();
                entry.hand_over(Connected::H1(stream));
                entry.make();
            }
            Err(error) => entry.fail(error),
        }
    }

    /// Something has changed about a connection that leads there: those who wait may go on.
    pub(crate) fn serve(&mut self, key: u64) {
        if let Some(entry) = self.by_target.get_mut(&key) {
            entry.serve();
        }
    }

    /// Closes what nobody needs any more, and forgets where nothing leads. While descriptors are `short`,
    /// what is not in use goes at once.
    pub(crate) fn tidy(&mut self, now: Instant, short: bool) {
        self.by_target.retain(|_, entry| {
            let limit = match short {
                true => Duration::ZERO,
                false => entry.target.keep_idle(),
            };
            let current = entry.target.is_current();
            entry.connections.retain_mut(|kept| {
                let mut state = kept.connection.state();
                let idle = match state.was_used() {
                    true => None,
                    false => Some(*kept.idle.get_or_insert(now)),
                };
                kept.idle = idle;
                // What is under way on it goes on without this.
                let old = idle.is_some_and(|since| now.duration_since(since) >= limit);
                state.is_of_use() && current && !old
            });
            !entry.connections.is_empty() || !entry.waiting.is_empty() || entry.attempts > 0
        });
    }
}

/// A connection that was made.
pub(crate) enum Arrived {
    H1(EndpointStream),
    H2(Arc<Connection>),
}

impl TargetConnections {
    fn take(&self, need: Need) -> Option<Slot> {
        // The first that has room, so that those that are not needed grow old.
        self.connections
            .iter()
            .find_map(|kept| kept.connection.slot(need))
    }

    /// Gives places to those who wait, as far as there are any, and sees to the rest.
    fn serve(&mut self) {
        let (mut useless, mut useful) = (false, false);
        self.connections.retain(|kept| {
            let state = kept.connection.state();
            if state.is_settled() {
                self.grant = state.grant();
            }
            useless |= !state.is_of_use() && !state.has_accepted();
            useful |= state.has_accepted();
            state.is_of_use()
        });
        match (useful, useless) {
            (true, _) => self.barren = 0,
            (false, true) => self.barren += 1,
            (false, false) => {}
        }
        if self.waiting.is_empty() {
            return;
        }
        self.weigh();
        let mut at = 0;
        while at < self.waiting.len() {
            let waiter = &self.waiting[at];
            let gone = waiter.tell.is_closed();
            let slot = if gone { None } else { self.take(waiter.need) };
            match slot {
                None if !gone => {
                    at += 1;
                    if !self.has_room() {
                        break;
                    }
                }
                slot => {
                    let Some(waiter) = self.waiting.remove(at) else {
                        break;
                    };
                    self.wanted -= waiter.places;
                    if let Some(slot) = slot
                        && let Err(Ok(Connected::H2(slot))) =
                            waiter.tell.send(Ok(Connected::H2(slot)))
                    {
                        slot.take_back();
                    }
                }
            }
        }
        if useless && self.barren > MOST_BARREN {
            // Another one like these would be of no more use.
            self.barren = 0;
            let why = "a connection on which nothing was accepted";
            self.fail(Error::explain(ErrorType::ConnectionClosed, why));
        } else {
            self.make();
        }
    }

    /// Whether there is any place at all.
    fn has_room(&self) -> bool {
        let any = Need::default();
        let mut connections = self.connections.iter();
        connections.any(|kept| kept.connection.state().takes(any))
    }

    /// How many places those who wait take, by what is known now.
    fn weigh(&mut self) {
        self.wanted = 0;
        for waiter in &mut self.waiting {
            waiter.places = self.grant.places(waiter.need);
            self.wanted += waiter.places;
        }
    }

    /// Gives a whole connection to whoever has waited longest.
    fn hand_over(&mut self, mut connected: Connected) {
        while let Some(waiter) = self.waiting.pop_front() {
            self.wanted -= waiter.places;
            match waiter.tell.send(Ok(connected)) {
                Err(Ok(left)) => connected = left,
                _ => return,
            }
        }
    }

    /// Places on connections that are being made, or of which it is not known yet what they take.
    fn coming(&self) -> usize {
        let connections = self.connections.iter();
        let unsettled = connections.filter(|kept| !kept.connection.state().is_settled());
        (self.attempts + unsettled.count()) * self.grant.streams.max(1) as usize
    }

    /// Makes as many connections as are needed.
    fn make(&mut self) {
        let mut coming = self.coming();
        if self.wanted <= coming {
            return;
        }
        // Those who have gone need none.
        self.waiting.retain(|waiter| !waiter.tell.is_closed());
        self.weigh();
        let Some(maker) = self.maker.upgrade() else {
            self.waiting.clear();
            self.wanted = 0;
            return;
        };
        while self.wanted > coming {
            self.attempts += 1;
            maker.clone().make(self.target.clone());
            coming += self.grant.streams.max(1) as usize;
        }
    }

    /// Tells as many of those who wait as nothing is coming for.
    fn fail(&mut self, error: Box<Error>) {
        let coming = self.coming();
        let mut error = Some(error);
        while self.wanted > coming
            && let Some(waiter) = self.waiting.pop_front()
        {
            self.wanted -= waiter.places;
            let Some(first) = error.take() else {
                break;
            };
            error = Some(again(&first));
            // Who has gone need not be told.
            let _ = waiter.tell.send(Err(first));
        }
    }
}

/// The same failure for somebody else.
fn again(error: &Error) -> Box<Error> {
    let words = error
        .context
        .as_ref()
        .map_or("", |words| words.as_str())
        .to_owned();
    if error.cause.is_none() {
        return Error::explain(error.etype().clone(), words);
    }
    let root = error.root_cause();
    let cause = match root.downcast_ref::<io::Error>() {
        Some(io) => match io.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(io.kind(), io.to_string()),
        },
        None => io::Error::other(root.to_string()),
    };
    Error::because(error.etype().clone(), words, cause)
}
