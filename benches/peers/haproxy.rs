//! HAProxy, from Debian: probes and what requests meet decide who is up; a failed request goes to
//! another server at once.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cloud, Files, PROBE_LIMIT, Peer, Task, debian};
use crate::process::Process;

pub(crate) struct HaProxy;

impl Peer for HaProxy {
    fn name(&self) -> &'static str {
        "HAProxy"
    }

    fn version(&self) -> Result<String, String> {
        debian("haproxy", "-v")
    }

    fn files(&self, task: &Task, folder: &Path) -> Files {
        let listen = task.listen;
        let limit = task.limit.as_millis();
        let probe_limit = PROBE_LIMIT.as_millis();
        let tls = task.tls.as_ref().map_or_else(String::new, |(at, folder)| {
            let both = folder.join("both.pem");
            format!(
                "    bind {at} backlog 4096 ssl crt {} alpn h2,http/1.1\n",
                both.display()
            )
        });
        let backend = if task.hosts.is_empty() {
            "default_backend clouds".to_owned()
        } else {
            let map = folder.join("hosts.map");
            let first = &task.clouds[0].name;
            format!(
                "use_backend %[req.hdr(host),host_only,lower,map_str({},{first})]",
                map.display()
            )
        };
        let generation = task.generation.map_or_else(String::new, |number| {
            format!("    http-response set-header x-generation {number}\n")
        });
        let mut text = format!(
            "global
    nbthread 1
    maxconn 11000
    no strict-limits
    stats socket {}/admin.sock mode 600 level admin expose-fd listeners

defaults
    mode http
    http-reuse aggressive
    timeout client 60s
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout queue 5s
    timeout connect {limit}ms
    timeout server {limit}ms
    timeout check {probe_limit}ms
    retries 3
    retry-on all-retryable-errors
    option redispatch 1

frontend clients
    bind {listen} backlog 4096
{tls}    option forwardfor
    http-request set-header x-forwarded-proto https if {{ ssl_fc }}
    http-request set-header x-forwarded-proto http unless {{ ssl_fc }}
{generation}    {backend}
",
            folder.display()
        );
        if task.hosts.is_empty() {
            text.push_str(&backend_head("clouds", task));
            for cloud in &task.clouds {
                let share = match cloud.weight {
                    0 => " backup".to_owned(),
                    weight => format!(" weight {weight}"),
                };
                text.push_str(&servers(cloud, &share));
            }
            return vec![("haproxy.cfg", text)];
        }
        for cloud in &task.clouds {
            text.push_str(&backend_head(&cloud.name, task));
            text.push_str(&servers(cloud, ""));
        }
        let mut map = String::new();
        for (host, cloud) in &task.hosts {
            let _ = writeln!(map, "{host} {}", task.clouds[*cloud].name);
        }
        vec![("hosts.map", map), ("haproxy.cfg", text)]
    }

    fn command(&self, _: &Path) -> Command {
        let mut command = Command::new("haproxy");
        command.args(["-W", "-db", "-f", "haproxy.cfg"]);
        command
    }

    fn reload(&self, process: &Process) {
        let master = Pid::from_raw(process.child.id().cast_signed());
        kill(master, Signal::SIGUSR2).expect("the master runs");
    }
}

fn backend_head(name: &str, task: &Task) -> String {
    let probes = task.probes.map_or_else(String::new, |every| {
        format!(
            "    option httpchk GET /health
    default-server check inter {}ms fall 2 rise 2
    default-server observe layer7 error-limit 10 on-error mark-down on-marked-down shutdown-sessions
",
            every.as_millis()
        )
    });
    // Its checks say no authority by themselves, and over HTTP/2 servers want one.
    let speaks = if task.h2c {
        "    default-server proto h2
    http-check send meth GET uri /health ver HTTP/2 hdr host bench.test
"
    } else {
        ""
    };
    format!(
        "
backend {name}
    balance roundrobin
    option allbackups
    # What may have been acted upon is not repeated.
    http-request disable-l7-retry unless {{ method GET HEAD OPTIONS PUT DELETE }}
{probes}{speaks}"
    )
}

fn servers(cloud: &Cloud, share: &str) -> String {
    let mut text = String::new();
    for (number, endpoint) in cloud.endpoints.iter().enumerate() {
        let _ = writeln!(text, "    server {}-{number} {endpoint}{share}", cloud.name);
    }
    text
}
