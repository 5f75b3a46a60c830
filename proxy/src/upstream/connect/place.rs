//! Where connections to endpoints are kept: each worker keeps its own, and so do probes.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_control::health::exhaustion::SHORTAGES;
use tokio::time::Instant;

use super::stream::EndpointStream;
use crate::upstream::connect::http2::pool::Pool;
use crate::upstream::connect::idle;
use crate::upstream::connect::idle::IdlePool;
use crate::upstream::connect::peer::Target;

thread_local! {
    static TWO: RefCell<Pool> = RefCell::default();
}

/// Where connections are kept.
#[derive(Clone, Debug)]
pub(crate) enum ConnectionStore {
    /// With the worker whose thread this is.
    Worker,
    /// Here: for who is asked on any thread.
    Own(Arc<Own>),
}

/// Connections that are no worker's.
#[derive(Debug, Default)]
pub(crate) struct Own {
    one: Mutex<IdlePool>,
    two: Mutex<Pool>,
}

impl ConnectionStore {
    /// Whether its connections may use the descriptors that are kept back from requests: those of probes
    /// may.
    pub(crate) fn may_use_last(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    /// A connection over HTTP/1.1 to this target that is not in use. With `once`, for a request that
    /// cannot be repeated.
    pub(crate) fn take_h1(&self, target: &Target, once: Option<Instant>) -> Option<EndpointStream> {
        match self {
            Self::Worker => idle::take(target, once),
            Self::Own(own) => own.one().take(target.key(), once),
        }
    }

    /// Keeps one for the next request; so many at most. Its endpoint was last heard then, and may have
    /// said how long it keeps it.
    pub(crate) fn keep_h1(
        &self,
        stream: EndpointStream,
        target: Target,
        used: Instant,
        promise: Option<Duration>,
        most: usize,
    ) {
        match self {
            Self::Worker => idle::keep(stream, target, used, promise, most),
            Self::Own(own) => own.one().keep(stream, target, used, promise, most),
        }
    }

    /// Does something with the connections over HTTP/2; not within itself. Nothing, if there are none any
    /// more: a thread that ends keeps none.
    pub(crate) fn with_h2<T>(&self, what: impl FnOnce(&mut Pool) -> T) -> Option<T> {
        match self {
            Self::Worker => TWO.try_with(|pool| what(&mut pool.borrow_mut())).ok(),
            Self::Own(own) => {
                let mut pool = own.two.lock().unwrap_or_else(PoisonError::into_inner);
                Some(what(&mut pool))
            }
        }
    }

    /// Closes what is of no use any more.
    pub(crate) fn tidy(&self, now: Instant) {
        if let Self::Own(own) = self {
            own.one().tidy(now);
        }
        let short = SHORTAGES.files_are_short() || SHORTAGES.ports_are_short();
        self.with_h2(|pool| pool.tidy(now, short));
    }
}

impl Own {
    fn one(&self) -> std::sync::MutexGuard<'_, IdlePool> {
        self.one.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes, for as long as this thread works, what is of no use any more.
pub(crate) async fn maintain() {
    loop {
        tokio::time::sleep(idle::HOUSEKEEPING).await;
        let now = Instant::now();
        idle::tidy(now);
        ConnectionStore::Worker.tidy(now);
    }
}
