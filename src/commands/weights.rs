//! `portolan weights`: dividing a service's traffic for a while.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::bail;
use portolan_control::api::status::OverrideEntry;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::WeightsArgs;
use crate::client::Instance;
use crate::commands::drain::encoded;
use crate::commands::instance::override_words;
use crate::{exit, output};

pub(super) fn run(args: &WeightsArgs) -> anyhow::Result<ExitCode> {
    let path = format!("/services/{}/weights", encoded(&args.service));
    crate::commands::runtime::block_on(async {
        let instance = Instance::new(&args.instance)?;
        if args.clear {
            let body = json!({ "reason": args.reason });
            let ended: Value = instance.change(Method::DELETE, &path, &body).await?;
            if args.instance.format.is_json() {
                output::json(&ended);
            } else {
                output::result(&format!(
                    "service {} has the weights of the configuration again",
                    args.service
                ));
            }
            return Ok(exit::DONE);
        }
        let mut weights = BTreeMap::new();
        for (name, weight) in &args.weights {
            if weights.insert(name, weight).is_some() {
                bail!("`{name}` stands twice");
            }
        }
        let body = json!({
            "weights": weights,
            "for": args.lease.to_string(),
            "reason": args.reason,
        });
        let entry: Value = instance.change(Method::PUT, &path, &body).await?;
        if args.instance.format.is_json() {
            output::json(&entry);
        } else {
            let entry: OverrideEntry = serde_json::from_value(entry)?;
            output::result(&override_words(&entry));
        }
        Ok(exit::DONE)
    })
}
