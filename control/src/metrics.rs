//! The metrics page: everything that is counted, in Prometheus' text format.
//!
//! Nothing is registered or looked up where requests pass. The page walks the current snapshot and
//! reads the atomics it finds there, so series appear when something is first counted and go with
//! the thing they are about.

use std::time::Duration;

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::listeners::ListenerStatus;
use crate::snapshot::Snapshot;
use crate::stats::{ByClass, DURATION_BUCKETS, RoutePoolStats, Totals, TryOutcome};

/// What the page is about.
#[derive(Debug)]
pub struct Page<'a> {
    /// The current snapshot.
    pub snapshot: &'a Snapshot,
    /// What is counted about the process.
    pub totals: &'a Totals,
    /// The listeners.
    pub listeners: &'a [ListenerStatus],
    /// Certificates' names and when they stop being valid, in seconds since 1970.
    pub certificates: &'a [(String, i64)],
    /// Portolan's version.
    pub version: &'a str,
}

impl Page<'_> {
    /// The page.
    pub fn render(&self) -> String {
        let mut families = Families::default();
        self.process(&mut families);
        self.routes(&mut families);
        self.pools(&mut families);
        self.services(&mut families);
        TextEncoder::new()
            .encode_to_string(&families.0)
            .unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn process(&self, families: &mut Families) {
        let totals = self.totals;
        families.gauges(
            "portolan_build_info",
            "Always 1; the label says which version runs.",
            [(vec![("version", self.version)], 1.0)],
        );
        families.gauges(
            "portolan_config_info",
            "Always 1; the label says which configuration runs.",
            [(vec![("hash", self.snapshot.plan.hash.as_str())], 1.0)],
        );
        families.counters(
            "portolan_config_reloads_total",
            "Attempts to replace the configuration, by what became of them.",
            [
                (vec![("outcome", "applied")], totals.reloads_applied.get()),
                (
                    vec![("outcome", "unchanged")],
                    totals.reloads_unchanged.get(),
                ),
                (vec![("outcome", "refused")], totals.reloads_refused.get()),
            ],
        );
        let applied = totals
            .last_reload_success
            .load(std::sync::atomic::Ordering::Relaxed) as f64
            / 1000.0;
        families.gauges(
            "portolan_config_last_success_timestamp_seconds",
            "When the running configuration was applied.",
            [(NO_LABELS, applied)],
        );
        families.counters(
            "portolan_upgrades_total",
            "Attempts to hand everything to a new process, by what became of them; a new process goes on counting.",
            [
                (vec![("outcome", "done")], totals.upgrades_done.get()),
                (vec![("outcome", "failed")], totals.upgrades_failed.get()),
            ],
        );
        families.counters(
            "portolan_refused_requests_total",
            "Requests that Portolan answered itself, by reason.",
            totals
                .refused
                .get()
                .into_iter()
                .map(|(reason, n)| (vec![("reason", reason)], n)),
        );
        families.gauges(
            "portolan_connections",
            "Open connections of clients.",
            self.listeners.iter().map(|listener| {
                (
                    vec![("listener", listener.bound.to_string())],
                    listener.connections.get() as f64,
                )
            }),
        );
        families.counters(
            "portolan_access_log_dropped_total",
            "Access log lines that were dropped because the writer could not follow.",
            [(NO_LABELS, totals.access_log_dropped.get())],
        );
        families.gauges(
            "portolan_geo_database_build_timestamp_seconds",
            "When the geo databases in use were built.",
            self.snapshot.locator.databases().map(|database| {
                (
                    vec![("database", database.name.as_str())],
                    database.built.as_secs_f64(),
                )
            }),
        );
        families.gauges(
            "portolan_tls_certificate_expiry_timestamp_seconds",
            "When certificates stop being valid.",
            self.certificates
                .iter()
                .map(|(name, not_after)| (vec![("name", name.as_str())], *not_after as f64)),
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
            "portolan_requests_total",
            "Requests, by route, by the pool that served them (- for none), and by the first digit of the status (0xx without an answer).",
            counted().flat_map(|(route, pool, stats): (_, _, &RoutePoolStats)| {
                ByClass::NAMES
                    .into_iter()
                    .zip(stats.requests.get())
                    .filter(|(_, count)| *count > 0)
                    .map(move |(class, count)| {
                        (vec![("route", route), ("pool", pool), ("code_class", class)], count)
                    })
            }),
        );
        let durations = counted()
            .map(|(route, pool, stats)| {
                let mut metric = labelled(vec![("route", route), ("pool", pool)]);
                metric.set_histogram(histogram(&stats.duration));
                metric
            })
            .collect();
        families.push(
            "portolan_request_duration_seconds",
            "From a request's head to the last byte of its answer.",
            MetricType::HISTOGRAM,
            durations,
        );
        families.counters(
            "portolan_retries_total",
            "Tries that followed a failed one, by route and by what had failed.",
            self.snapshot
                .routes
                .iter()
                .filter(|route| route.retries.get() > 0)
                .map(|route| {
                    (
                        vec![("route", &*route.name), ("reason", "connect")],
                        route.retries.get(),
                    )
                }),
        );
    }

    fn pools(&self, families: &mut Families) {
        let pools = || self.snapshot.pools.iter();
        let named = |value: &dyn Fn(&crate::pool::PoolView) -> f64| -> Vec<_> {
            pools()
                .map(|pool| (vec![("pool", pool.plan.name.as_str())], value(pool)))
                .collect()
        };
        let up = |is: bool| f64::from(u8::from(is));
        families.gauges(
            "portolan_pool_up",
            "Whether a pool can take any traffic.",
            named(&|pool| up(pool.availability > 0.0)),
        );
        families.gauges(
            "portolan_pool_availability",
            "How much of its traffic a pool can take: 0 to 1.",
            named(&|pool| pool.availability),
        );
        families.gauges(
            "portolan_in_flight",
            "Requests that a pool's endpoints are answering now.",
            named(&|pool| pool.in_flight() as f64),
        );
        families.counters(
            "portolan_bytes_total",
            "Bytes of bodies, to pools (up) and from them (down).",
            pools()
                .zip(&self.snapshot.pool_stats)
                .flat_map(|(pool, stats)| {
                    let name = pool.plan.name.as_str();
                    [
                        (
                            vec![("pool", name), ("direction", "up")],
                            stats.bytes_to.get(),
                        ),
                        (
                            vec![("pool", name), ("direction", "down")],
                            stats.bytes_from.get(),
                        ),
                    ]
                }),
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
            "portolan_endpoint_up",
            "Whether an endpoint is healthy.",
            endpoints().map(|(pool, address, endpoint)| {
                let healthy = endpoint.health.verdict == crate::health::Verdict::Healthy;
                (
                    vec![("pool", pool.to_owned()), ("endpoint", address)],
                    up(healthy),
                )
            }),
        );
        families.gauges(
            "portolan_probe_duration_seconds",
            "How long the last probe of an endpoint took.",
            endpoints().filter_map(|(pool, address, endpoint)| {
                let took: Duration = endpoint.live.last_probe()?;
                Some((
                    vec![("pool", pool.to_owned()), ("endpoint", address)],
                    took.as_secs_f64(),
                ))
            }),
        );
        families.counters(
            "portolan_upstream_tries_total",
            "Tries to have an endpoint answer a request, by how they ended.",
            endpoints().flat_map(|(pool, address, endpoint)| {
                TryOutcome::ALL.into_iter().filter_map(move |outcome| {
                    let count = endpoint.live.tries.get(outcome);
                    (count > 0).then(|| {
                        let labels = vec![
                            ("pool", pool.to_owned()),
                            ("endpoint", address.clone()),
                            ("outcome", outcome.as_str().to_owned()),
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
                    let labels = vec![
                        ("service", service.name.as_str().to_owned()),
                        (
                            "pool",
                            snapshot.plan.pools[pool.index()].name.as_str().to_owned(),
                        ),
                        ("kind", kind.to_owned()),
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
        families.gauges(
            "portolan_share",
            "The share of a service's traffic that a pool gets: asked for, and effective with health as it is.",
            shares,
        );
    }
}

#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn counters<V: Into<String>>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'static str, V)>, u64)>,
    ) {
        let metrics = values
            .into_iter()
            .map(|(labels, value)| {
                let mut counter = Counter::default();
                counter.set_value(value as f64);
                let mut metric = labelled(labels);
                metric.set_counter(counter);
                metric
            })
            .collect();
        self.push(name, help, MetricType::COUNTER, metrics);
    }

    fn gauges<V: Into<String>>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'static str, V)>, f64)>,
    ) {
        let metrics = values
            .into_iter()
            .map(|(labels, value)| {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                let mut metric = labelled(labels);
                metric.set_gauge(gauge);
                metric
            })
            .collect();
        self.push(name, help, MetricType::GAUGE, metrics);
    }

    fn push(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        // A family without series cannot be written.
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

/// For families of a single series.
const NO_LABELS: Vec<(&str, &str)> = Vec::new();

fn labelled<V: Into<String>>(labels: Vec<(&'static str, V)>) -> Metric {
    Metric::from_label(
        labels
            .into_iter()
            .map(|(name, value)| {
                let mut label = LabelPair::default();
                label.set_name(name.to_owned());
                label.set_value(value.into());
                label
            })
            .collect(),
    )
}

fn histogram(from: &crate::stats::Histogram) -> Histogram {
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
