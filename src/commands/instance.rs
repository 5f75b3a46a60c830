//! `portolan status`, `pools` and `reload`: what is asked of a running instance.

use std::process::ExitCode;

use portolan_control::api::status::{OverrideEntry, PoolEntry, Status};
use serde_json::Value;

use crate::cli::InstanceArgs;
use crate::client::{Instance, problem_words};
use crate::{exit, output};

pub(super) fn status(args: &InstanceArgs) -> anyhow::Result<ExitCode> {
    crate::commands::runtime::block_on(async {
        let instance = Instance::new(args)?;
        if args.format.is_json() {
            output::json(&instance.get::<Value>("/status").await?);
        } else {
            output::result(&status_words(&instance.get("/status").await?));
        }
        Ok(exit::DONE)
    })
}

pub(super) fn pools(args: &InstanceArgs) -> anyhow::Result<ExitCode> {
    crate::commands::runtime::block_on(async {
        let instance = Instance::new(args)?;
        if args.format.is_json() {
            output::json(&instance.get::<Value>("/pools").await?);
        } else {
            output::result(&pools_words(
                &instance.get::<Vec<PoolEntry>>("/pools").await?,
            ));
        }
        Ok(exit::DONE)
    })
}

pub(super) fn reload(args: &InstanceArgs) -> anyhow::Result<ExitCode> {
    crate::commands::runtime::block_on(async {
        let (status, answer) = Instance::new(args)?.post("/reload", None).await?;
        if args.format.is_json() {
            output::json(&answer);
        } else if status.is_success() {
            let hash = answer["hash"].as_str().unwrap_or_default();
            let outcome = answer["outcome"].as_str().unwrap_or_default();
            output::result(format!("{outcome} {hash}").trim_end());
        } else {
            if let Some(text) = answer["text"].as_str() {
                output::note(text.trim_end());
            }
            output::note(&format!("portolan: {}", problem_words(status, &answer)));
        }
        Ok(if status.is_success() {
            exit::DONE
        } else {
            exit::FAILED
        })
    })
}

fn status_words(status: &Status) -> String {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("version", status.version.clone()),
        row(
            "state",
            format!("{}, for {}", status.state, span(status.uptime_seconds)),
        ),
        row(
            "config",
            format!(
                "{} (generation {}), since {}{}",
                status.config.hash,
                status.config.generation,
                time(status.config.applied),
                if status.config.last_known_good {
                    ", the last known good one"
                } else {
                    ""
                }
            ),
        ),
    ];
    if let Some(reload) = &status.config.last_reload {
        let error = reload
            .error
            .as_ref()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        rows.push(row(
            "last reload",
            format!(
                "{} at {} ({}){error}",
                reload.outcome,
                time(reload.at),
                reload.trigger
            ),
        ));
    }
    if let Some(waiting) = &status.config.waiting {
        rows.push(row(
            "waiting",
            format!(
                "since {} with a change of {}: {}",
                time(waiting.since),
                waiting.file,
                waiting.reason
            ),
        ));
    }
    for listener in &status.listeners {
        let tls = if listener.tls { " (TLS)" } else { "" };
        rows.push(row(
            "listener",
            format!(
                "{}{tls}, {} connections",
                listener.address, listener.connections
            ),
        ));
    }
    if let Some(ends) = status.certificates.first_ends {
        let faults = match status.certificates.faults {
            0 => String::new(),
            faults => format!(", {faults} files cannot be used"),
        };
        rows.push(row(
            "certificates",
            format!(
                "{}, the first ends on {}{faults}",
                status.certificates.total,
                date(u64::try_from(ends).unwrap_or_default())
            ),
        ));
    }
    for geo in &status.geo {
        rows.push(row(
            "geo database",
            format!("{} ({}), of {}", geo.name, geo.kind, date(geo.built)),
        ));
    }
    rows.push(row(
        "pools",
        format!("{} of {} up", status.pools.up, status.pools.total),
    ));
    let mut requests = status.requests.total.to_string();
    for (class, count) in &status.requests.by_class {
        requests.push_str(&format!(", {count} of them {class}"));
    }
    rows.push(row("requests", requests));
    for entry in &status.overrides {
        rows.push(row("override", override_words(entry)));
    }
    for warning in &status.warnings {
        rows.push(row("warning", warning.clone()));
    }
    output::table(&rows)
}

