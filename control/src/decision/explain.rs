//! What would become of a request? For `portolan explain`, and for the tests that a configuration
//! brings along. Decided by the same code that serves, over pools whose health is made up.

mod admission;
mod auth;
pub mod question;

use std::net::SocketAddr;
use std::sync::Arc;

use portolan_config::diagnostic::{Code, Diagnostic};
use portolan_config::plan::{
    AffinityPlan, EndpointPlan, Plan, PoolId, PoolPlan, RequestHead, RoutePlan, TestPlan,
    WhenAllDownPlan, normal_host,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::admission::Admission;
use crate::clock::Tick;
use crate::decision::Decision;
use crate::decision::affinity::ClientAffinity;
use crate::decision::decide::{denied_words, route_access};
use crate::decision::explain::question::Question;
use crate::geo::{Locator, Whereabouts};
use crate::health::outlier::EjectionState;
use crate::health::verdict::{Health, Verdict};
use crate::pool::dial::Dial;
use crate::pool::endpoint::{Endpoint, EndpointKey};
use crate::pool::endpoint_view::EndpointView;
use crate::pool::view::PoolView;
use crate::snapshot::{ClassTables, Snapshot};
use crate::steering::Table;

pub use self::auth::AuthExplained;
pub use crate::decision::explain::question::Entrance;

/// What would become of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The listener by which it would come in, as configured, if one was asked.
    #[serde(default)]
    pub listener: Option<String>,
    /// The route it would take, or none.
    pub route: Option<Arc<str>>,
    /// Where its client is: `DE`, `US-CA`, or `-`.
    pub client: String,
    /// By what that is known, if the client has an address: the operator's `geoip.patch`, what the
    /// address is by its purpose, or a database.
    #[serde(default)]
    pub client_by: Option<String>,
    /// The client's autonomous system, if it was asked for and is known.
    pub system: Option<u32>,
    /// By which health shares were given.
    pub basis: String,
    /// The pools that could get it, the largest share first.
    pub pools: Vec<PoolShare>,
    /// The share that would be refused: 0 to 1.
    pub refused: f64,
    /// The status that Portolan would answer with itself, if no pool could get it.
    pub status: Option<u16>,
    /// What keeps its client where it is, if the route has affinity.
    #[serde(default)]
    pub affinity: Option<Affinity>,
    /// Why the listener or the route is not for its client, if it is not.
    #[serde(default)]
    pub denied: Option<String>,
    /// What the route's `auth` would say, if it has one. It is asked before a pool gets the request.
    #[serde(default)]
    pub auth: Option<AuthExplained>,
}

/// What keeps a client where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AffinityEntry")]
pub struct Affinity {
    /// What the client is known by: `cookie portolan`, `header x-session` or `client_ip`.
    pub by: String,
    /// The pool where it is at home, if the request says enough.
    pub pool: Option<Arc<str>>,
    /// The endpoint there, if its address is known.
    pub endpoint: Option<String>,
}

/// A pool that could get a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolShare {
    /// Its name.
    pub pool: Arc<str>,
    /// Its share: 0 to 1.
    pub share: f64,
    /// How it came to it.
    pub why: Arc<str>,
}

/// What would become of a request in this picture of the world.
pub fn explain(snapshot: &Snapshot, question: &Question<'_>) -> Explanation {
    let Some(entrance) = question.entrance else {
        return routed(snapshot, question);
    };
    let Some((listener, admission)) = admission::admission(snapshot, question, entrance) else {
        return routed(snapshot, question);
    };
    let mut explanation = match admission {
        Admission::Admitted => routed(snapshot, question),
        Admission::Redirected => Explanation {
            refused: 0.0,
            ..nowhere(308, "the listener sends every request to https")
        },
        Admission::Refused(status, why) => nowhere(status, &why),
        Admission::Denied(why) => Explanation {
            denied: Some(why),
            ..nowhere(403, "access")
        },
    };
    explanation.listener = Some(listener.bind.to_string());
    explanation
}

/// What becomes of a request that takes no route.
fn nowhere(status: u16, why: &str) -> Explanation {
    Explanation {
        listener: None,
        route: None,
        client: "-".to_owned(),
        client_by: None,
        system: None,
        basis: why.to_owned(),
        pools: Vec::new(),
        refused: 1.0,
        status: Some(status),
        affinity: None,
        denied: None,
        auth: None,
    }
}

