//! The metrics page: everything that is counted, in Prometheus' text format.
//!
//! Nothing is registered or looked up where requests pass. The page walks the current snapshot and
//! reads the atomics it finds there, so series appear when something is first counted and go with
//! the thing they are about. What there is to be seen is declared in [`family`], whose doc comments
//! are the help texts and the reference.

pub mod family;

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_certs::KeySet;
use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use self::family::{Family, Kind};
use crate::counters::{ByClass, DURATION_BUCKETS, RetryReason, RoutePoolStats, TryOutcome};
use crate::health::exhaustion::{SHORTAGES, Shortage};
use crate::health::outlier::EjectionReason;
use crate::snapshot::{Proof, Snapshot};
use crate::telemetry::listener_status::ListenerStatus;
use crate::telemetry::totals::Totals;

/// What the page is about.
#[derive(Debug)]
pub struct Page<'a> {
    /// The current snapshot.
    pub snapshot: &'a Snapshot,
    /// What is counted about the process.
    pub totals: &'a Totals,
    /// The listeners.
    pub listeners: &'a [ListenerStatus],
    /// Portolan's version.
    pub version: &'a str,
}

impl Page<'_> {
    /// The page.
    pub fn render(&self) -> String {
        let mut families = Families::default();
        self.process(&mut families);
        self.routes(&mut families);
        self.auth(&mut families);
        self.rate_limits(&mut families);
        self.pools(&mut families);
        self.services(&mut families);
        TextEncoder::new()
            .encode_to_string(&families.0)
            .unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn process(&self, families: &mut Families) {
        let totals = self.totals;
        families.gauges(&family::BUILD_INFO, [([self.version], 1.0)]);
        families.gauges(
            &family::CONFIG_INFO,
            [([self.snapshot.plan.hash.as_str()], 1.0)],
        );
        families.counters(
            &family::CONFIG_RELOADS,
            [
                (["applied"], totals.reloads_applied.get()),
                (["unchanged"], totals.reloads_unchanged.get()),
                (["refused"], totals.reloads_refused.get()),
            ],
        );
        let applied = totals
            .last_reload_success
            .load(std::sync::atomic::Ordering::Relaxed) as f64
            / 1000.0;
        families.gauges(&family::CONFIG_LAST_SUCCESS, [(NO_LABELS, applied)]);
        families.counters(
            &family::EDGE_EXHAUSTED,
            Shortage::ALL.map(|what| ([what.as_str()], SHORTAGES.count(what))),
        );
        families.counters(
            &family::UPGRADES,
            [
                (["done"], totals.upgrades_done.get()),
                (["failed"], totals.upgrades_failed.get()),
            ],
        );
        families.counters(
            &family::REFUSED_REQUESTS,
            totals
                .ledger
                .refused()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| ([reason], count)),
        );
        // Before those that were accepted: so the page never says that more have ended than have
        // begun.
        let outcomes = totals.ledger.outcomes();
        families.counters(
            &family::REQUEST_OUTCOMES,
            outcomes.filter(|(_, count)| *count > 0),
        );
        families.counters(
            &family::ACCEPTED_REQUESTS,
            [(NO_LABELS, totals.ledger.accepted())],
        );
        families.counters(
            &family::REFUSED_STREAMS,
            totals
                .refused_streams
                .get()
                .into_iter()
                .map(|(reason, n)| ([reason], n)),
        );
        families.counters(
            &family::REFUSED_CONNECTIONS,
            totals
                .refused_connections
                .get()
                .into_iter()
                .map(|(reason, n)| ([reason], n)),
        );
        families.gauges(
            &family::CONNECTIONS,
            self.listeners.iter().map(|listener| {
                (
                    [listener.bound.to_string()],
                    listener.connections.get() as f64,
                )
            }),
        );
        families.gauges(&family::HTTP2_HELD, [(NO_LABELS, totals.held.get() as f64)]);
        families.counters(
            &family::ACCESS_LOG_DROPPED,
            [(NO_LABELS, totals.access_log.lines.get())],
        );
        families.counters(
            &family::LOG_DROPPED,
            [(NO_LABELS, totals.process_log.lines.get())],
        );
        let failures = totals.task_failures.get();
        families.counters(
            &family::TASK_FAILURES,
            failures.into_iter().map(|(task, n)| ([task], n)),
        );
        families.gauges(
            &family::SELF_SUSPICION,
            [(
                NO_LABELS,
                f64::from(u8::from(self.snapshot.suspicion.is_some())),
            )],
        );
        families.gauges(
            &family::GEO_DATABASE_BUILD,
            self.snapshot
                .locator
                .databases()
                .map(|database| ([database.name.as_str()], database.built.as_secs_f64())),
        );
        self.tls(families);
    }

    fn tls(&self, families: &mut Families) {
        // Of several certificates for a name, the one that ends first.
        let mut ends: BTreeMap<String, i64> = BTreeMap::new();
        let mut faults = 0;
        let terminated = self
            .listeners
            .iter()
            .filter_map(|listener| listener.tls.as_ref());
        for server in terminated {
            faults += server.faults().len();
            for (_, bundle) in server.certificates() {
                for name in &bundle.names {
                    let end = ends.entry(name.clone()).or_insert(bundle.not_after);
                    *end = bundle.not_after.min(*end);
                }
            }
        }
        families.gauges(
            &family::TLS_CERTIFICATE_EXPIRY,
            ends.iter()
                .map(|(name, end)| ([name.as_str()], *end as f64)),
        );
        families.gauges(&family::CERTIFICATE_FAULTS, [(NO_LABELS, faults as f64)]);
        families.counters(
            &family::CERTIFICATE_RELOAD_FAILURES,
            self.totals
                .certificate_faults
                .get()
                .into_iter()
                .map(|(reason, n)| ([reason], n)),
        );
        families.counters(&family::ACME_ORDERS, self.totals.acme.orders());
        families.gauges(&family::ACME_CERTIFICATES, self.totals.acme.states());
        families.counters(
            &family::TLS_HANDSHAKES,
            self.listeners.iter().flat_map(|listener| {
                let address = listener.bound.to_string();
                let counted = listener.handshakes.counted();
                counted.map(move |([version, resumed, outcome], n)| {
                    let labels = [address.as_str(), version, resumed, outcome];
                    (labels.map(str::to_owned), n)
                })
            }),
        );
    }

    fn routes(&self, families: &mut Families) {
        let counted = || {
            self.snapshot.routes.iter().flat_map(|route| {
                route.counted().map(|(pool, stats)| {
                    let pool = if pool.is_empty() { "-" } else { pool };
                    (&*route.name, pool, stats)
                })
            })
        };
        families.counters(
            &family::REQUESTS,
            counted().flat_map(|(route, pool, stats): (_, _, &RoutePoolStats)| {
                ByClass::NAMES
                    .into_iter()
                    .zip(stats.requests.get())
                    .filter(|(_, count)| *count > 0)
                    .map(move |(class, count)| ([route, pool, class], count))
            }),
        );
        let durations = counted()
            .map(|(route, pool, stats)| {
                let mut metric = labelled(&family::REQUEST_DURATION, [route, pool]);
                metric.set_histogram(histogram(&stats.duration));
                metric
            })
            .collect();
        families.push(&family::REQUEST_DURATION, durations);
        families.counters(
            &family::RETRIES,
            self.snapshot.routes.iter().flat_map(|route| {
                RetryReason::ALL.into_iter().filter_map(|reason| {
                    let count = route.retries.get(reason);
                    (count > 0).then_some(([&*route.name, reason.as_str()], count))
                })
            }),
        );
    }

    fn auth(&self, families: &mut Families) {
        let proofs = || {
            let routes = self.snapshot.routes.iter();
            routes.filter_map(|route| Some((&*route.name, route.proof.as_ref()?)))
        };
        families.counters(
            &family::FORWARD_AUTH,
            proofs().flat_map(|(route, proof)| {
                let authority = match proof {
                    Proof::Forward(authority) => Some(authority),
                    _ => None,
                };
                let counted = authority.into_iter().flat_map(|it| it.counted());
                counted.map(move |(outcome, count)| ([route, outcome], count))
            }),
        );
        // Routes share what comes from one place.
        let sets: BTreeMap<String, &KeySet> = proofs()
            .filter_map(|(_, proof)| match proof {
                Proof::Jwt(gate) => Some((gate.keys.source().to_string(), &*gate.keys)),
                _ => None,
            })
            .collect();
        families.gauges(
            &family::TOKEN_KEYS,
            sets.iter().map(|(source, set)| {
                let count = set.keys().map_or(0, |keys| keys.count());
                ([source.as_str()], count as f64)
            }),
        );
        families.gauges(
            &family::TOKEN_KEYS_LAST_SUCCESS,
            sets.iter()
                .filter_map(|(source, set)| Some(([source.as_str()], set.had()? as f64))),
        );
        families.counters(
            &family::TOKEN_KEY_LOOKS,
            sets.iter().flat_map(|(source, set)| {
                let named = ["had", "failed"].into_iter().zip(set.counted());
                named.map(|(outcome, count)| ([source.as_str(), outcome], count))
            }),
        );
    }

    fn rate_limits(&self, families: &mut Families) {
        let limits = || {
            self.snapshot.routes.iter().flat_map(|route| {
                let limits = route.limits.iter();
                limits.map(|limit| ([&*route.name, &*limit.plan.name], limit))
            })
        };
        families.counters(
            &family::RATE_LIMITED,
            limits().map(|(labels, limit)| (labels, limit.refused.get())),
        );
        families.counters(
            &family::RATE_LIMIT_FORGOTTEN,
            limits().map(|(labels, limit)| (labels, limit.forgotten.get())),
        );
    }

    fn pools(&self, families: &mut Families) {
        let pools = || self.snapshot.pools.iter();
        let named = |value: &dyn Fn(&crate::pool::view::PoolView) -> f64| -> Vec<_> {
            pools()
                .map(|pool| ([pool.plan.name.as_str()], value(pool)))
                .collect()
        };
        let up = |is: bool| f64::from(u8::from(is));
        families.gauges(&family::POOL_UP, named(&|pool| up(pool.availability > 0.0)));
        families.gauges(&family::POOL_AVAILABILITY, named(&|pool| pool.availability));
        families.gauges(&family::IN_FLIGHT, named(&|pool| pool.in_flight() as f64));
        families.counters(
            &family::BYTES,
            pools()
                .zip(self.snapshot.pool_stats.iter())
                .flat_map(|(pool, stats)| {
                    let name = pool.plan.name.as_str();
                    [
                        ([name, "up"], stats.bytes_to.get()),
                        ([name, "down"], stats.bytes_from.get()),
                    ]
                }),
        );
        families.counters(
            &family::UPGRADED_EXPIRED,
            pools()
                .zip(self.snapshot.pool_stats.iter())
                .map(|(pool, stats)| ([pool.plan.name.as_str()], stats.expired.get())),
        );
        let endpoints = || {
            pools().flat_map(|pool| {
                let name = pool.plan.name.as_str();
                pool.endpoints
                    .iter()
                    .map(move |endpoint| (name, endpoint.live.key.address.to_string(), endpoint))
            })
        };
        families.gauges(
            &family::ENDPOINT_UP,
            endpoints().map(|(pool, address, endpoint)| {
                ([pool.to_owned(), address], up(endpoint.serves()))
            }),
        );
        families.counters(
            &family::EJECTIONS,
            endpoints().flat_map(|(pool, address, endpoint)| {
                let counts = EjectionReason::KINDS
                    .into_iter()
                    .zip(&endpoint.live.ejections);
                let counted = counts.filter(|(_, count)| count.get() > 0);
                counted.map(move |(kind, count)| {
                    let labels = [pool.to_owned(), address.clone(), kind.to_owned()];
                    (labels, count.get())
                })
            }),
        );
        families.gauges(
            &family::ENDPOINT_SUSPECT,
            endpoints().map(|(pool, address, endpoint)| {
                let suspect = endpoint.live.stall.is_suspect();
                ([pool.to_owned(), address], up(suspect))
            }),
        );
        families.gauges(
            &family::PROBE_DURATION,
            endpoints().filter_map(|(pool, address, endpoint)| {
                let took: Duration = endpoint.live.last_probe()?;
                Some(([pool.to_owned(), address], took.as_secs_f64()))
            }),
        );
        families.counters(
            &family::UPSTREAM_TRIES,
            endpoints().flat_map(|(pool, address, endpoint)| {
                TryOutcome::ALL.into_iter().filter_map(move |outcome| {
                    let count = endpoint.live.tries.get(outcome);
                    (count > 0).then(|| {
                        let labels = [
                            pool.to_owned(),
                            address.clone(),
                            outcome.as_str().to_owned(),
                        ];
                        (labels, count)
                    })
                })
            }),
        );
    }

    fn services(&self, families: &mut Families) {
        let snapshot = self.snapshot;
        let mut shares = Vec::new();
        for service in &snapshot.plan.services {
            let classes = snapshot.plan.classes(service.target);
            // A service that tells clients apart has as many answers as classes; the page shows the
            // one for clients of whom nothing is known.
            let class = classes.class_of(Default::default(), None, None);
            let asked = snapshot.asked_shares(service.target, &classes.classes()[class.index()]);
            let effective = snapshot.tables[service.target.index()]
                .as_ref()
                .map(|tables| tables.of(class).main.entries());
            for pool in &snapshot.plan.targets.node(service.target).pools {
                let of = |kind: &str, share: f64| {
                    let pool = snapshot.plan.pools[pool.index()].name.as_str();
                    let labels = [
                        service.name.as_str().to_owned(),
                        pool.to_owned(),
                        kind.to_owned(),
                    ];
                    (labels, share)
                };
                let share = asked
                    .iter()
                    .find(|(id, _)| id == pool)
                    .map_or(0.0, |(_, s)| *s);
                shares.push(of("asked", share));
                let entry = effective.and_then(|all| all.iter().find(|e| e.pool == *pool));
                shares.push(of("effective", entry.map_or(0.0, |entry| entry.share)));
            }
        }
        families.gauges(&family::SHARE, shares);
    }
}

