//! What systemd is told, and what it hands over, with a stand-in for it: the messages and the
//! sockets are as systemd documents them.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::SocketAddr as UnixAddress;

use nix::sys::signal::Signal;
use tokio::net::UnixDatagram;

use crate::harness::config::{PROBES, pools};
use crate::harness::{Ask, Load, Origin, Portolan, eventually, fetch, soon};

fn config(admin: &str, listener: &str, origin: &Origin) -> String {
    let pools = pools(&[("a", &[origin], "")]);
    format!(
        "admin: {{ bind: '{admin}' }}\nlisteners: [ {{ bind: '{listener}' }} ]\n\
         {PROBES}{pools}routes: [ {{ to: a }} ]\n"
    )
}

/// Who is told.
struct Manager(UnixDatagram);

impl Manager {
    /// The next message with a line that begins like this.
    async fn told(&self, beginning: &str) -> Vec<String> {
        soon(beginning, async {
            loop {
                let mut bytes = [0; 4096];
                let length = self.0.recv(&mut bytes).await.unwrap();
                let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                if lines.iter().any(|line| line.starts_with(beginning)) {
                    return lines;
                }
            }
        })
        .await
    }
}

fn value<'a>(lines: &'a [String], name: &str) -> &'a str {
    lines
        .iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("no {name}: {lines:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_is_told_how_the_service_is() {
    let origin = Origin::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    let mut portolan = Portolan::with(&config("127.0.0.1:0", "127.0.0.1:0", &origin))
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .start()
        .await;
    let ready = manager.told("READY=1").await;
    assert_eq!(value(&ready, "STATUS"), "Serving on 1 listener.");

    portolan.signal(Signal::SIGHUP);
    let reloading = manager.told("RELOADING=1").await;
    let first: u64 = value(&reloading, "MONOTONIC_USEC").parse().unwrap();
    manager.told("READY=1").await;
    portolan.signal(Signal::SIGHUP);
    let reloading = manager.told("RELOADING=1").await;
    let second: u64 = value(&reloading, "MONOTONIC_USEC").parse().unwrap();
    assert!(first > 0 && second > first);
    manager.told("READY=1").await;

    let pid = portolan.upgrade().await;
    let main = manager.told("MAINPID=").await;
    assert_eq!(value(&main, "MAINPID"), pid.to_string());
    manager.told("READY=1").await;
    assert_eq!(portolan.ended().await.code(), Some(0));

    portolan.signal(Signal::SIGTERM);
    // The old process did not say so when it ended: the service goes on.
    let stopping = manager.told("STOPPING=1").await;
    assert!(portolan.log().contains("taken over"));
    let extended: u64 = value(&stopping, "EXTEND_TIMEOUT_USEC").parse().unwrap();
    assert!(extended > 30_000_000, "shutdown_timeout and a little");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn abstract_addresses_are_understood() {
    let origin = Origin::start("a").await;
    let name = format!("portolan-test-{}", std::process::id());
    let address = UnixAddress::from_abstract_name(&name).unwrap();
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let manager = Manager(UnixDatagram::from_std(socket).unwrap());
    let portolan = Portolan::with(&config("127.0.0.1:0", "127.0.0.1:0", &origin))
        .env("NOTIFY_SOCKET", &format!("@{name}"))
        .start()
        .await;
    manager.told("READY=1").await;
    portolan.stop().await;
    manager.told("STOPPING=1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_the_manager_are_used() {
    let origin = Origin::start("a").await;
    let open = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (listener, admin) = (open(), open());
    let (address, operators) = (listener.local_addr().unwrap(), admin.local_addr().unwrap());
    let text = config(&operators.to_string(), &address.to_string(), &origin);
    // Kept open, as systemd does: clients can connect before, between and after processes.
    let kept = (listener.try_clone().unwrap(), admin.try_clone().unwrap());
    let mut portolan = Portolan::with(&text)
        .activated(listener, admin)
        .start()
        .await;
    assert_eq!(portolan.admin(), operators);
    assert_eq!(portolan.addresses().await, [address]);
    let load = Load::plain(address, 2);
    load.more(20).await;
    portolan.upgrade().await;
    load.more(50).await;
    load.stop().await.assert_flawless();
    assert_eq!(fetch(address, "/").await.origin(), "a");
    portolan.stop().await;

    // Whoever comes while nothing runs is served by the next one.
    let early = tokio::spawn(async move { fetch(address, "/").await });
    let next = Portolan::with(&text)
        .activated(kept.0, kept.1)
        .start()
        .await;
    assert_eq!(early.await.unwrap().origin(), "a");
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_the_manager_is_moved_as_well() {
    let origin = Origin::start("a").await;
    let open = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (listener, admin) = (open(), open());
    let (address, operators) = (listener.local_addr().unwrap(), admin.local_addr().unwrap());
    let text = |bind: &str| config(&operators.to_string(), bind, &origin);
    let portolan = Portolan::with(&text(&address.to_string()))
        .activated(listener, admin)
        .start()
        .await;
    let load = Load::start(address, 2, || Ask::get("/").header("connection", "close"));
    load.more(20).await;
    for ip in ["0.0.0.0", "127.0.0.1"] {
        let bind = format!("{ip}:{}", address.port());
        portolan.change(&text(&bind)).await;
        assert_eq!(portolan.addresses().await[0].to_string(), bind);
        load.more(30).await;
    }
    load.stop().await.assert_flawless();
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_nobody_wants_is_an_error() {
    let origin = Origin::start("a").await;
    let open = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (listener, stray) = (open(), open());
    let address = listener.local_addr().unwrap().to_string();
    let unwanted = stray.local_addr().unwrap().to_string();
    let (status, said) = Portolan::with(&config("127.0.0.1:0", &address, &origin))
        .activated(listener, stray)
        .run_to_end()
        .await;
    assert_eq!(status.code(), Some(1), "{said}");
    eventually("it says which", async || {
        said.contains(&unwanted).then_some(())
    })
    .await;
    assert!(said.contains(".socket"), "{said}");
}
