//! What runs now, as data: what the admin API answers, and what the commands print.

mod certificates;
mod token_keys;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::plan::ServiceId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::counters::ByClass;
use crate::events::reload::Reloaded;
use crate::health::verdict::Verdict;
use crate::overrides::{Override, Overrides, Subject, weights};
use crate::pool::view::PoolView;
use crate::reload::{LastAttempt, Running, Waiting};
use crate::snapshot::Snapshot;
use crate::steering::{Basis, Table};
use crate::telemetry::ledger::Outcome;
use crate::telemetry::listener_status::ListenerStatus;
use crate::telemetry::totals::Totals;

pub use self::certificates::{CertificateEntry, CertificateTotals, CertificatesEntry, FaultEntry};
pub use self::token_keys::TokenKeysEntry;

/// `GET /api/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// Portolan's version.
    pub version: String,
    /// `warming`, `ready`, `stopping`, or `handed over` to another process.
    pub state: String,
    /// The process.
    pub pid: u32,
    /// The socket where `portolan upgrade` is asked for, if there is one.
    pub upgrade_socket: Option<String>,
    /// Seconds since the process began.
    pub uptime_seconds: u64,
    /// The running configuration.
    pub config: ConfigStatus,
    /// The listeners.
    pub listeners: Vec<ListenerEntry>,
    /// The certificates that clients get.
    #[serde(default)]
    pub certificates: CertificateTotals,
    /// Keys that tokens are verified with.
    #[serde(default)]
    pub token_keys: Vec<TokenKeysEntry>,
    /// The geo databases in use.
    pub geo: Vec<GeoEntry>,
    /// For how long this instance has suspected its own network, in seconds, if it does.
    #[serde(default)]
    pub self_suspicion_seconds: Option<f64>,
    /// What should worry an operator.
    pub warnings: Vec<String>,
    /// Requests so far.
    pub requests: RequestTotals,
    /// Pools that can serve, and all.
    pub pools: PoolTotals,
    /// What operators have overridden.
    #[serde(default)]
    pub overrides: Vec<OverrideEntry>,
}

/// One entry of `/api/v1/overrides`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OverrideEntry {
    /// `drain` or `weights`.
    pub kind: String,
    /// The pool, if it is about one.
    pub pool: Option<String>,
    /// The endpoint, if it is about one.
    pub endpoint: Option<String>,
    /// The service, if it is about one.
    #[serde(default)]
    pub service: Option<String>,
    /// The weights of the service's members, if it is about them.
    #[serde(default)]
    pub weights: Option<BTreeMap<String, u32>>,
    /// Whose token it was, or `local` where no tokens are needed.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Until when, in seconds since 1970.
    pub until: u64,
    /// How long it has still to run, in seconds.
    pub remaining_seconds: f64,
    /// It does not fit the running configuration: nothing is overridden for now.
    pub idle: bool,
    /// Why it is idle.
    #[serde(default)]
    pub because: Option<String>,
}

impl OverrideEntry {
    /// An override at `now`, since 1970.
    pub fn new(subject: &Subject, it: &Override, snapshot: &Snapshot, now: Duration) -> Self {
        let because = match subject.service() {
            Some(service) => {
                let misfit = snapshot.weights.misfits().get(service);
                misfit.map(ToString::to_string)
            }
            None => (!exists(snapshot, subject)).then(|| format!("there is no {subject}")),
        };
        Self {
            kind: it.decision.kind().to_owned(),
            pool: subject.pool().map(ToString::to_string),
            endpoint: subject.endpoint().map(|address| address.to_string()),
            service: subject.service().map(ToString::to_string),
            weights: it.decision.weights().map(|weights| weights.to_map()),
            by: it.lease.by.to_string(),
            reason: it.lease.reason.as_str().to_owned(),
            since: it.lease.since.as_secs(),
            until: it.lease.until.as_secs(),
            remaining_seconds: it.lease.until.saturating_sub(now).as_secs_f64(),
            idle: because.is_some(),
            because,
        }
    }

