//! What a process that takes over is told about the endpoints, so that it need not find out itself:
//! verdicts, ejections, slow starts, averages of latency, addresses of names.
//!
//! The two processes may be of different versions. So nothing here is required: a field that is
//! missing has its default, one that is unknown is ignored, and an entry that cannot be understood
//! is left out, which leaves its endpoint as unknown as without a hand-over. Moments are in
//! milliseconds of the clock that the new process [goes on with](crate::clock::Clock::going_on).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_config::names::Name;
use portolan_config::scalar::FromScalar as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Tick;
use crate::health::outlier::HandedRecord;
use crate::health::verdict::{Health, Verdict};
use crate::pool::endpoint::{EndpointKey, Measured};

/// Everything that is handed over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Handover {
    pub(crate) endpoints: HashMap<EndpointKey, Known>,
    /// The addresses of names, as far as they were answered for.
    pub(crate) names: HashMap<Arc<str>, Vec<IpAddr>>,
    /// When pools came back, for their slow start.
    pub(crate) came_back: HashMap<Name, Tick>,
}

/// What is known of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Known {
    pub(crate) health: Health,
    pub(crate) record: HandedRecord,
    pub(crate) came_back: Option<Tick>,
    pub(crate) measured: Measured,
}

/// As it travels.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Letter {
    endpoints: Vec<Value>,
    names: Vec<Value>,
    pools: Vec<Value>,
}

#[derive(Debug, Serialize, Deserialize)]
struct EndpointLetter {
    pool: String,
    address: SocketAddr,
    verdict: String,
    #[serde(default)]
    because: String,
    #[serde(default)]
    since: u64,
    #[serde(default)]
    against: u32,
    #[serde(default)]
    record: Value,
    #[serde(default)]
    came_back: Option<u64>,
    #[serde(default)]
    measured: Value,
}

#[derive(Debug, Serialize, Deserialize)]
struct NameLetter {
    host: String,
    addresses: Vec<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PoolLetter {
    pool: String,
    came_back: u64,
}

fn milliseconds(tick: Tick) -> u64 {
    tick.since_start().as_millis() as u64
}

fn tick(milliseconds: u64) -> Tick {
    Tick::after(Duration::from_millis(milliseconds))
}

impl Handover {
    /// What probes found out, and the addresses of names: without what was measured and what requests told,
    /// which may be what a core stumbles over.
    pub(crate) fn verdicts_alone(mut self) -> Self {
        for known in self.endpoints.values_mut() {
            known.record = HandedRecord::default();
            known.came_back = None;
            known.measured = Measured::default();
        }
        self.came_back.clear();
        self
    }

    /// As it travels.
    pub fn to_json(&self) -> Value {
        let value = |it: Result<Value, serde_json::Error>| it.ok();
        let endpoints = self.endpoints.iter().filter_map(|(key, known)| {
            value(serde_json::to_value(EndpointLetter {
                pool: key.pool.to_string(),
                address: key.address,
                verdict: known.health.verdict.as_str().to_owned(),
                because: known.health.because.to_string(),
                since: milliseconds(known.health.since),
                against: known.health.against(),
                record: serde_json::to_value(known.record).unwrap_or_default(),
                came_back: known.came_back.map(milliseconds),
                measured: serde_json::to_value(known.measured).unwrap_or_default(),
            }))
        });
        let names = self.names.iter().filter_map(|(host, addresses)| {
            value(serde_json::to_value(NameLetter {
                host: host.to_string(),
                addresses: addresses.clone(),
            }))
        });
        let pools = self.came_back.iter().filter_map(|(pool, came_back)| {
            value(serde_json::to_value(PoolLetter {
                pool: pool.to_string(),
                came_back: milliseconds(*came_back),
            }))
        });
        let letter = Letter {
            endpoints: endpoints.collect(),
            names: names.collect(),
            pools: pools.collect(),
        };
        serde_json::to_value(letter).unwrap_or_default()
    }

