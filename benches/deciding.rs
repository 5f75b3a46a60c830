//! Decisions as the data plane makes them: a snapshot that the engine published, and requests that
//! are prepared beforehand.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::Method;
use portolan_certs::{Material, UpstreamIdentity};
use portolan_config::fields::Fields;
use portolan_config::plan::{PoolPlan, RequestHead, normal_host};
use portolan_config::{Machine, check_text};
use portolan_control::clock::{Clock, Tick};
use portolan_control::decision::Decision;
use portolan_control::decision::affinity::ClientAffinity;
use portolan_control::decision::decide::decide;
use portolan_control::engine::handover::Handover;
use portolan_control::engine::resolve::NameServers;
use portolan_control::engine::{Beginning, Engine, Published};
use portolan_control::events::journal::Journal;
use portolan_control::geo::Locator;
use portolan_control::pool::balance::Criteria;
use portolan_control::pool::dial::{Dial, Dialer, Probing};
use portolan_control::supervisor::Supervisor;

use crate::estate;
use crate::estate::Estate;

/// Different requests: enough that no branch is learnt by heart.
pub(crate) const REQUESTS: usize = 1 << 14;

/// What is known of a request when it is to be decided.
pub(crate) struct Request {
    pub(crate) host: String,
    path: String,
    pub(crate) client: IpAddr,
}

/// The requests, again and again.
pub(crate) struct Requests {
    pub(crate) all: Vec<Request>,
    method: Method,
    headers: Fields,
}

impl Requests {
    pub(crate) fn new(routes: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(1);
        let mut request = || Request {
            // As clients write it.
            host: format!("{}:8443", estate::host(random.usize(..routes))),
            path: format!("/v1/items/{}", random.u32(..)),
            client: public_address(&mut random),
        };
        Self {
            all: std::iter::repeat_with(&mut request)
                .take(REQUESTS)
                .collect(),
            method: Method::GET,
            headers: Fields::new(),
        }
    }

    pub(crate) fn head<'a>(&'a self, request: &'a Request, host: &'a str) -> RequestHead<'a> {
        RequestHead {
            host,
            path: &request.path,
            method: &self.method,
            headers: &self.headers,
        }
    }
}

/// An address of the public Internet, as far as a glance tells.
fn public_address(random: &mut fastrand::Rng) -> IpAddr {
    loop {
        let address = Ipv4Addr::from_bits(random.u32(..));
        let first = address.octets()[0];
        if (1..224).contains(&first) && !address.is_private() && !address.is_loopback() {
            return IpAddr::V4(address);
        }
    }
}

/// Nothing is connected to here.
#[derive(Debug)]
struct NoConnections;

impl Dialer for NoConnections {
    fn prepare(
        &self,
        _: &Arc<PoolPlan>,
        _: Option<&Arc<UpstreamIdentity>>,
        _: SocketAddr,
        _: Option<&str>,
    ) -> Dial {
        Dial::new(())
    }

    fn probe(&self, _: &Arc<PoolPlan>, _: &Dial) -> Probing {
        unreachable!("probes are off")
    }
}

/// Has the engine run a configuration with so many routes.
pub(crate) fn publish(routes: usize) -> Published {
    let estate = Estate {
        routes,
        pools: (routes / 5).max(5),
        endpoints_per_pool: 4,
        probes: false,
    };
    let text = format!(
        "listeners: [ {{ bind: '127.0.0.1:0' }} ]\n{}",
        estate.yaml(&[])
    );
    let checked = check_text("estate.yaml", text, &Machine::default());
    let plan = checked.plan.expect("the estate is sound");
    let locator = Locator::load(&plan.geoip, plan.needs()).expect("the built-in database is sound");
    let clock = Clock::start();
    let journal = Journal::new(clock);
    let engine = Engine::start(Beginning {
        plan,
        material: Arc::new(Material::default()),
        locator: Arc::new(locator),
        dialer: Arc::new(NoConnections),
        resolver: Arc::new(NameServers::default()),
        clock,
        journal: journal.clone(),
        handed: Handover::default(),
        supervisor: Supervisor::new(journal, Arc::default(), clock),
    });
    engine.published().clone()
}

/// From a request to an endpoint: the pool's index, and the endpoint's in the pool.
pub(crate) fn whole(
    published: &Published,
    requests: &Requests,
    request: &Request,
    random: &mut fastrand::Rng,
) -> Option<(usize, usize)> {
    let snapshot = published.load_full();
    let host = normal_host(&request.host);
    let route = snapshot.route(&requests.head(request, &host))?;
    let found = snapshot.locate(route, request.client);
    match decide(
        &snapshot,
        route,
        Some(request.client),
        &found,
        &ClientAffinity::Free,
    ) {
        Decision::Pool { pool, basis, .. } => {
            let mut wish = Criteria {
                hash: None,
                excluded: &[],
                random,
                now: Tick::ZERO,
            };
            let endpoint = snapshot.pools[pool.index()].pick(basis, &mut wish)?;
            Some((pool.index(), endpoint))
        }
        _ => None,
    }
}