#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn counters<V: Into<String>, const N: usize>(
        &mut self,
        family: &Family,
        values: impl IntoIterator<Item = ([V; N], u64)>,
    ) {
        debug_assert_eq!(family.kind, Kind::Counter, "{}", family.name);
        let metrics = values
            .into_iter()
            .map(|(labels, value)| {
                let mut counter = Counter::default();
                counter.set_value(value as f64);
                let mut metric = labelled(family, labels);
                metric.set_counter(counter);
                metric
            })
            .collect();
        self.push(family, metrics);
    }

    fn gauges<V: Into<String>, const N: usize>(
        &mut self,
        family: &Family,
        values: impl IntoIterator<Item = ([V; N], f64)>,
    ) {
        debug_assert_eq!(family.kind, Kind::Gauge, "{}", family.name);
        let metrics = values
            .into_iter()
            .map(|(labels, value)| {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                let mut metric = labelled(family, labels);
                metric.set_gauge(gauge);
                metric
            })
            .collect();
        self.push(family, metrics);
    }

    fn push(&mut self, declared: &Family, metrics: Vec<Metric>) {
        // A family without series cannot be written.
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(declared.name.to_owned());
        family.set_help(declared.help.to_owned());
        family.set_field_type(match declared.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        family.set_metric(metrics);
        self.0.push(family);
    }
}

/// For families of a single series.
const NO_LABELS: [&str; 0] = [];

/// A series of a family, with a value for each of its labels, in their order.
fn labelled<V: Into<String>, const N: usize>(family: &Family, values: [V; N]) -> Metric {
    debug_assert_eq!(family.labels.len(), N, "{}", family.name);
    Metric::from_label(
        family
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let mut label = LabelPair::default();
                label.set_name((*name).to_owned());
                label.set_value(value.into());
                label
            })
            .collect(),
    )
}

fn histogram(from: &crate::counters::Histogram) -> Histogram {
    let (counts, all) = from.cumulative();
    let mut histogram = Histogram::default();
    histogram.set_sample_count(all);
    histogram.set_sample_sum(from.sum());
    histogram.set_bucket(
        DURATION_BUCKETS
            .into_iter()
            .zip(counts)
            .map(|(bound, count)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound);
                bucket.set_cumulative_count(count);
                bucket
            })
            .collect(),
    );
    histogram
}