    /// Everything that is overridden at `now`, since 1970.
    pub fn all(overrides: &Overrides, snapshot: &Snapshot, now: Duration) -> Vec<Self> {
        overrides
            .iter()
            .map(|(subject, it)| Self::new(subject, it, snapshot, now))
            .collect()
    }
}

/// Whether a snapshot has this pool, or this endpoint.
pub fn exists(snapshot: &Snapshot, subject: &Subject) -> bool {
    let Some(name) = subject.pool() else {
        return false;
    };
    let pool = snapshot.pools.iter().find(|view| view.plan.name == *name);
    pool.is_some_and(|view| {
        subject.endpoint().is_none_or(|address| {
            let mut endpoints = view.endpoints.iter();
            endpoints.any(|endpoint| endpoint.live.key.address == address)
        })
    })
}

/// The running configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConfigStatus {
    /// What it is known by.
    pub hash: String,
    /// How many configurations have run since the start, this one included.
    pub generation: u64,
    /// When it was applied, in seconds since 1970.
    pub applied: u64,
    /// Whether it is the last known good one, used because the file could not be.
    pub last_known_good: bool,
    /// The last attempt to replace it.
    pub last_reload: Option<ReloadEntry>,
    /// A change of its files that is not believed yet.
    pub waiting: Option<WaitingEntry>,
}

/// A change of the configuration's files that is not believed yet, because one of them looks unfinished.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WaitingEntry {
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// The file.
    pub file: String,
    /// Why, in words.
    pub reason: String,
}

/// An attempt to replace the configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReloadEntry {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Who asked.
    pub trigger: String,
    /// `applied`, `unchanged` or `refused`.
    pub outcome: String,
    /// What was wrong, if it was refused: the first error.
    pub error: Option<String>,
    /// Everything that was found, if it was refused.
    pub report: Option<serde_json::Value>,
}

/// A listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ListenerEntry {
    /// The address in the configuration.
    pub configured: String,
    /// The address it really has.
    pub address: String,
    /// Whether it terminates TLS.
    pub tls: bool,
    /// Open connections.
    pub connections: i64,
}

/// A geo database.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GeoEntry {
    /// Its path, or `built in`.
    pub name: String,
    /// What kind it says it is.
    pub kind: String,
    /// When it was built, in seconds since 1970.
    pub built: u64,
}

/// Requests so far.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RequestTotals {
    /// All that have ended.
    pub total: u64,
    /// By the first digit of the status.
    pub by_class: BTreeMap<String, u64>,
    /// How they ended: `answered`, `client_gone` or `refused`.
    #[serde(default)]
    pub outcomes: BTreeMap<String, u64>,
    /// How many were accepted. Those that have not ended are under way.
    #[serde(default)]
    pub accepted: u64,
}

/// How many pools can serve.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PoolTotals {
    /// Those that can take any traffic.
    pub up: usize,
    /// All of them.
    pub total: usize,
}

/// `GET /api/v1/pools/{name}`, and one entry of `/api/v1/pools`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PoolEntry {
    /// Its name.
    pub name: String,
    /// Whose cloud it is.
    pub cloud: Option<String>,
    /// The region's code.
    pub region: Option<String>,
    /// Whether it can take any traffic.
    pub up: bool,
    /// How much of its traffic it can take: 0 to 1.
    pub availability: f64,
    /// Whether it is drained, by the configuration or by an operator.
    pub drained: bool,
    /// Which operator has drained it, why and until when.
    #[serde(default)]
    pub drain: Option<OverrideEntry>,
    /// Healthy endpoints of those that count.
    pub healthy: usize,
    /// Endpoints that count.
    pub counted: usize,
    /// Endpoints that are ejected.
    #[serde(default)]
    pub ejected: usize,
    /// Requests under way.
    pub in_flight: u64,
    /// Its endpoints.
    pub endpoints: Vec<EndpointEntry>,
}