fn pools_words(pools: &[PoolEntry]) -> String {
    let header = [
        "pool",
        "endpoint",
        "health",
        "for",
        "in flight",
        "requests",
        "latency",
        "probe",
        "why",
    ];
    let mut rows: Vec<Vec<String>> = vec![header.map(str::to_owned).to_vec()];
    let milliseconds =
        |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.1} ms"));
    for pool in pools {
        let state = match (pool.drained, pool.up) {
            (true, _) => "drained",
            (false, true) => "up",
            (false, false) => "down",
        };
        let mut cells = vec![
            pool.name.clone(),
            String::new(),
            format!("{state} {:.0}%", pool.availability * 100.0),
            String::new(),
            pool.in_flight.to_string(),
        ];
        if let Some(drain) = &pool.drain {
            cells.resize(header.len() - 1, String::new());
            cells.push(format!("drained {}", lease_words(drain)));
        }
        rows.push(cells);
        for endpoint in &pool.endpoints {
            let backup = if endpoint.backup { " (backup)" } else { "" };
            let (health, why) = match &endpoint.drain {
                Some(drain) => (
                    "drained".to_owned(),
                    format!("drained {}", lease_words(drain)),
                ),
                None => (endpoint.health.clone(), endpoint.because.clone()),
            };
            rows.push(vec![
                String::new(),
                format!("{}{backup}", endpoint.address),
                health,
                span(endpoint.for_seconds as u64),
                endpoint.in_flight.to_string(),
                endpoint.requests.to_string(),
                milliseconds(endpoint.latency_ms),
                milliseconds(endpoint.probe_ms),
                why,
            ]);
        }
    }
    output::table(&rows)
}

/// An override in a line.
pub(super) fn override_words(entry: &OverrideEntry) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let idle = match &entry.because {
        Some(because) => format!("; not applied, because {because}"),
        None if entry.idle => "; not applied: there is none now".to_owned(),
        None => String::new(),
    };
    let lease = lease_words(entry);
    match (&entry.weights, &entry.endpoint) {
        (Some(weights), _) => {
            let weights: Vec<String> = weights
                .iter()
                .map(|(member, weight)| format!("{member}={weight}"))
                .collect();
            let (service, weights) = (name(&entry.service), weights.join(" "));
            format!("service {service} has the weights {weights} {lease}{idle}")
        }
        (None, None) => format!("pool {} is drained {lease}{idle}", name(&entry.pool)),
        (None, Some(address)) => {
            let pool = name(&entry.pool);
            format!("endpoint {pool}/{address} is drained {lease}{idle}")
        }
    }
}

/// Who, why, and for how long.
fn lease_words(entry: &OverrideEntry) -> String {
    format!(
        "until {} ({}) by {}: {}",
        time(entry.until),
        span(entry.remaining_seconds.ceil() as u64),
        entry.by,
        entry.reason
    )
}

/// A moment, by the calendar.
fn time(seconds: u64) -> String {
    let moment = i64::try_from(seconds)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok());
    moment.map_or_else(|| "?".to_owned(), |moment| moment.to_string())
}

/// A moment to the millisecond, by the calendar.
pub(super) fn moment(milliseconds: u64) -> String {
    let moment = i64::try_from(milliseconds)
        .ok()
        .and_then(|it| jiff::Timestamp::from_millisecond(it).ok());
    moment.map_or_else(|| "?".to_owned(), |moment| format!("{moment:.3}"))
}

/// A day, by the calendar.
fn date(seconds: u64) -> String {
    time(seconds)
        .split('T')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// A length of time, in its two largest units.
fn span(seconds: u64) -> String {
    match (
        seconds / 86_400,
        seconds % 86_400 / 3_600,
        seconds % 3_600 / 60,
        seconds % 60,
    ) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_two_units() {
        assert_eq!(span(5), "5s");
        assert_eq!(span(65), "1m 5s");
        assert_eq!(span(3_700), "1h 1m");
        assert_eq!(span(90_000), "1d 1h");
        assert_eq!(date(1_781_725_900), "2026-06-17");
    }
}
