//! The border to whoever opens connections: this crate decides *whom* to probe and *whom* to send
//! requests to, and does not know how a connection is made.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::UpstreamIdentity;
use portolan_config::plan::PoolPlan;

use crate::health::ProbeFailure;

/// Everything that is prepared for connections to one endpoint. Whoever prepared it knows what it
/// is; everybody else only carries it along.
#[derive(Clone)]
pub struct Dial(Arc<dyn Any + Send + Sync>);

impl Dial {
    /// Wraps what was prepared.
    pub fn new(prepared: impl Any + Send + Sync) -> Self {
        Self(Arc::new(prepared))
    }

    /// What was prepared, for whoever knows its type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// How a probe ended, and how long it took.
#[derive(Clone, Debug)]
pub struct ProbeOutcome {
    /// Nothing, or what was wrong.
    pub result: Result<(), ProbeFailure>,
    /// From its beginning to the last byte of its answer.
    pub took: Duration,
}

/// A probe under way.
pub type Probing = Pin<Box<dyn Future<Output = ProbeOutcome> + Send>>;

/// Opens connections.
pub trait Dialer: fmt::Debug + Send + Sync {
    /// Prepares connections to an endpoint of a pool.
    fn prepare(
        &self,
        pool: &Arc<PoolPlan>,
        identity: Option<&Arc<UpstreamIdentity>>,
        address: SocketAddr,
        name: Option<&str>,
    ) -> Dial;

    /// Probes an endpoint as its pool's plan says. Ends within the plan's timeout.
    fn probe(&self, pool: &Arc<PoolPlan>, dial: &Dial) -> Probing;
}
