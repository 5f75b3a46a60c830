//! nginx, as Debian has it.

use std::net::SocketAddr;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::certificates::Identity;
use super::{eventually, tools};

/// nginx with a configuration of its own, in a folder that lives as long.
pub(crate) struct Nginx {
    /// Where its servers listen.
    pub(crate) addresses: Vec<SocketAddr>,
    folder: TempDir,
    _child: Child,
}

impl Nginx {
    /// With so many servers: each is what `server` makes of its number and its address. With an
    /// `identity`, `tls.pem` and `tls.key` are beside the configuration.
    pub(crate) async fn start(
        count: usize,
        identity: Option<&Identity>,
        server: impl Fn(usize, SocketAddr) -> String,
    ) -> Self {
        tools::need("nginx", "nginx-light").await;
        // Somebody else may take a port before nginx does.
        eventually("nginx has its ports", async || {
            Self::try_start(count, identity, &server).await
        })
        .await
    }

    async fn try_start(
        count: usize,
        identity: Option<&Identity>,
        server: &impl Fn(usize, SocketAddr) -> String,
    ) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        if let Some(identity) = identity {
            for (name, content) in [
                ("tls.pem", &identity.certificate),
                ("tls.key", &identity.key),
            ] {
                std::fs::write(folder.path().join(name), content).unwrap();
            }
        }
        let mut addresses = Vec::new();
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            addresses.push(listener.local_addr().unwrap());
        }
        let servers = addresses.iter().enumerate();
        let servers: String = servers
            .map(|(number, address)| format!("  server {{ {} }}\n", server(number, *address)))
            .collect();
        let own = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let own = own
            .map(|name| format!("  {name}_temp_path {name};\n"))
            .concat();
        let config = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log info;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n{own}{servers}}}\n"
        );
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let last = *addresses.last().unwrap();
        let listens = eventually("nginx listens, or has ended", async || {
            if child.try_wait().unwrap().is_some() {
                return Some(false);
            }
            TcpStream::connect(last).await.is_ok().then_some(true)
        })
        .await;
        listens.then_some(Self {
            addresses,
            folder,
            _child: child,
        })
    }

    /// What it said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("error.log")).unwrap()
    }
}