/// What becomes of a request that a listener has let in.
fn routed(snapshot: &Snapshot, question: &Question<'_>) -> Explanation {
    let host = normal_host(question.host);
    let path = match snapshot.plan.paths.normal(question.path) {
        Ok(path) => path,
        Err(fault) => return nowhere(400, &format!("the path {fault}")),
    };
    let head = RequestHead {
        host: &host,
        path: &path,
        method: question.method,
        headers: question.headers,
    };
    let Some(route) = snapshot.route(&head) else {
        return nowhere(404, "no route");
    };
    let found = whereabouts(snapshot, route, question);
    if let Err(denied) = route_access(route, question.client, &found) {
        return Explanation {
            listener: None,
            route: Some(route.name.clone()),
            client: snapshot.plan.locations.label(found.place).to_owned(),
            client_by: client_by(snapshot, question),
            system: found.system,
            basis: "access".to_owned(),
            pools: Vec::new(),
            refused: 1.0,
            status: Some(403),
            affinity: None,
            denied: Some(denied_words("the route", denied)),
            auth: None,
        };
    }
    if let Some(redirect) = &route.redirect {
        return Explanation {
            listener: None,
            route: Some(route.name.clone()),
            client: snapshot.plan.locations.label(found.place).to_owned(),
            client_by: client_by(snapshot, question),
            system: found.system,
            basis: "redirect".to_owned(),
            pools: Vec::new(),
            refused: 0.0,
            status: Some(redirect.status),
            affinity: None,
            denied: None,
            auth: auth::explain(snapshot, route, question),
        };
    }
    let tables = snapshot.tables_without(route.target, question.client, &found, &[]);
    let mut explanation = explained(snapshot, route, &found, &tables);
    explanation.client_by = client_by(snapshot, question);
    explanation.affinity = affinity(snapshot, route, question, &tables);
    explanation.auth = auth::explain(snapshot, route, question);
    explanation
}

/// Where the client of a question is at home. Cookies are only understood where they are made.
fn affinity(
    snapshot: &Snapshot,
    route: &RoutePlan,
    question: &Question<'_>,
    tables: &ClassTables,
) -> Option<Affinity> {
    let by = match route.affinity.as_ref()? {
        AffinityPlan::Cookie(name) => format!("cookie {name}"),
        AffinityPlan::Header(name) => format!("header {name}"),
        AffinityPlan::ClientIp => "client_ip".to_owned(),
    };
    let tie = ClientAffinity::of(snapshot, route, question.headers, question.client, || None);
    let Some(Decision::Pool { pool, basis, .. }) =
        tie.decide(snapshot, tables, route.when_all_down)
    else {
        return Some(Affinity {
            by,
            pool: None,
            endpoint: None,
        });
    };
    let view = &snapshot.pools[pool.index()];
    let address = tie
        .endpoint(view, basis, &[])
        .map(|at| view.endpoints[at].live.key.address);
    Some(Affinity {
        by,
        pool: Some(view.plan.name.shared()),
        endpoint: address
            // A name that nobody was asked for.
            .filter(|address| !address.ip().is_unspecified())
            .map(|address| address.to_string()),
    })
}

/// By what it is known where the client of a question is.
fn client_by(snapshot: &Snapshot, question: &Question<'_>) -> Option<String> {
    let looked_up = question.client.filter(|_| question.place.is_none());
    looked_up.map(|client| snapshot.locator.source_of(client))
}

fn whereabouts(snapshot: &Snapshot, route: &RoutePlan, question: &Question<'_>) -> Whereabouts {
    let mut found = match question.client {
        // Even where the route does not ask, people do.
        Some(client) if question.place.is_none() => {
            let mut needs = route.needs;
            needs.place = true;
            snapshot
                .locator
                .locate(client, needs, &snapshot.plan.locations)
        }
        _ => Whereabouts::UNKNOWN,
    };
    if let Some(place) = question.place {
        found.place = place;
    }
    found.system = question.system.or(found.system);
    found
}

