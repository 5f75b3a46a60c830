//! Listeners that come and go while it serves, and those that cannot.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use crate::harness::client::{Connection, get};
use crate::harness::config::{PROBES, pools};
use crate::harness::{Ask, Load, Origin, Portolan, eventually, fetch, soon};

fn config(binds: &[&str], origin: &Origin) -> String {
    let binds: Vec<String> = binds
        .iter()
        .map(|bind| format!("{{ bind: \"{bind}\" }}"))
        .collect();
    format!(
        "listeners: [ {} ]\n{PROBES}{}routes: [ {{ to: a }} ]\n",
        binds.join(", "),
        pools(&[("a", &[origin], "")])
    )
}

/// An address that nobody has just now. On an address of this process's own: the port of another
/// would soon be somebody else's.
async fn free() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind((Ipv4Addr::new(127, 1, high, low), 0));
    listener.await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_added_and_removed_without_a_lost_request() {
    let origin = Origin::start("a").await;
    let portolan = Portolan::start(&config(&["127.0.0.1:0"], &origin)).await;
    let first = portolan.address().await;
    let load = Load::plain(first, 4);
    load.more(50).await;
    for _ in 0..3 {
        let extra = free().await;
        let text = extra.to_string();
        portolan
            .change(&config(&["127.0.0.1:0", &text], &origin))
            .await;
        assert_eq!(portolan.addresses().await, [first, extra]);
        assert_eq!(fetch(extra, "/").await.status, 200);
        // One who stays is served to the end of a request, and then asked to leave.
        let mut staying = Connection::open(extra).await.unwrap();
        assert_eq!(staying.ask(Ask::get("/")).await.unwrap().status, 200);
        let slow = tokio::spawn(Ask::get("/sleep?ms=500").to(extra));
        eventually("the slow one is under way", async || {
            let under_way = portolan.metric("portolan_in_flight", &[]).await;
            (under_way >= 1.0).then_some(())
        })
        .await;
        portolan.change(&config(&["127.0.0.1:0"], &origin)).await;
        assert_eq!(slow.await.unwrap().unwrap().status, 200);
        eventually("nobody listens there", async || {
            TcpStream::connect(extra).await.is_err().then_some(())
        })
        .await;
        eventually("the idle client is gone", async || {
            staying.is_closed().then_some(())
        })
        .await;
    }
    load.more(50).await;
    let tally = load.stop().await;
    tally.assert_flawless();
    assert_eq!(tally.connections, 4, "the others noticed nothing");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_refuses_the_whole_change() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    let portolan = Portolan::start(&config(&["127.0.0.1:0"], &a)).await;
    let first = portolan.address().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let fine = free().await.to_string();
    let error = portolan
        .change_refused(&config(&["127.0.0.1:0", &fine, &address], &b))
        .await;
    assert!(error.contains(&address), "{error}");
    assert_eq!(portolan.addresses().await, [first]);
    assert_eq!(fetch(first, "/").await.origin(), "a");
    // Nothing of it is left behind, not even the address that could be had.
    let fine: SocketAddr = fine.parse().unwrap();
    assert!(TcpStream::connect(fine).await.is_err());
    drop(taken);
    portolan
        .change(&config(&["127.0.0.1:0", &address], &b))
        .await;
    assert_eq!(portolan.addresses().await.len(), 2);
    assert_eq!(fetch(first, "/").await.origin(), "b");
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_at_the_start_is_an_error() {
    let origin = Origin::start("a").await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, said) = Portolan::with(&config(&[&address], &origin))
        .run_to_end()
        .await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&address), "{said}");
    assert!(said.contains("in use"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_of_the_systems_choice_is_told() {
    let origin = Origin::start("a").await;
    let portolan =
        Portolan::start(&config(&["127.0.0.1:0", "127.0.0.1:0", "[::1]:0"], &origin)).await;
    let addresses = portolan.addresses().await;
    assert_eq!(addresses.len(), 3);
    for address in &addresses {
        assert_ne!(address.port(), 0);
        let answer = soon("an answer", get(*address, "/")).await.unwrap();
        assert_eq!(answer.status, 200);
        let said = format!("listening on {address}");
        assert!(portolan.log().contains(&said), "{}", portolan.log());
    }
    assert!(addresses[2].is_ipv6());
    portolan.stop().await;
}