    /// Takes what can be understood.
    pub fn from_json(value: Value) -> Self {
        let letter: Letter = serde_json::from_value(value).unwrap_or_default();
        let endpoints = letter.endpoints.into_iter().filter_map(|value| {
            let letter: EndpointLetter = serde_json::from_value(value).ok()?;
            let key = EndpointKey {
                pool: Name::parse(&letter.pool).ok()?,
                address: letter.address,
            };
            let health = Health::handed_over(
                Verdict::from_word(&letter.verdict)?,
                letter.because.into(),
                tick(letter.since),
                letter.against,
            );
            let known = Known {
                health,
                record: serde_json::from_value(letter.record).unwrap_or_default(),
                came_back: letter.came_back.map(tick),
                measured: serde_json::from_value(letter.measured).unwrap_or_default(),
            };
            Some((key, known))
        });
        let names = letter.names.into_iter().filter_map(|value| {
            let letter: NameLetter = serde_json::from_value(value).ok()?;
            Some((letter.host.into(), letter.addresses))
        });
        let pools = letter.pools.into_iter().filter_map(|value| {
            let letter: PoolLetter = serde_json::from_value(value).ok()?;
            Some((Name::parse(&letter.pool).ok()?, tick(letter.came_back)))
        });
        Self {
            endpoints: endpoints.collect(),
            names: names.collect(),
            came_back: pools.collect(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.names.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::outlier::Record;
    use portolan_config::plan::OutlierPlan;
    use serde_json::json;

    const POLICY: OutlierPlan = OutlierPlan {
        consecutive_failures: 3,
        eject_for: Duration::from_secs(2),
        max_ejected: 0.5,
    };

    fn key() -> EndpointKey {
        EndpointKey {
            pool: Name::parse("aws").unwrap(),
            address: "10.0.0.1:80".parse().unwrap(),
        }
    }

    #[test]
    fn everything_arrives() {
        use crate::health::outlier::OutlierEvent;
        use crate::health::outlier::fault::EndpointFault;
        let now = tick(5_000);
        let (ejected, _) =
            Record::default().step(&POLICY, OutlierEvent::Run(3, EndpointFault::Connect), now);
        let known = Known {
            health: Health::handed_over(Verdict::Unhealthy, "it broke".into(), tick(17), 1),
            record: HandedRecord::from(&ejected),
            came_back: Some(tick(9)),
            measured: Measured::default(),
        };
        let handover = Handover {
            endpoints: [(key(), known)].into(),
            names: [("api.test".into(), vec!["10.0.0.9".parse().unwrap()])].into(),
            came_back: [(Name::parse("aws").unwrap(), tick(3))].into(),
        };
        let text = handover.to_json().to_string();
        let arrived = Handover::from_json(serde_json::from_str(&text).unwrap());
        assert_eq!(arrived, handover);
        let record = &arrived.endpoints[&key()].record;
        let record = Record::handed_over(record, &POLICY);
        assert_eq!(record.standing, ejected.standing);
        // And what it makes of that is what the other one would have made of it.
        let (freed, _) = record.step(&POLICY, OutlierEvent::Recovered, tick(6_000));
        let (other, _) = ejected.step(&POLICY, OutlierEvent::Recovered, tick(6_000));
        assert_eq!(freed, other);
    }

    #[test]
    fn what_another_version_says_is_taken_as_far_as_it_is_understood() {
        let endpoint = |more: Value| {
            let mut endpoint =
                json!({ "pool": "aws", "address": "10.0.0.1:80", "verdict": "healthy" });
            endpoint
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            Handover::from_json(json!({ "endpoints": [ endpoint ], "more": {} }))
        };
        for more in [
            json!({}),
            json!({ "mood": "fine" }),
            json!({ "record": { "ejection": { "reason": "bad weather" } } }),
            json!({ "record": { "ejection": null, "karma": 7 } }),
            json!({ "record": 5, "measured": "fast" }),
            json!({ "measured": { "traffic": [5, 6] } }),
        ] {
            let handover = endpoint(more.clone());
            let known = &handover.endpoints.get(&key());
            let known = known.unwrap_or_else(|| panic!("{more}"));
            assert_eq!(known.health.verdict, Verdict::Healthy, "{more}");
            let record = Record::handed_over(&known.record, &POLICY);
            assert_eq!(
                record.standing,
                crate::health::outlier::EjectionState::Free,
                "{more}"
            );
        }
        for broken in [
            json!({ "verdict": "so-so" }),
            json!({ "address": "nowhere" }),
            json!({ "pool": "a b" }),
            json!({ "since": "yesterday" }),
        ] {
            assert!(endpoint(broken.clone()).is_empty(), "{broken}");
        }
        for nothing in [
            json!(null),
            json!([]),
            json!({ "endpoints": 5 }),
            json!("x"),
        ] {
            assert!(Handover::from_json(nothing.clone()).is_empty(), "{nothing}");
        }
    }
}