fn explained(
    snapshot: &Snapshot,
    route: &RoutePlan,
    found: &Whereabouts,
    tables: &ClassTables,
) -> Explanation {
    let (table, own): (&Table, Option<u16>) = match (&tables.when_all_down, route.when_all_down) {
        (Some(_), WhenAllDownPlan::Respond { status, .. }) => (&tables.main, Some(status)),
        (Some(rest), WhenAllDownPlan::TryAll) => (rest, None),
        (None, _) => (&tables.main, None),
    };
    let mut pools: Vec<PoolShare> = table
        .entries()
        .iter()
        .map(|entry| PoolShare {
            pool: snapshot.pools[entry.pool.index()].plan.name.shared(),
            share: entry.share,
            why: entry.why.clone(),
        })
        .collect();
    pools.sort_by(|a, b| b.share.total_cmp(&a.share));
    Explanation {
        listener: None,
        route: Some(route.name.clone()),
        client: snapshot.plan.locations.label(found.place).to_owned(),
        client_by: None,
        system: found.system,
        basis: table.basis.words().to_owned(),
        refused: table.refused,
        status: own.or_else(|| pools.is_empty().then_some(503)),
        pools,
        affinity: None,
        denied: None,
        auth: None,
    }
}

/// A picture of the world in which every endpoint is healthy but these.
pub fn hypothetical(
    plan: &Arc<Plan>,
    locator: &Arc<Locator>,
    pools_down: &[PoolId],
    endpoints_down: &[(PoolId, SocketAddr)],
) -> Snapshot {
    let view = |pool: &Arc<PoolPlan>| {
        let endpoints = pool.endpoints.iter().map(|endpoint| {
            let (address, weight, backup) = match endpoint {
                EndpointPlan::Address {
                    address,
                    weight,
                    backup,
                } => (*address, *weight, *backup),
                // Nobody was asked for its addresses: it stands for them.
                EndpointPlan::Dns {
                    port,
                    weight,
                    backup,
                    ..
                } => (SocketAddr::from(([0, 0, 0, 0], *port)), *weight, *backup),
            };
            let down =
                pools_down.contains(&pool.id) || endpoints_down.contains(&(pool.id, address));
            let mut health = Health::unknown(Tick::ZERO);
            health.verdict = if down {
                Verdict::Unhealthy
            } else {
                Verdict::Healthy
            };
            EndpointView {
                live: Arc::new(Endpoint::new(EndpointKey {
                    pool: pool.name.clone(),
                    address,
                })),
                dial: Dial::new(()),
                weight,
                drained: None,
                backup,
                name: None,
                health,
                leaving: false,
                standing: EjectionState::Free,
                ramp: 1.0,
            }
        });
        Arc::new(PoolView::new(
            pool.clone(),
            endpoints.collect(),
            true,
            Arc::default(),
        ))
    };
    let pools = plan.pools.iter().map(view).collect();
    Snapshot::new(plan.clone(), locator.clone(), pools, Tick::ZERO)
}

/// Runs the tests that a configuration brings along. One diagnostic for each that fails.
pub fn run_tests(plan: &Arc<Plan>, locator: &Arc<Locator>) -> Vec<Diagnostic> {
    plan.tests
        .iter()
        .filter_map(|test| {
            let snapshot = hypothetical(plan, locator, &test.pools_down, &test.endpoints_down);
            let wrong = run_test(&snapshot, test);
            (!wrong.is_empty()).then(|| {
                Diagnostic::error(
                    Code::TestFailed,
                    test.origin,
                    format!("the test `{}` fails: {}", test.name, wrong.join("; ")),
                )
            })
        })
        .collect()
}