/// An endpoint.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EndpointEntry {
    /// Its address.
    pub address: String,
    /// The name it was found under.
    pub name: Option<String>,
    /// Whether the name has it no longer, and it serves until another address can.
    #[serde(default)]
    pub leaving: bool,
    /// Its weight.
    pub weight: u32,
    /// Whether it only serves when no other can.
    pub backup: bool,
    /// Who has drained it, why and until when.
    #[serde(default)]
    pub drain: Option<OverrideEntry>,
    /// `unknown`, `healthy`, `unhealthy` or `ejected`.
    pub health: String,
    /// Why.
    pub because: String,
    /// For how long, in seconds.
    pub for_seconds: f64,
    /// Whether it has been silent for longer than is plausible.
    pub suspect: bool,
    /// How much of its weight it gets: less than 1 on trial after an ejection, and in a slow start.
    #[serde(default = "whole")]
    pub part: f64,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests so far.
    pub requests: u64,
    /// Smoothed time to response headers, in milliseconds.
    pub latency_ms: Option<f64>,
    /// How long the last probe took, in milliseconds.
    pub probe_ms: Option<f64>,
}

/// The part of its weight that an endpoint of an older instance gets.
fn whole() -> f64 {
    1.0
}

/// One entry of `/api/v1/services`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceEntry {
    /// Its name.
    pub name: String,
    /// The members of the split that weights can be given to; none if there is no such split.
    #[serde(default)]
    pub members: Vec<MemberEntry>,
    /// Which operator has given other weights to its members, why and until when.
    #[serde(default)]
    pub r#override: Option<OverrideEntry>,
    /// Its shares, for every class of clients that it tells apart.
    pub classes: Vec<ClassEntry>,
}

/// A member of a service's split.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MemberEntry {
    /// The pool or the service.
    pub to: String,
    /// Its weight in the configuration.
    pub configured: u32,
    /// Its weight now.
    pub weight: u32,
}

/// Shares of one class of clients.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ClassEntry {
    /// By which health they were given.
    pub basis: String,
    /// The share that is refused.
    pub refused: f64,
    /// Who gets the rest.
    pub pools: Vec<ShareEntry>,
}

/// A pool's share.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShareEntry {
    /// The pool.
    pub pool: String,
    /// What it would be if every pool were healthy.
    pub asked: f64,
    /// What it is.
    pub effective: f64,
    /// How it came to it.
    pub why: Option<String>,
}

/// One entry of `/api/v1/routes`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RouteEntry {
    /// Its name.
    pub name: String,
    /// The pools its target can lead to.
    pub pools: Vec<String>,
    /// Its shares, for every class of clients that it tells apart.
    pub classes: Vec<ClassEntry>,
    /// Requests so far, by the first digit of the status.
    pub requests: BTreeMap<String, u64>,
}

impl ReloadEntry {
    /// The attempt as data.
    pub fn new(attempt: &LastAttempt) -> Self {
        let (outcome, report) = match &attempt.outcome {
            Reloaded::Applied { .. } => ("applied", None),
            Reloaded::Unchanged => ("unchanged", None),
            Reloaded::Refused(report) => ("refused", Some(report)),
        };
        Self {
            at: attempt.at,
            trigger: attempt.trigger.to_string(),
            outcome: outcome.to_owned(),
            error: report.and_then(|report| report.first_error()),
            report: report.map(|report| report.to_json()),
        }
    }
}

impl ConfigStatus {
    /// What runs.
    pub fn new(running: &Running, snapshot: &Snapshot, waiting: Option<&Waiting>) -> Self {
        Self {
            hash: running.plan.hash.to_string(),
            generation: snapshot.generation,
            applied: running.applied,
            last_known_good: running.last_known_good,
            last_reload: running.last_attempt.as_ref().map(ReloadEntry::new),
            waiting: waiting.map(|waiting| WaitingEntry {
                since: waiting.since,
                file: waiting.file.clone(),
                reason: waiting.doubt.to_string(),
            }),
        }
    }
}

