//! `rto` of a route: no pool that it can lead to may take longer to leave a dead endpoint.

use std::time::Duration;

use crate::decode::switch::Switch;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Document, Health, Pool};
use crate::names::Name;
use crate::plan::ProbePlan;
use crate::resolve::{Names, pools_of};
use crate::source::At;
use crate::units::TimeSpan;

/// Shorter timeouts than this are not proposed: on a long way they fail what is healthy.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(100);

pub(crate) fn check<'a>(document: &'a Document, names: &Names<'a>, found: &mut Vec<Diagnostic>) {
    for route in &document.routes {
        let (Some(rto), Some(to)) = (&route.rto, &route.to) else {
            continue;
        };
        for at in pools_of(to, document, names) {
            let (name, pool) = &document.pools.0[at];
            found.extend(pool_in_time(rto, name, pool));
        }
    }
}

/// What is wrong with this pool on a route with this `rto`.
fn pool_in_time(rto: &At<TimeSpan>, name: &At<Name>, pool: &Pool) -> Option<Diagnostic> {
    let health = match &pool.health {
        Switch::On(health) => health,
        Switch::Off(origin) => {
            return Some(
                Diagnostic::error(
                    Code::Rto,
                    rto.origin,
                    format!(
                        "nothing but requests would notice a dead endpoint of `{name}`: its probes are off"
                    ),
                )
                .related(*origin, "here")
                .help("a bound that holds without traffic needs probes"),
            );
        }
    };
    let bound = crate::compile::pools::probe(health).failover_bound();
    if bound <= rto.value.duration() {
        return None;
    }
    Some(
        Diagnostic::error(
            Code::Rto,
            rto.origin,
            format!(
                "a dead endpoint of `{name}` may get requests for {}, longer than {rto}",
                milliseconds(bound)
            ),
        )
        .related(health.every.origin, "probed this often")
        .help(advice(health, rto.value.duration())),
    )
}

/// Which change alone would be enough.
fn advice(health: &Health, rto: Duration) -> String {
    let probe = crate::compile::pools::probe(health);
    let keeps = |probe: &ProbePlan| probe.failover_bound() <= rto;
    let mut ways = Vec::new();
    // What the bound is too long by comes off `every` once, off `timeout` with every probe.
    let over = probe.failover_bound().saturating_sub(rto);
    let shorter = ProbePlan {
        every: floor(probe.every.saturating_sub(over)),
        ..probe.clone()
    };
    if shorter.every > probe.timeout && shorter.every >= probe.fast_every && keeps(&shorter) {
        ways.push(format!("`every: {}`", milliseconds(shorter.every)));
    }
    let shorter = ProbePlan {
        timeout: floor(
            probe
                .timeout
                .saturating_sub(over.div_f64(f64::from(probe.down_after))),
        ),
        ..probe.clone()
    };
    if shorter.timeout >= SHORTEST_TIMEOUT && keeps(&shorter) {
        ways.push(format!("`timeout: {}`", milliseconds(shorter.timeout)));
    }
    let each = probe.fast_every + probe.timeout;
    let fewer = probe.down_after.saturating_sub(
        u32::try_from(over.as_nanos().div_ceil(each.as_nanos().max(1))).unwrap_or(u32::MAX),
    );
    let fewer = ProbePlan {
        down_after: fewer.max(1),
        ..probe.clone()
    };
    if fewer.down_after < probe.down_after && keeps(&fewer) {
        ways.push(format!("`down_after: {}`", fewer.down_after));
    }
    match ways.as_slice() {
        [] => "`every`, `timeout` and `down_after` of its `health` must all be smaller".to_owned(),
        ways => format!("in its `health`, {} would do", ways.join(" or ")),
    }
}

/// A round figure below.
fn floor(span: Duration) -> Duration {
    let milliseconds = span.as_millis() as u64;
    let step = match milliseconds {
        1_000.. => 100,
        100.. => 10,
        _ => 1,
    };
    Duration::from_millis(milliseconds / step * step)
}

fn milliseconds(span: Duration) -> TimeSpan {
    TimeSpan::from_millis(span.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use crate::diagnostic::Code;
    use crate::{Machine, check_text};

    /// What is said about an `rto` over a pool with this `health`.
    fn said(rto: &str, health: &str) -> Option<String> {
        let text = format!(
            "listeners: [ {{ bind: '127.0.0.1:0' }} ]
pools: {{ a: {{ endpoints: [ '10.0.0.1:80' ], health: {health} }} }}
services: {{ s: a }}
routes: [ {{ to: s, rto: {rto} }} ]"
        );
        let report = check_text("t", text, &Machine::default()).report;
        let mut about = report.diagnostics.iter().filter(|d| d.code == Code::Rto);
        let one = about.next()?;
        assert!(about.next().is_none());
        Some(format!(
            "{}; {}",
            one.message,
            one.help.as_deref().unwrap_or_default()
        ))
    }

    #[test]
    fn the_bound_is_compared_to_the_millisecond() {
        // 5 s + 2 s + 2 × (1 s + 2 s) + 10 ms
        assert_eq!(said("13010ms", "{}"), None);
        let tighter = said("13009ms", "{}").unwrap();
        assert!(
            tighter.starts_with(
                "a dead endpoint of `a` may get requests for 13010ms, longer than 13009ms"
            ),
            "{tighter}"
        );
    }

    #[test]
    fn every_proposal_is_enough() {
        let proposals = |rto: &str, health: &str| -> Vec<String> {
            let said = said(rto, health).unwrap();
            said.split('`')
                .filter(|part| part.contains(": "))
                .map(str::to_owned)
                .collect()
        };
        let of = |rto, health: &[(&str, &str)]| {
            let written = |with: Option<&str>| {
                let own = with.map(|with| with.split(':').next().unwrap());
                let mut parts: Vec<String> = health
                    .iter()
                    .filter(|(key, _)| Some(*key) != own)
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect();
                parts.extend(with.map(str::to_owned));
                format!("{{ {} }}", parts.join(", "))
            };
            let ways = proposals(rto, &written(None));
            assert!(!ways.is_empty(), "{rto} {health:?}");
            for way in &ways {
                assert_eq!(said(rto, &written(Some(way))), None, "{way}");
            }
            ways.len()
        };
        let defaults = [("every", "5s"), ("timeout", "2s"), ("down_after", "3")];
        assert_eq!(of("12s", &defaults), 3);
        assert_eq!(
            of("10s", &defaults),
            2,
            "no interval as short as the timeout"
        );
        assert_eq!(of("8s", &defaults), 2);
        assert!(
            said("1s", "{}").unwrap().ends_with("must all be smaller"),
            "{:?}",
            said("1s", "{}")
        );
    }

    #[test]
    fn without_probes_there_is_no_bound() {
        assert!(said("1h", "off").unwrap().contains("its probes are off"));
    }
}