/// Everything that is not as the test expects.
fn run_test(snapshot: &Snapshot, test: &TestPlan) -> Vec<String> {
    /// Shares are told in percent, to half a percent.
    const CLOSE: f64 = 0.005 + 1e-9;

    let got = explain(
        snapshot,
        &Question {
            client: test.ip,
            place: test.location,
            system: test.asn,
            host: &test.host,
            path: &test.path,
            method: &test.method,
            headers: &test.headers,
            entrance: None,
            now: None,
        },
    );
    let mut wrong = Vec::new();
    let name = |pool: &PoolId| snapshot.plan.pools[pool.index()].name.as_str();
    let told = || {
        let shares: Vec<String> = got
            .pools
            .iter()
            .map(|pool| format!("{} {}%", pool.pool, percent(pool.share)))
            .collect();
        if shares.is_empty() {
            "nobody".to_owned()
        } else {
            shares.join(", ")
        }
    };
    if let Some(route) = &test.route
        && got.route.as_deref() != Some(route)
    {
        let taken = got.route.as_deref().unwrap_or("none");
        wrong.push(format!("the route is `{taken}`, not `{route}`"));
    }
    if let Some(only) = &test.only {
        let mut expected: Vec<&str> = only.iter().map(name).collect();
        let mut actual: Vec<&str> = got.pools.iter().map(|pool| &*pool.pool).collect();
        expected.sort_unstable();
        expected.dedup();
        actual.sort_unstable();
        if expected != actual {
            wrong.push(format!(
                "it goes to {}, not only to {}",
                told(),
                expected.join(", ")
            ));
        }
    }
    for (pool, expected) in &test.share {
        let actual = got
            .pools
            .iter()
            .find(|share| &*share.pool == name(pool))
            .map_or(0.0, |s| s.share);
        if (actual - expected).abs() > CLOSE {
            wrong.push(format!(
                "{} gets {}%, not {}%",
                name(pool),
                percent(actual),
                percent(*expected)
            ));
        }
    }
    if let Some(expected) = test.status
        && got.status.map(u32::from) != Some(expected)
    {
        wrong.push(match got.status {
            Some(status) => format!("the status is {status}, not {expected}"),
            None => format!(
                "it goes to {}, instead of being answered with {expected}",
                told()
            ),
        });
    }
    wrong
}

/// A share in percent, without digits that say nothing.
fn percent(share: f64) -> String {
    let rounded = (share * 1000.0).round() / 10.0;
    rounded.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::{Machine, check_text};

    const POOLS: &str = "
listeners: [ { bind: '127.0.0.1:0' } ]
pools:
  aws: { cloud: aws, region: us-east-1, endpoints: [ '10.0.0.1:80', '10.0.0.2:80' ] }
  azure: { cloud: azure, region: westeurope, endpoints: [ { dns: 'azure.internal:80' } ] }
routes:
  - name: api
    host: api.example.com
    to: { geo: [ { clients: { continents: [ EU ] }, to: { tiers: [ azure, aws ] } }, { to: { split: { aws: 70, azure: 30 } } } ] }
    when_all_down: { respond: { status: 503 } }
tests:
";

    fn failures(tests: &str) -> Vec<String> {
        let checked = check_text("t", format!("{POOLS}{tests}"), &Machine::default());
        let plan = checked
            .plan
            .unwrap_or_else(|| panic!("{:?}", checked.report.first_error()));
        let failed = run_tests(&plan, &Arc::new(Locator::default()));
        failed
            .into_iter()
            .map(|diagnostic| diagnostic.message)
            .collect()
    }

    #[test]
    fn tests_that_hold_say_nothing() {
        let none = failures(
            "
  - { name: a, client: { country: DE }, request: { host: api.example.com }, expect: { only: [ azure ], route: api } }
  - { name: b, client: { country: DE }, request: { host: api.example.com }, down: [ azure ], expect: { only: [ aws ] } }
  - { name: c, request: { host: API.example.com. }, expect: { share: { aws: 70, azure: 30 } } }
  - { name: d, request: { host: api.example.com }, down: [ 'aws/10.0.0.1:80' ], expect: { share: { aws: 62, azure: 38 } } }
  - { name: e, request: { host: other.example.com }, expect: { status: 404 } }
  - { name: f, request: { host: api.example.com }, down: [ aws, azure ], expect: { status: 503 } }
",
        );
        assert_eq!(none, [""; 0]);
    }

    #[test]
    fn tests_that_fail_say_what_happens_instead() {
        let said = failures(
            "
  - { name: a, client: { country: US }, request: { host: api.example.com }, expect: { only: [ azure ] } }
  - { name: b, request: { host: api.example.com }, expect: { share: { aws: 60 } } }
  - { name: c, request: { host: other.example.com }, expect: { route: api } }
  - { name: d, request: { host: api.example.com }, expect: { status: 503 } }
",
        );
        assert_eq!(
            said,
            [
                "the test `a` fails: it goes to aws 70%, azure 30%, not only to azure",
                "the test `b` fails: aws gets 70%, not 60%",
                "the test `c` fails: the route is `none`, not `api`",
                "the test `d` fails: it goes to aws 70%, azure 30%, instead of being answered with 503",
            ]
        );
    }
}
