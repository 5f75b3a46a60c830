//! Caddy, from Debian: servers in the order written, the first that is well (it knows no weights);
//! probes and what requests meet decide who that is.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::peers::{Files, PROBE_LIMIT, Peer, Task, debian};
use crate::process::Process;

pub(crate) struct Caddy;

impl Peer for Caddy {
    fn name(&self) -> &'static str {
        "Caddy"
    }

    fn version(&self) -> Result<String, String> {
        debian("caddy", "version")
    }

    /// One cloud, and others to fall back on; and it changes nothing while it runs.
    fn can(&self, task: &Task) -> bool {
        let (first, rest) = task.clouds.split_first().expect("there is a cloud");
        let tiers = first.weight > 0 && rest.iter().all(|cloud| cloud.weight == 0);
        tiers && task.hosts.is_empty() && task.tls.is_none()
    }

    fn files(&self, task: &Task, _: &Path) -> Files {
        let limit = seconds(task.limit);
        let version = if task.h2c { "h2c" } else { "1.1" };
        let upstreams: Vec<Value> = task
            .clouds
            .iter()
            .flat_map(|cloud| &cloud.endpoints)
            .map(|endpoint| json!({ "dial": endpoint.to_string() }))
            .collect();
        let mut checks = json!({
            "passive": {
                "fail_duration": "5s",
                "max_fails": 3,
                "unhealthy_status": [ 502, 503, 504 ],
            },
        });
        if let Some(every) = task.probes {
            checks["active"] = json!({
                "uri": "/health",
                "interval": seconds(every),
                "timeout": seconds(PROBE_LIMIT),
            });
        }
        // What may have been acted upon is not repeated: it knows that by itself.
        let proxy = json!({
            "handler": "reverse_proxy",
            "upstreams": upstreams,
            "transport": {
                "protocol": "http",
                "versions": [ version ],
                "dial_timeout": limit,
                "response_header_timeout": limit,
            },
            "load_balancing": {
                "selection_policy": { "policy": "first" },
                "retries": 3,
                "try_interval": "5ms",
            },
            "health_checks": checks,
        });
        let generation = task.generation.map(|number| {
            json!({
                "handler": "headers",
                "response": { "set": { "x-generation": [ number.to_string() ] } },
            })
        });
        let handlers: Vec<Value> = generation.into_iter().chain([proxy]).collect();
        let config = json!({
            "admin": { "disabled": true },
            "logging": { "logs": { "default": { "level": "ERROR" } } },
            "apps": { "http": { "servers": { "clients": {
                "listen": [ task.listen.to_string() ],
                "automatic_https": { "disable": true },
                "routes": [ { "handle": handlers } ],
            } } } },
        });
        vec![("caddy.json", config.to_string())]
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("caddy");
        command.args(["run", "--config", "caddy.json"]);
        // One thread that works, as with the others; and nothing of it stays.
        command.env("GOMAXPROCS", "1").env("HOME", folder);
        command
    }

    fn reload(&self, _: &Process) {
        unreachable!("nothing is changed while it runs");
    }
}

fn seconds(span: std::time::Duration) -> String {
    format!("{}ms", span.as_millis())
}
