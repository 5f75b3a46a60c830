//! HAProxy, as Debian has it.

use std::net::SocketAddr;
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::certificates::Identity;
use super::tools;

/// HAProxy with a configuration of its own, in a folder that lives as long.
pub(crate) struct HaProxy {
    _folder: TempDir,
    _child: Child,
}

impl HaProxy {
    /// With these sections. With an `identity`, `tls.pem` is beside the configuration.
    pub(crate) async fn start(identity: Option<&Identity>, sections: &str) -> Self {
        tools::need("haproxy", "haproxy").await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("haproxy.cfg");
        let usual = "defaults\n  timeout connect 10s\n  timeout client 30s\n  timeout server 30s\n";
        std::fs::write(&file, format!("{usual}{sections}")).unwrap();
        if let Some(identity) = identity {
            let both = [&*identity.certificate, &identity.key].concat();
            std::fs::write(folder.path().join("tls.pem"), both).unwrap();
        }
        let child = Command::new("haproxy")
            .arg("-db")
            .arg("-f")
            .arg(&file)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            _folder: folder,
            _child: child,
        }
    }
}

/// A port that was free a moment ago.
pub(crate) async fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}
