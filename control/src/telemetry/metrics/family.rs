//! The families of metrics: one declaration each, from which the metrics page and its reference are
//! written.

use std::fmt::Write as _;

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They only grow, from 0 at the start of the process.
    Counter,
    /// They go up and down.
    Gauge,
    /// How often something took how long, in buckets.
    Histogram,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Metrics of one name.
#[derive(Debug)]
pub struct Family {
    /// The name: part of the contract, as are the labels.
    pub name: &'static str,
    /// What kind of numbers they are.
    pub kind: Kind,
    /// What tells the series of the family apart.
    pub labels: &'static [&'static str],
    /// What they say.
    pub help: &'static str,
}

macro_rules! families {
    ($( $(#[doc = $doc:literal])+ $family:ident = $kind:ident $name:literal [$($label:literal),*]; )*) => {
        $(
            $(#[doc = $doc])+
            pub const $family: Family = Family {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: concat!($($doc),+).trim_ascii(),
            };
        )*

        /// Every family, in the order of the reference page.
        pub const ALL: &[Family] = &[$($family),*];
    };
}

families! {
    /// Requests, by route, by the pool that served them (`-` for none), and by the first digit of
    /// the status (`2xx`; `0xx` without an answer).
    REQUESTS = Counter "portolan_requests_total" ["route", "pool", "code_class"];
    /// From a request's head to the last byte of its answer, by route and by the pool that served
    /// it (`-` for none).
    REQUEST_DURATION = Histogram "portolan_request_duration_seconds" ["route", "pool"];
    /// Requests that Portolan answered itself, by reason.
    REFUSED_REQUESTS = Counter "portolan_refused_requests_total" ["reason"];
    /// Requests that were accepted: over HTTP/1.1 with the first byte of the head, over HTTP/2 with
    /// the whole head. Each of them ends in exactly one outcome.
    ACCEPTED_REQUESTS = Counter "portolan_accepted_requests_total" [];
    /// How accepted requests ended: `answered` (`whole`, `cut_short`, `redirected`), `client_gone`
    /// (`in_head`, `before_answer`, `in_answer`) or `refused` (by the reason for it). Their sum is
    /// what was accepted, less what is under way.
    REQUEST_OUTCOMES = Counter "portolan_request_outcomes_total" ["outcome", "reason"];
    /// HTTP/2 streams that were refused before they were a request, or reset for what they carried,
    /// by reason.
    REFUSED_STREAMS = Counter "portolan_refused_streams_total" ["reason"];
    /// Connections that were closed for what they were or did, by reason. What HTTP/2 refuses by
    /// itself begins with `h2_`.
    REFUSED_CONNECTIONS = Counter "portolan_refused_connections_total" ["reason"];
    /// Tries to have an endpoint answer a request, by how they ended: `answered`, `server_error`,
    /// `unavailable` (502, 503, 504), `connect_failed`, `broken`, `timed_out`, `abandoned`, or
    /// `edge_exhausted` (this instance could not connect to anybody).
    UPSTREAM_TRIES = Counter "portolan_upstream_tries_total" ["pool", "endpoint", "outcome"];
    /// Tries that were not the first of their request, by route and by what had failed before:
    /// `connect`, `reset`, `timeout`, `status`; or `beside` one that took long, or as a `rescue` of
    /// one whose endpoint is silent.
    RETRIES = Counter "portolan_retries_total" ["route", "reason"];
    /// Questions to the authorization services of routes, by what became of them: `allowed`, `denied`,
    /// `failed` (no answer, and the request was refused), `failed_open` (no answer, and it passed) or
    /// `busy` (too many were under way).
    FORWARD_AUTH = Counter "portolan_forward_auth_total" ["route", "outcome"];
    /// Keys that tokens are verified with, by where they come from.
    TOKEN_KEYS = Gauge "portolan_token_keys" ["source"];
    /// When the keys of tokens were last had, in seconds since 1970. Without a sample, never.
    TOKEN_KEYS_LAST_SUCCESS = Gauge "portolan_token_keys_last_success_timestamp_seconds" ["source"];
    /// How often keys of tokens were looked for, by how it went: `had` or `failed`.
    TOKEN_KEY_LOOKS = Counter "portolan_token_key_looks_total" ["source", "outcome"];
    /// Requests that a route's rate limit refused.
    RATE_LIMITED = Counter "portolan_rate_limited_requests_total" ["route", "limit"];
    /// Clients that a route's rate limit forgot before they had all their tokens again, because too
    /// many others came: its `clients` are too few.
    RATE_LIMIT_FORGOTTEN = Counter "portolan_rate_limit_forgotten_clients_total" ["route", "limit"];
    /// Requests that a pool's endpoints are answering now.
    IN_FLIGHT = Gauge "portolan_in_flight" ["pool"];
    /// Bytes of bodies, to pools (`up`) and from them (`down`).
    BYTES = Counter "portolan_bytes_total" ["pool", "direction"];
    /// Upgraded connections (WebSocket) that were closed because they had lasted as long as the pool's
    /// `timeouts.upgrade_lifetime` allows.
    UPGRADED_EXPIRED = Counter "portolan_upgraded_connections_expired_total" ["pool"];
    /// Whether a pool can take any traffic: 1 or 0.
    POOL_UP = Gauge "portolan_pool_up" ["pool"];
    /// How much of its traffic a pool can take: 0 to 1.
    POOL_AVAILABILITY = Gauge "portolan_pool_availability" ["pool"];
    /// Whether an endpoint is healthy and not ejected: 1 or 0.
    ENDPOINT_UP = Gauge "portolan_endpoint_up" ["pool", "endpoint"];
    /// How often an endpoint was left out because it failed requests, by what showed it: so many in
    /// a row, a trial after the last ejection, its peers, or its own past.
    EJECTIONS = Counter "portolan_ejections_total" ["pool", "endpoint", "reason"];
    /// Whether an endpoint has been silent for longer than is plausible: 1 or 0.
    ENDPOINT_SUSPECT = Gauge "portolan_endpoint_suspect" ["pool", "endpoint"];
    /// How long the last probe of an endpoint took.
    PROBE_DURATION = Gauge "portolan_probe_duration_seconds" ["pool", "endpoint"];
    /// The share of a service's traffic that a pool gets, 0 to 1: `asked` for in the configuration,
    /// and `effective` with health as it is. Of a service that tells clients apart, the shares of
    /// clients of whom nothing is known.
    SHARE = Gauge "portolan_share" ["service", "pool", "kind"];
    /// Open connections of clients.
    CONNECTIONS = Gauge "portolan_connections" ["listener"];
    /// What is held of bodies over HTTP/2, of clients and of endpoints, in bytes: it has come, and nobody
    /// has taken it yet.
    HTTP2_HELD = Gauge "portolan_http2_held_bytes" [];
    /// When certificates stop being valid, in seconds since 1970.
    TLS_CERTIFICATE_EXPIRY = Gauge "portolan_tls_certificate_expiry_timestamp_seconds" ["name"];
    /// Files of certificates for clients that cannot be used now: what was good before them is used
    /// in their place.
    CERTIFICATE_FAULTS = Gauge "portolan_certificate_faults" [];
    /// Changed files of certificates, for clients or endpoints, that could not be used, by reason:
    /// `unreadable`, `incomplete`, `malformed`, `key` (of a kind that cannot be used), `mismatch`
    /// (of key and certificate), `not_valid` (expired, or not valid yet, where the one before it
    /// is) or `unusable`.
    CERTIFICATE_RELOAD_FAILURES = Counter "portolan_certificate_reload_failures_total" ["reason"];
    /// Orders of certificates, by issuer and by how they ended: `issued`, or why there is none:
    /// `refused` (by the authority), `rate_limited`, `too_slow`, `unreachable`, `challenge_failed`,
    /// `record_failed` (nobody wrote the record in the DNS), `unusable` (what was issued) or
    /// `internal`.
    ACME_ORDERS = Counter "portolan_acme_orders_total" ["issuer", "outcome"];
    /// Certificates that are asked for, by issuer and by how they are: `pending` (the first is being
    /// ordered), `fine`, `failing` (the last order failed, and there is time), `urgent` (there is
    /// little, or there never was a certificate) or `expired`.
    ACME_CERTIFICATES = Gauge "portolan_acme_certificates" ["issuer", "state"];
    /// TLS handshakes with clients, by version, by whether they went on with an earlier session, and
    /// by outcome: `done`, or why there was none: `timeout`, `closed`, `not_tls`, `malformed`,
    /// `nothing_in_common`, `no_certificate`, `refused_by_client`, `client_certificate_missing`,
    /// `client_certificate_expired`, `client_certificate_revoked` or `client_certificate_invalid`.
    TLS_HANDSHAKES = Counter "portolan_tls_handshakes_total" ["listener", "version", "resumed", "outcome"];
    /// Whether every pool failed at the same time, so that this instance suspects its own network: 1
    /// or 0.
    SELF_SUSPICION = Gauge "portolan_self_suspicion" [];
    /// When the geo databases in use were built, in seconds since 1970.
    GEO_DATABASE_BUILD = Gauge "portolan_geo_database_build_timestamp_seconds" ["database"];
    /// Attempts to replace the configuration, by what became of them: `applied`, `unchanged` or
    /// `refused`.
    CONFIG_RELOADS = Counter "portolan_config_reloads_total" ["outcome"];
    /// When the running configuration was applied, in seconds since 1970.
    CONFIG_LAST_SUCCESS = Gauge "portolan_config_last_success_timestamp_seconds" [];
    /// Attempts to hand everything to a new process, by what became of them: `done` or `failed`. The
    /// new process goes on counting.
    UPGRADES = Counter "portolan_upgrades_total" ["outcome"];
    /// Always 1; the label says which configuration runs.
    CONFIG_INFO = Gauge "portolan_config_info" ["hash"];
    /// How often this instance could not connect or accept because it, or its machine, had run out of
    /// something: `files` (descriptors of the process), `system_files`, `local_ports`, `memory`.
    EDGE_EXHAUSTED = Counter "portolan_edge_exhausted_total" ["what"];
    /// Lines of the access log that were lost, because its reader or its disk was too slow, or because
    /// they could not be written.
    ACCESS_LOG_DROPPED = Counter "portolan_access_log_dropped_total" [];
    /// Lines of the process's own log that were lost, for the same reasons.
    LOG_DROPPED = Counter "portolan_log_dropped_total" [];
    /// How often a task of the control plane failed by a fault of Portolan's own, and was begun again.
    TASK_FAILURES = Counter "portolan_task_failures_total" ["task"];
    /// Always 1; the label says which version of Portolan runs.
    BUILD_INFO = Gauge "portolan_build_info" ["version"];
}

/// `docs/reference/metrics.md`: every family, its labels, its meaning.
pub fn reference_page() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         What `/metrics` of the admin API says, in Prometheus' text format. Names and labels stay the \
         same from release to release. A series appears when there is something to say: a route's \
         requests when the first was counted, a certificate's expiry when there is a certificate. \
         Counters begin at 0 with the process and survive every reload. This page is made from the \
         code, and a test keeps it true.\n\n\
         | metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for family in ALL {
        let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        let labels = match labels.is_empty() {
            true => "–".to_owned(),
            false => labels.join(", "),
        };
        let _ = writeln!(
            out,
            "| `{}` | {} | {labels} | {} |",
            family.name,
            family.kind.as_str(),
            family.help
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_what_prometheus_expects() {
        let mut names: Vec<&str> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            assert!(family.name.starts_with("portolan_"), "{}", family.name);
            let total = family.name.ends_with("_total");
            assert_eq!(total, family.kind == Kind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
        }
    }
}
