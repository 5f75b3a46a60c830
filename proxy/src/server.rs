//! The data plane as a whole: its runtime, what serves requests on it, and its listeners.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::acme::Answers;
use portolan_config::plan::Plan;
use portolan_control::clock::Clock;
use portolan_control::counters::Gauge;
use portolan_control::decision::affinity::AffinitySecret;
use portolan_control::engine::{EngineHandle, Published};
use portolan_control::reload::listeners::Listeners;
use portolan_control::telemetry::access_log;
use portolan_control::telemetry::access_log::AccessLog;
use portolan_control::telemetry::totals::Totals;
use tokio_util::task::TaskTracker;

use crate::accept::service::Service;
use crate::accept::set::ListenerSet;
use crate::descriptors;
use crate::edge::Edge;
use crate::listener::HandedSocket;
use crate::record::recorder::Recorder;
use crate::upstream::connect::place::maintain;
use crate::upstream::connect::pool::Upstream;
use crate::upstream::exchange_context::ExchangeContext;
use crate::workers::Workers;

/// Idle connections to endpoints that are kept, in all.
const KEPT_CONNECTIONS: usize = 4096;

/// The data plane.
pub struct DataPlane {
    listeners: Arc<ListenerSet>,
    under_way: Arc<Gauge>,
    /// Dropped last: what did not finish in time is cut, and written down as that.
    _workers: Workers,
}

impl fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataPlane").finish_non_exhaustive()
    }
}

/// What the data plane works with.
#[derive(Debug)]
pub struct DataPlaneParts {
    /// The picture of the world that requests see.
    pub published: Published,
    /// Where it tells what requests find out.
    pub messenger: EngineHandle,
    /// Clocks.
    pub clock: Clock,
    /// What is counted about the process.
    pub totals: Arc<Totals>,
    /// Where a line goes for every request.
    pub access_log: AccessLog,
    /// What affinity cookies are made with.
    pub affinity: Arc<AffinitySecret>,
    /// What is answered to certificate authorities.
    pub answers: Arc<Answers>,
    /// How many descriptors the process may have.
    pub open_files: u64,
}

/// How many descriptors are needed when listeners of this plan have as many clients as they take, and each
/// client has a connection to an endpoint; beside them, what the rest of the process needs.
pub fn descriptors_needed(plan: &Plan) -> u64 {
    const THE_REST: u64 = 1_024;
    let clients = plan
        .listeners
        .iter()
        .map(|listener| listener.limits.connections as u64);
    clients.sum::<u64>().saturating_mul(2) + THE_REST
}

impl DataPlane {
    /// Starts the worker threads. Nobody is accepted yet.
    ///
    /// # Errors
    /// When no threads can be had.
    pub fn start(workers: usize, parts: DataPlaneParts) -> std::io::Result<Self> {
        let DataPlaneParts {
            published,
            messenger,
            clock,
            totals,
            access_log,
            affinity,
            answers,
            open_files,
        } = parts;
        descriptors::allow(open_files);
        let workers = Workers::start(workers, house)?;
        let recorder = Arc::new(Recorder {
            clock,
            totals,
            access_log,
            published: published.clone(),
        });
        let under_way: Arc<Gauge> = Arc::default();
        let edge = Edge {
            published: published.clone(),
            exchange_context: ExchangeContext {
                clock,
                upstream: Arc::new(Upstream::new(
                    KEPT_CONNECTIONS,
                    workers.count(),
                    recorder.totals.held.clone(),
                )),
                messenger,
            },
            recorder: recorder.clone(),
            affinity,
            answers,
            under_way: under_way.clone(),
        };
        let service = Service {
            edge: Arc::new(edge),
            recorder,
            published,
            tasks: TaskTracker::new(),
            dispatch: workers.dispatch(),
        };
        Ok(Self {
            listeners: Arc::new(ListenerSet::new(service)),
            under_way,
            _workers: workers,
        })
    }

    /// Its listeners, for whoever changes the configuration.
    pub fn listeners(&self) -> Arc<dyn Listeners> {
        self.listeners.clone()
    }

    /// Opens the listeners.
    ///
    /// # Errors
    /// When an address was taken by somebody else since it was bound.
    pub fn open(&self) -> std::io::Result<()> {
        self.listeners.open()
    }

    /// Uses the sockets of a process before this one for the listeners of the first configuration.
    pub fn inherit(&self, sockets: Vec<HandedSocket>) {
        self.listeners.inherit(sockets);
    }

    /// Those of the sockets that no listener has use for. They are closed when dropped.
    pub fn left_over(&self) -> Vec<HandedSocket> {
        self.listeners.left_over()
    }

    /// Gives the socket of every listener once more, for a process that takes over, whenever it is
    /// asked to.
    pub fn sockets(&self) -> impl Fn() -> std::io::Result<Vec<HandedSocket>> + Send + Sync + use<> {
        let listeners = self.listeners.clone();
        move || listeners.sockets()
    }

    /// Leaves the listeners to a process that accepts there already, and asks every client that is
    /// here to leave.
    pub fn hand_over(&self) {
        self.listeners.hand_over();
    }

    /// Accepts nobody any more, lets requests finish, and returns when all have, or after `limit`.
    /// Whether all have.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.listeners.leave();
        tokio::time::timeout(limit, self.wait_until_empty())
            .await
            .is_ok()
    }

    /// Waits until every connection has ended.
    pub async fn wait_until_empty(&self) {
        self.listeners.wait_until_empty().await;
    }

    /// Requests under way.
    pub fn under_way(&self) -> i64 {
        self.under_way.get()
    }
}

/// What every worker does besides serving requests.
async fn house() {
    tokio::join!(maintain(), access_log::gather());
}
