//! nginx, from Debian: it has no probes of its own, but leaves out who failed it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Files, PER_TRY, Peer, Task, debian};
use crate::process::Process;

pub(crate) struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn version(&self) -> Result<String, String> {
        debian("nginx", "-v")
    }

    fn files(&self, task: &Task, folder: &Path) -> Files {
        let (listen, generation) = (task.listen, task.generation);
        let (folder, limit) = (folder.display(), PER_TRY.as_millis());
        // Workers would become another user's, who may not come into this folder.
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let mut servers = String::new();
        for cloud in &task.clouds {
            for endpoint in cloud.endpoints {
                let _ = writeln!(
                    servers,
                    "        server {endpoint} weight={} max_fails=3 fail_timeout=5s;",
                    cloud.weight
                );
            }
        }
        let text = format!(
            "{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 18000;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 9000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 60s;
    keepalive_requests 1000000;
    upstream clouds {{
{servers}        keepalive 256;
        keepalive_requests 1000000;
    }}
    server {{
        listen {listen} backlog=4096;
        add_header x-generation {generation} always;
        location / {{
            proxy_pass http://clouds;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_set_header Host $host;
            proxy_connect_timeout {limit}ms;
            proxy_read_timeout {limit}ms;
            proxy_next_upstream error timeout http_502 http_503 http_504;
            proxy_next_upstream_tries 4;
        }}
    }}
}}
"
        );
        vec![("nginx.conf", text)]
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).args(["-e", "stderr"]);
        command.arg("-c").arg(folder.join("nginx.conf"));
        command
    }

    fn reload(&self, process: &Process) {
        let master = Pid::from_raw(process.child.id().cast_signed());
        kill(master, Signal::SIGHUP).expect("the master runs");
    }
}
