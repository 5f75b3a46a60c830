//! `portolan drain` and `portolan undrain`: taking pools and endpoints out of service for a while.

use std::process::ExitCode;

use portolan_control::api::status::OverrideEntry;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::{DrainArgs, UndrainArgs};
use crate::client::Instance;
use crate::commands::instance::override_words;
use crate::{exit, output};

pub(super) fn drain(args: &DrainArgs) -> anyhow::Result<ExitCode> {
    let body = json!({ "for": args.lease.to_string(), "reason": args.reason });
    crate::commands::runtime::block_on(async {
        let instance = Instance::new(&args.instance)?;
        let path = path(&args.subject);
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

pub(super) fn undrain(args: &UndrainArgs) -> anyhow::Result<ExitCode> {
    let body = json!({ "reason": args.reason });
    crate::commands::runtime::block_on(async {
        let instance = Instance::new(&args.instance)?;
        let path = path(&args.subject);
        let ended: Value = instance.change(Method::DELETE, &path, &body).await?;
        if args.instance.format.is_json() {
            output::json(&ended);
        } else if ended["still_drained"] == true {
            output::result("the override is gone; the configuration still drains it");
        } else {
            output::result(&format!("{} is no longer drained", args.subject));
        }
        Ok(exit::DONE)
    })
}

/// The resource of a pool's or an endpoint's drain.
fn path(subject: &str) -> String {
    match subject.split_once('/') {
        None => format!("/pools/{}/drain", encoded(subject)),
        Some((pool, endpoint)) => format!(
            "/pools/{}/endpoints/{}/drain",
            encoded(pool),
            encoded(endpoint)
        ),
    }
}

/// A segment of a path, whatever somebody typed.
pub(super) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_paths() {
        assert_eq!(path("aws"), "/pools/aws/drain");
        assert_eq!(
            path("aws/10.0.0.1:80"),
            "/pools/aws/endpoints/10.0.0.1:80/drain"
        );
        assert_eq!(
            path("aws/[::1]:80"),
            "/pools/aws/endpoints/%5B::1%5D:80/drain"
        );
        assert_eq!(path("a?b#c d"), "/pools/a%3Fb%23c%20d/drain");
    }
}
