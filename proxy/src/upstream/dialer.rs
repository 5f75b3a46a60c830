//! What the control plane asks of whoever opens connections.

use std::net::SocketAddr;
use std::sync::Arc;

use portolan_certs::UpstreamIdentity;
use portolan_config::plan::PoolPlan;
use portolan_control::clock::Clock;
use portolan_control::health::verdict::ProbeFailure;
use portolan_control::pool::dial::{Dial, Dialer, ProbeOutcome, Probing};

use crate::upstream::connect::peer::Peers;
use crate::upstream::probe::Prober;

/// Opens connections with the engine's connectors.
#[derive(Debug)]
pub struct EngineDialer {
    prober: Arc<Prober>,
}

impl EngineDialer {
    /// A dialer whose probes take their time from this clock.
    pub fn new(clock: Clock) -> Self {
        Self {
            prober: Arc::new(Prober::new(clock)),
        }
    }
}

impl Dialer for EngineDialer {
    fn prepare(
        &self,
        pool: &Arc<PoolPlan>,
        identity: Option<&Arc<UpstreamIdentity>>,
        address: SocketAddr,
        name: Option<&str>,
    ) -> Dial {
        Dial::new(Peers::new(pool, identity, address, name))
    }

    fn probe(&self, pool: &Arc<PoolPlan>, dial: &Dial) -> Probing {
        let prober = self.prober.clone();
        let pool = pool.clone();
        let dial = dial.clone();
        Box::pin(async move {
            match dial.get::<Peers>() {
                Some(peers) => prober.probe(&pool, peers).await,
                None => ProbeOutcome {
                    result: Err(ProbeFailure::Connect("nothing was prepared".to_owned())),
                    took: std::time::Duration::ZERO,
                },
            }
        })
    }
}
