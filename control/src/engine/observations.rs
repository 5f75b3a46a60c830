//! What the engine knows from requests, beside the endpoints own records.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::names::Name;

use crate::clock::Tick;
use crate::health::outlier::Alarm;
use crate::health::partition::{Pace, PartitionDetector};
use crate::health::slow_start;
use crate::pool::view::PoolView;

/// How often the engine looks at what requests tell, if nothing alarms it.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// An endpoint is not dead that answered a request within this time.
pub(crate) const HEARD: Duration = Duration::from_secs(1);

/// How long an endpoint that was silent must be heard until operators are told: one that falls silent
/// again and again is one event.
pub(crate) const CALM: Duration = Duration::from_secs(1);

/// How often endpoints are compared with their peers and their past.
pub(crate) const COMPARE: Duration = Duration::from_secs(1);

/// Pictures of the pools that are remembered. More changes than this within the window and the
/// poorest are forgotten.
pub(crate) const PICTURES: usize = 64;

/// What is known beside the endpoints' own records.
#[derive(Debug, Default)]
pub(crate) struct Passive {
    pub(super) alarm: Arc<Alarm>,
    pub(super) suspicion: PartitionDetector,
    /// When each pool came back, for its slow start.
    pub(super) came_back: HashMap<Name, Tick>,
    pub(super) pace: Pace,
    /// The pools as they were.
    pub(super) pictures: VecDeque<Picture>,
    /// What each pool was like before the collapse.
    pub(super) held: HashMap<Name, Before>,
    /// When endpoints were last compared.
    pub(super) compared: Tick,
    /// Requests ended since then.
    pub(super) news: bool,
    /// The next look is due.
    pub(super) looks: bool,
    /// Something about a pool changed since the suspicion was last asked.
    pub(super) changed: bool,
    /// A probe passed since then.
    pub(super) passed: bool,
}

/// The pools at one time.
#[derive(Debug)]
pub(crate) struct Picture {
    /// Until when it was true.
    pub(super) until: Tick,
    pub(super) views: Vec<Arc<PoolView>>,
    /// How much they could take together.
    pub(super) richness: f64,
}

/// What a pool was like before the collapse.
#[derive(Debug)]
pub(crate) struct Before {
    pub(super) availability: f64,
    pub(super) served: Vec<SocketAddr>,
}

impl Passive {
    /// A pool's view with what follows from all this.
    pub(crate) fn shape(&self, view: PoolView, now: Tick) -> PoolView {
        let name = &view.plan.name;
        let since = self.came_back.get(name).copied();
        let part = slow_start::share(view.plan.slow_start, since, now);
        let held = self.held.get(name);
        let fell = self.suspicion.fallen().any(|fallen| fallen == name);
        let view = view.ramped(part);
        match held {
            Some(before) => view.holding(before.availability, &before.served, fell),
            None => view,
        }
    }
}
