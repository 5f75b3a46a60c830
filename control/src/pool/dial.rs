//! The border to whoever opens connections: this crate decides *whom* to probe and *whom* to send
//! requests to, and does not know how a connection is made.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use portolan_certs::UpstreamIdentity;
use portolan_config::plan::PoolPlan;

use crate::health::verdict::ProbeFailure;

/// Everything that is prepared for connections to one endpoint. Whoever prepared it knows what it
/// is; everybody else only carries it along.
#[derive(Clone)]
pub struct Dial(Arc<Prepared>);

enum Prepared {
    Now(Box<dyn Any + Send + Sync>),
    /// Most endpoints of a large configuration are never connected to: how, and what came of it.
    WhenNeeded(Preparation, OnceLock<Dial>),
}

/// What is needed to prepare connections.
pub(crate) struct Preparation {
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) pool: Arc<PoolPlan>,
    pub(crate) identity: Option<Arc<UpstreamIdentity>>,
    pub(crate) address: SocketAddr,
    pub(crate) name: Option<Arc<str>>,
}

impl Dial {
    /// Wraps what was prepared.
    pub fn new(prepared: impl Any + Send + Sync) -> Self {
        Self(Arc::new(Prepared::Now(Box::new(prepared))))
    }

    /// Prepares when somebody asks for the first time.
    pub(crate) fn when_needed(preparation: Preparation) -> Self {
        Self(Arc::new(Prepared::WhenNeeded(preparation, OnceLock::new())))
    }

    /// What was prepared, for whoever knows its type.
    pub fn get<T: Any>(&self) -> Option<&T> {
        match &*self.0 {
            Prepared::Now(prepared) => prepared.downcast_ref(),
            Prepared::WhenNeeded(how, prepared) => prepared.get_or_init(|| how.prepare()).get(),
        }
    }
}

impl Preparation {
    fn prepare(&self) -> Dial {
        let identity = self.identity.as_ref();
        let name = self.name.as_deref();
        self.dialer
            .prepare(&self.pool, identity, self.address, name)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl Dialer for Counting {
        fn prepare(
            &self,
            pool: &Arc<PoolPlan>,
            _: Option<&Arc<UpstreamIdentity>>,
            address: SocketAddr,
            name: Option<&str>,
        ) -> Dial {
            self.0.fetch_add(1, Ordering::Relaxed);
            let name = name.unwrap_or_default();
            Dial::new(format!("{} {address} {name}", pool.name))
        }

        fn probe(&self, _: &Arc<PoolPlan>, _: &Dial) -> Probing {
            unreachable!("nothing is probed here")
        }
    }

    #[test]
    fn what_is_needed_is_prepared_once_and_what_is_not_never() {
        let text = "pools: { aws: { endpoints: [ '10.0.0.1:80' ] } }\nroutes: [ { to: aws } ]\n\
                    listeners: [ { bind: '127.0.0.1:0' } ]\n";
        let machine = portolan_config::Machine::default();
        let checked = portolan_config::check_text("t.yaml", text.to_owned(), &machine);
        let dialer = Arc::new(Counting::default());
        let dial = Dial::when_needed(Preparation {
            dialer: dialer.clone(),
            pool: checked.plan.unwrap().pools[0].clone(),
            identity: None,
            address: "10.0.0.1:80".parse().unwrap(),
            name: Some("api.internal".into()),
        });
        let other = dial.clone();
        assert_eq!(dialer.0.load(Ordering::Relaxed), 0);
        let expected = "aws 10.0.0.1:80 api.internal";
        assert_eq!(other.get::<String>().unwrap(), expected);
        assert_eq!(dial.get::<String>().unwrap(), expected);
        assert_eq!(dial.get::<u8>(), None, "another type");
        assert_eq!(dialer.0.load(Ordering::Relaxed), 1);
    }
}