impl From<&ListenerStatus> for ListenerEntry {
    fn from(listener: &ListenerStatus) -> Self {
        Self {
            configured: listener.configured.to_string(),
            address: listener.bound.to_string(),
            tls: listener.tls.is_some(),
            connections: listener.connections.get(),
        }
    }
}

impl RequestTotals {
    /// What was counted.
    pub fn new(totals: &Totals) -> Self {
        Self {
            total: totals.requests.total(),
            by_class: by_class(totals.requests.get()),
            outcomes: Outcome::NAMES
                .into_iter()
                .map(|name| (name.to_owned(), totals.ledger.total(name)))
                .collect(),
            // Last, so that it is never less than what has ended.
            accepted: totals.ledger.accepted(),
        }
    }
}

fn by_class(counts: [u64; 6]) -> BTreeMap<String, u64> {
    ByClass::NAMES
        .into_iter()
        .map(str::to_owned)
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// What an operator should know about an instance that suspects itself.
pub fn suspicion(snapshot: &Snapshot) -> Option<String> {
    snapshot.suspicion?;
    Some(
        "every probed pool failed at the same time: this instance's own network is the likelier \
         culprit, and traffic goes where it went before"
            .to_owned(),
    )
}

/// The databases of a snapshot.
pub fn geo(snapshot: &Snapshot) -> Vec<GeoEntry> {
    snapshot
        .locator
        .databases()
        .map(|database| GeoEntry {
            name: database.name.clone(),
            kind: database.kind.clone(),
            built: database.built.as_secs(),
        })
        .collect()
}

impl PoolTotals {
    /// The pools of a snapshot.
    pub fn new(snapshot: &Snapshot) -> Self {
        Self {
            up: snapshot
                .pools
                .iter()
                .filter(|pool| pool.availability > 0.0)
                .count(),
            total: snapshot.pools.len(),
        }
    }
}

impl PoolEntry {
    /// A pool at `now`.
    pub fn new(pool: &PoolView, now: crate::clock::Tick) -> Self {
        let milliseconds = |took: Duration| took.as_secs_f64() * 1000.0;
        Self {
            name: pool.plan.name.to_string(),
            cloud: pool.plan.cloud.as_deref().map(str::to_owned),
            region: pool.plan.region.as_deref().map(str::to_owned),
            up: pool.availability > 0.0,
            availability: pool.availability,
            drained: pool.plan.drain,
            drain: None,
            healthy: pool.healthy,
            counted: pool.counted,
            ejected: pool.ejected,
            in_flight: pool.in_flight(),
            endpoints: pool
                .endpoints
                .iter()
                .map(|endpoint| EndpointEntry {
                    address: endpoint.live.key.address.to_string(),
                    name: endpoint.name.as_deref().map(str::to_owned),
                    leaving: endpoint.leaving,
                    weight: endpoint.drained.unwrap_or(endpoint.weight),
                    backup: endpoint.backup,
                    drain: None,
                    health: endpoint.state().to_owned(),
                    because: endpoint.because(),
                    for_seconds: now.since(endpoint.since()).as_secs_f64(),
                    suspect: endpoint.live.stall.is_suspect(),
                    part: endpoint.part(),
                    in_flight: endpoint.live.in_flight(),
                    requests: endpoint.live.requests(),
                    latency_ms: endpoint.live.traffic_latency(now).map(milliseconds),
                    probe_ms: endpoint.live.last_probe().map(milliseconds),
                })
                .collect(),
        }
    }

    /// Says who has drained it and its endpoints.
    #[must_use]
    pub fn with_overrides(mut self, overrides: &[OverrideEntry]) -> Self {
        let of_this = |entry: &&OverrideEntry| entry.pool.as_ref() == Some(&self.name);
        for entry in overrides.iter().filter(of_this).collect::<Vec<_>>() {
            let slot = match &entry.endpoint {
                None => Some(&mut self.drain),
                Some(address) => self
                    .endpoints
                    .iter_mut()
                    .find(|endpoint| endpoint.address == *address)
                    .map(|endpoint| &mut endpoint.drain),
            };
            if let Some(slot) = slot {
                *slot = Some(entry.clone());
            }
        }
        self
    }

    /// How many endpoints have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.health == verdict.as_str())
            .count()
    }
}

