//! nginx, from Debian: it has no probes of its own, but leaves out who failed it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cloud, Files, Peer, Task, debian};
use crate::process::Process;

pub(crate) struct Nginx;

impl Peer for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn version(&self) -> Result<String, String> {
        debian("nginx", "-v")
    }

    /// It speaks HTTP/2 to clients alone.
    fn can(&self, task: &Task) -> bool {
        !task.h2c
    }

    fn files(&self, task: &Task, folder: &Path) -> Files {
        let listen = task.listen;
        let (folder, limit) = (folder.display(), task.limit.as_millis());
        let tls = task.tls.as_ref().map_or_else(String::new, |(at, folder)| {
            let file = |name: &str| folder.join(name).display().to_string();
            let (cert, key) = (file("cert.pem"), file("key.pem"));
            format!(
                "        listen {at} ssl http2 backlog=4096;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
"
            )
        });
        let generation = task.generation.map_or_else(String::new, |number| {
            format!("        add_header x-generation {number} always;\n")
        });
        let streams = if task.streams {
            "    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_buffer_size 16k;
    proxy_buffers 16 16k;
    proxy_max_temp_file_size 0;
"
        } else {
            ""
        };
        // Workers would become another user's, who may not come into this folder.
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let upstreams = upstreams(task);
        let to = if task.hosts.is_empty() {
            "clouds"
        } else {
            "$cloud"
        };
        let text = format!(
            "{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 11000; }}
http {{
    access_log off;
{streams}    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 60s;
    keepalive_requests 1000000;
{upstreams}    server {{
        listen {listen} backlog=4096;
{tls}{generation}        location / {{
            proxy_pass http://{to};
            proxy_http_version 1.1;
            proxy_set_header Connection '';
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
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

/// All servers together, or those of each cloud, and which host leads to which.
fn upstreams(task: &Task) -> String {
    let mut text = String::new();
    if task.hosts.is_empty() {
        text.push_str("    upstream clouds {\n");
        for cloud in &task.clouds {
            let share = match cloud.weight {
                0 => "backup".to_owned(),
                weight => format!("weight={weight}"),
            };
            text.push_str(&servers(cloud, &share));
        }
        text.push_str("        keepalive 256;\n        keepalive_requests 1000000;\n    }\n");
        return text;
    }
    let _ = write!(
        text,
        "    map_hash_max_size 65536;
    map_hash_bucket_size 128;
    map $host $cloud {{
        default {};
",
        task.clouds[0].name
    );
    for (host, cloud) in &task.hosts {
        let _ = writeln!(text, "        {host} {};", task.clouds[*cloud].name);
    }
    text.push_str("    }\n");
    for cloud in &task.clouds {
        let _ = write!(
            text,
            "    upstream {} {{\n{}        keepalive 32;\n        keepalive_requests 1000000;\n    }}\n",
            cloud.name,
            servers(cloud, "")
        );
    }
    text
}

fn servers(cloud: &Cloud, share: &str) -> String {
    let mut text = String::new();
    for endpoint in &cloud.endpoints {
        let _ = writeln!(
            text,
            "        server {endpoint} {share} max_fails=3 fail_timeout=5s;"
        );
    }
    text
}
