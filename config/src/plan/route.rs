//! Routes: what is done to the requests that match.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

use super::access::{AccessPlan, ClientFacts, RateLimitPlan};
use super::auth::AuthPlan;
use super::browser::BrowserPlan;
use super::id::{RouteId, TargetId};
use super::redirect::RedirectPlan;
use crate::fields::Fields;

/// What is done to the requests of a route. Which requests those are, the
/// [`RouteTable`](super::RouteTable) knows.
#[derive(Clone, Debug)]
pub struct RoutePlan {
    /// Its id in this plan.
    pub id: RouteId,
    /// Its name: the label in metrics and logs, and its identity across plans.
    pub name: Arc<str>,
    /// Where its requests go: nowhere, if clients are sent elsewhere.
    pub target: TargetId,
    /// Where its clients are sent instead.
    pub redirect: Option<Box<RedirectPlan>>,
    /// What must be known about a client before the target can say where.
    pub needs: ClientFacts,
    /// When a request is tried again.
    pub retry: Arc<RetryPlan>,
    /// How long a request may take until response headers come, over all tries.
    pub timeout: Duration,
    /// A second try beside a slow first one.
    pub hedge: Option<HedgePlan>,
    /// What happens when nobody can serve.
    pub when_all_down: WhenAllDownPlan,
    /// What keeps a client where it was.
    pub affinity: Option<AffinityPlan>,
    /// Tell the client how its request was steered.
    pub expose: bool,
    /// Who may use it, unless everybody may.
    pub access: Option<Box<AccessPlan>>,
    /// Who may use it, by what they can prove.
    pub auth: Option<Box<AuthPlan>>,
    /// How often one client may come: all of these must hold.
    pub rate_limits: Vec<RateLimitPlan>,
    /// What browsers are told.
    pub browser: Arc<BrowserPlan>,
    /// Changes to the request's headers.
    pub request_headers: Arc<HeaderEditsPlan>,
    /// Changes to the answer's headers.
    pub response_headers: Arc<HeaderEditsPlan>,
    /// Taken off the path before the request is sent on; without a trailing slash.
    pub strip_prefix: Option<Arc<str>>,
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPlan {
    /// Tries, with the first.
    pub tries: u32,
    /// When there was no connection.
    pub on_connect: bool,
    /// When the connection broke before there was an answer.
    pub on_reset: bool,
    /// When there was no answer in time.
    pub on_timeout: bool,
    /// When the answer had one of these statuses.
    pub on_statuses: Vec<u16>,
    /// How long one try may take until response headers come.
    pub per_try: Option<Duration>,
    /// Tries that are not the first of their request, as a fraction of the route's requests.
    pub budget: f64,
    /// The largest body that is kept for another try, in bytes.
    pub max_body: u64,
}

impl RoutePlan {
    /// Whether two tries of a request with this method may be under way at the same time: GET, HEAD and
    /// OPTIONS, unless the route says otherwise.
    pub fn may_hedge(&self, method: &Method) -> bool {
        match &self.hedge {
            Some(hedge) => hedge.methods.contains(method),
            None => [Method::GET, Method::HEAD, Method::OPTIONS].contains(method),
        }
    }
}

/// Tries of one request at the same time.
#[derive(Clone, Debug, PartialEq)]
pub struct HedgePlan {
    /// When it begins; `None`: never because the first is slow.
    pub after: Option<HedgeAfterPlan>,
    /// As a fraction of the route's requests.
    pub budget: f64,
    /// The methods of which two tries may be under way at the same time.
    pub methods: Vec<Method>,
}

/// When a second try begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HedgeAfterPlan {
    /// After this time.
    Time(Duration),
    /// When so many of a hundred recent answers had come.
    Percentile(u8),
}

/// What a client is known by, so that it stays where it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AffinityPlan {
    /// A cookie of this name, which says where.
    Cookie(Arc<str>),
    /// This header's value.
    Header(HeaderName),
    /// Its address.
    ClientIp,
}

/// What happens when nobody can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAllDownPlan {
    /// Try whatever is there.
    TryAll,
    /// Answer with this status and this Retry-After.
    Respond {
        /// 400 to 599.
        status: u16,
        /// Whole seconds matter.
        retry_after: Duration,
    },
}

/// Changes to headers: first removed, then set, then added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEditsPlan {
    /// Gone afterwards.
    pub remove: Vec<HeaderName>,
    /// Have this value afterwards.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Have this value besides those before.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEditsPlan {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut Fields) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name.clone(), value.clone());
        }
    }
}