/// The shares of a target, for every class of clients that it tells apart. Classes with the same
/// shares are told once.
pub fn classes(snapshot: &Snapshot, target: portolan_config::plan::TargetId) -> Vec<ClassEntry> {
    let classes = snapshot.plan.classes(target);
    let Some(tables) = &snapshot.tables[target.index()] else {
        return Vec::new();
    };
    let mut told: Vec<(&Table, ClassEntry)> = Vec::new();
    for (class, prepared) in classes.classes().iter().zip(tables.iter()) {
        let table = prepared.when_all_down.as_ref().unwrap_or(&prepared.main);
        if told.iter().any(|(other, _)| *other == table) {
            continue;
        }
        let asked = snapshot.asked_shares(target, class);
        let name = |pool: portolan_config::plan::PoolId| {
            snapshot.plan.pools[pool.index()].name.to_string()
        };
        let mut pools: Vec<ShareEntry> = asked
            .iter()
            .map(|(pool, share)| ShareEntry {
                pool: name(*pool),
                asked: *share,
                effective: table.share(*pool),
                why: table
                    .entries()
                    .iter()
                    .find(|e| e.pool == *pool)
                    .map(|e| e.why.to_string()),
            })
            .collect();
        for entry in table.entries() {
            if !asked.iter().any(|(pool, _)| *pool == entry.pool) {
                pools.push(ShareEntry {
                    pool: name(entry.pool),
                    asked: 0.0,
                    effective: entry.share,
                    why: Some(entry.why.to_string()),
                });
            }
        }
        let entry = ClassEntry {
            basis: match table.basis {
                Basis::Health => "health",
                Basis::Probed => "probed",
                Basis::Held => "held",
                Basis::HealthyEndpoints => "healthy_endpoints",
                Basis::EveryEndpoint => "every_endpoint",
            }
            .to_owned(),
            refused: table.refused,
            pools,
        };
        told.push((table, entry));
    }
    told.into_iter().map(|(_, entry)| entry).collect()
}

/// Every service of a snapshot, and how it is overridden.
pub fn services(snapshot: &Snapshot, overrides: &[OverrideEntry]) -> Vec<ServiceEntry> {
    let plan = &snapshot.plan;
    plan.services
        .iter()
        .enumerate()
        .map(|(at, service)| {
            let members = weights::members(plan, service).unwrap_or_default();
            let now = snapshot.weights.of(ServiceId::new(at));
            let entry =
                |entry: &&OverrideEntry| entry.service.as_deref() == Some(service.name.as_str());
            ServiceEntry {
                name: service.name.to_string(),
                members: members
                    .into_iter()
                    .enumerate()
                    .map(|(at, (name, configured))| MemberEntry {
                        to: name.to_string(),
                        configured,
                        weight: now.map_or(configured, |weights| weights[at]),
                    })
                    .collect(),
                r#override: overrides.iter().find(entry).cloned(),
                classes: classes(snapshot, service.target),
            }
        })
        .collect()
}

/// Every route of a snapshot.
pub fn routes(snapshot: &Snapshot) -> Vec<RouteEntry> {
    snapshot
        .plan
        .routes
        .iter()
        .zip(snapshot.routes.iter())
        .map(|(route, state)| {
            let mut counts = [0; 6];
            for (_, stats) in state.counted() {
                for (sum, count) in counts.iter_mut().zip(stats.requests.get()) {
                    *sum += count;
                }
            }
            let pools = &snapshot.plan.targets.node(route.target).pools;
            let name = |pool: &portolan_config::plan::PoolId| {
                Arc::<str>::from(snapshot.plan.pools[pool.index()].name.as_str()).to_string()
            };
            RouteEntry {
                name: route.name.to_string(),
                pools: pools.iter().map(name).collect(),
                classes: classes(snapshot, route.target),
                requests: by_class(counts),
            }
        })
        .collect()
}
