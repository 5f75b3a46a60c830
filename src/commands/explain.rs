//! `portolan explain`

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use portolan_config::check_file;
use portolan_control::decision::explain::question::Asked;
use portolan_control::decision::explain::{Explanation, explain, hypothetical};
use portolan_control::geo::Locator;
use serde_json::json;

use crate::cli::ExplainArgs;
use crate::client::{Instance, problem_words};
use crate::{exit, machine, output};

pub(super) fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let headers = args
        .header
        .iter()
        .map(|header| {
            let (name, value) = header
                .split_once(':')
                .with_context(|| format!("`{header}` is not a header like `Name: value`"))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect::<anyhow::Result<BTreeMap<String, String>>>()?;
    let explanation = match &args.config {
        Some(file) => match by_file(file, &args, &headers)? {
            Some(explanation) => explanation,
            None => return Ok(exit::FAILED),
        },
        None => crate::commands::runtime::block_on(by_instance(&args, &headers))?,
    };
    if args.instance.format.is_json() {
        output::json(&serde_json::to_value(&explanation)?);
    } else {
        output::result(&words(&explanation));
    }
    Ok(exit::DONE)
}

/// Decided here, by a file, with every endpoint healthy. `None`: the file cannot be used.
fn by_file(
    file: &Path,
    args: &ExplainArgs,
    headers: &BTreeMap<String, String>,
) -> anyhow::Result<Option<Explanation>> {
    let asked = Asked::new(args.client_ip, &args.method, &args.url, headers)
        .map_err(|wrong| anyhow!(wrong))?;
    let checked = check_file(file, &machine::machine());
    let Some(plan) = checked.plan else {
        output::report(&checked.report);
        return Ok(None);
    };
    let mut needs = plan.needs();
    // Even where no route asks where the client is, whoever explains does.
    needs.place |= args.client_ip.is_some();
    let locator = Locator::load(&plan.geoip, needs).map_err(|found| {
        let said: Vec<String> = found
            .into_iter()
            .map(|diagnostic| diagnostic.message)
            .collect();
        anyhow!(said.join("; "))
    })?;
    let snapshot = hypothetical(&plan, &Arc::new(locator), &[], &[]);
    Ok(Some(explain(&snapshot, &asked.question())))
}

/// Decided by the running instance, with its live health.
async fn by_instance(
    args: &ExplainArgs,
    headers: &BTreeMap<String, String>,
) -> anyhow::Result<Explanation> {
    let body = json!({
        "client_ip": args.client_ip,
        "method": args.method,
        "url": args.url,
        "headers": headers,
    });
    let instance = Instance::new(&args.instance)?;
    let (status, value) = instance.post("/explain", Some(&body)).await?;
    if !status.is_success() {
        bail!(problem_words(status, &value));
    }
    serde_json::from_value(value).context("the answer of the admin API cannot be read")
}

fn words(explanation: &Explanation) -> String {
    let percent = |share: f64| format!("{:.1}%", share * 100.0);
    let Some(route) = &explanation.route else {
        let status = explanation.status.unwrap_or_default();
        let why = match (&explanation.denied, status) {
            (Some(denied), _) => denied.as_str(),
            (None, 404) => "no route takes this request",
            (None, _) => &explanation.basis,
        };
        return match (&explanation.listener, status) {
            (Some(listener), 300..=403 | 405..) => {
                format!("listener {listener}: {why}: {status}\n")
            }
            _ => format!("{why}: {status}\n"),
        };
    };
    let mut rows = vec![vec!["route".to_owned(), route.to_string()]];
    let client = match &explanation.client_by {
        Some(by) => format!("{} ({by})", explanation.client),
        None => explanation.client.clone(),
    };
    rows.push(vec!["client".to_owned(), client]);
    if let Some(system) = explanation.system {
        rows.push(vec!["system".to_owned(), format!("AS{system}")]);
    }
    if let Some(affinity) = &explanation.affinity {
        let home = match (&affinity.pool, &affinity.endpoint) {
            (Some(pool), Some(endpoint)) => format!(": {pool}, {endpoint}"),
            (Some(pool), None) => format!(": {pool}"),
            (None, _) => String::new(),
        };
        rows.push(vec![
            "affinity".to_owned(),
            format!("by {}{home}", affinity.by),
        ]);
    }
    if let Some(denied) = &explanation.denied {
        rows.push(vec!["access".to_owned(), denied.clone()]);
    }
    if let Some(auth) = &explanation.auth {
        let status = auth.status.map_or_else(String::new, |it| format!(": {it}"));
        let said = format!("{}: {}{status}", auth.by, auth.says);
        rows.push(vec!["auth".to_owned(), said]);
    }
    let mut out = output::table(&rows);
    if let Some(status) = explanation.status {
        out.push_str(&format!("answered by Portolan itself: {status}\n"));
    }
    if explanation.pools.is_empty() {
        return out;
    }
    out.push_str(&format!("steered {}\n\n", explanation.basis));
    let mut shares = vec![vec![
        "share".to_owned(),
        "pool".to_owned(),
        "why".to_owned(),
    ]];
    shares.extend(explanation.pools.iter().map(|pool| {
        vec![
            percent(pool.share),
            pool.pool.to_string(),
            pool.why.to_string(),
        ]
    }));
    if explanation.refused > 0.0 {
        shares.push(vec![
            percent(explanation.refused),
            "-".to_owned(),
            "refused".to_owned(),
        ]);
    }
    out.push_str(&output::table(&shares));
    out
}
