//! HAProxy, from Debian: probes and what requests meet decide who is up; a failed request goes to
//! another server at once.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Files, PER_TRY, PROBE_EVERY, Peer, Task, debian};
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
        let (listen, generation) = (task.listen, task.generation);
        let (every, limit) = (PROBE_EVERY.as_millis(), PER_TRY.as_millis());
        let mut text = format!(
            "global
    nbthread 1
    maxconn 9000
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
    timeout check {limit}ms
    retries 3
    retry-on all-retryable-errors
    option redispatch 1

frontend clients
    bind {listen} backlog 4096
    default_backend clouds

backend clouds
    balance roundrobin
    option httpchk GET /health
    # What may have been acted upon is not repeated.
    http-request disable-l7-retry unless {{ method GET HEAD OPTIONS PUT DELETE }}
    http-response set-header x-generation {generation}
    default-server check inter {every}ms fall 2 rise 2
    default-server observe layer7 error-limit 10 on-error mark-down on-marked-down shutdown-sessions
",
            folder.display()
        );
        for cloud in &task.clouds {
            for (number, endpoint) in cloud.endpoints.iter().enumerate() {
                let (name, weight) = (cloud.name, cloud.weight);
                let _ = writeln!(
                    text,
                    "    server {name}-{number} {endpoint} weight {weight}"
                );
            }
        }
        vec![("haproxy.cfg", text)]
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
