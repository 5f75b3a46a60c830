//! Listeners that come and go while it serves, and those that cannot.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpStream};

use crate::harness::client::{Connection, get};
use crate::harness::config::{PROBES, pools};
use crate::harness::portolan::port;
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

/// Clients who come anew for every request.
fn newcomers(address: SocketAddr) -> Load {
    Load::start(address, 3, || Ask::get("/").header("connection", "close"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_moved_between_addresses_while_clients_come() {
    let origin = Origin::start("a").await;
    let port = port();
    let at = |ip: &str| -> SocketAddr { format!("{ip}:{port}").parse().unwrap() };
    let bind = |ip: &str| config(&[&at(ip).to_string()], &origin);
    let mut portolan = Portolan::start(&bind("127.0.0.1")).await;
    let here = at("127.0.0.1");
    let (elsewhere, six) = (at("127.0.0.2"), at("[::1]"));
    // Who stays, who has a request under way, and who comes while the address moves.
    let stays = Load::plain(here, 2);
    stays.more(10).await;
    let comes = newcomers(here);
    let slow = tokio::spawn(Ask::get("/sleep?ms=3000").to(here));
    let moves = [
        ("0.0.0.0", true, false),
        ("[::]", true, true),
        ("127.0.0.1", false, false),
        ("[::]", true, true),
        ("0.0.0.0", true, false),
        ("127.0.0.1", false, false),
        ("0.0.0.0", true, false),
    ];
    for (to, wide, both) in moves {
        portolan.change(&bind(to)).await;
        assert_eq!(portolan.addresses().await, [at(to)]);
        comes.more(30).await;
        for (address, reached) in [(elsewhere, wide), (six, both)] {
            eventually(
                &format!("{address} is there: {reached}, at {to}"),
                async || {
                    let connected = TcpStream::connect(address).await.is_ok();
                    (connected == reached).then_some(())
                },
            )
            .await;
            if reached {
                assert_eq!(fetch(address, "/").await.origin(), "a");
            }
        }
    }
    // A process that takes over has every door, and may close them.
    portolan.upgrade().await;
    comes.more(30).await;
    assert_eq!(fetch(elsewhere, "/").await.origin(), "a");
    portolan.change(&bind("127.0.0.1")).await;
    comes.more(30).await;
    eventually("the other address is gone", async || {
        TcpStream::connect(elsewhere).await.is_err().then_some(())
    })
    .await;
    comes.stop().await.assert_flawless();
    assert_eq!(slow.await.unwrap().unwrap().status, 200);
    let stayed = stays.stop().await;
    stayed.assert_flawless();
    assert!(
        stayed.connections <= 4,
        "connections outlive every move, though not the upgrade: {}",
        stayed.connections
    );
    // It is nobody else's now.
    assert!(TcpListener::bind(at("0.0.0.0")).await.is_err());
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_refused_moves_nothing() {
    let origin = Origin::start("a").await;
    let port = port();
    let narrow = format!("127.0.0.1:{port}");
    let portolan = Portolan::start(&config(&[&narrow], &origin)).await;
    let here: SocketAddr = narrow.parse().unwrap();
    let comes = newcomers(here);
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    let wide = format!("0.0.0.0:{port}");
    for _ in 0..3 {
        let error = portolan
            .change_refused(&config(&[&wide, &taken_address], &origin))
            .await;
        assert!(error.contains(&taken_address), "{error}");
        comes.more(20).await;
        assert_eq!(portolan.addresses().await, [here]);
        let elsewhere = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), port);
        assert!(TcpStream::connect(elsewhere).await.is_err());
        // Not shared with anybody, either.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        assert!(socket.bind(wide.parse().unwrap()).is_err());
    }
    drop(taken);
    portolan.change(&config(&[&wide], &origin)).await;
    comes.more(20).await;
    comes.stop().await.assert_flawless();
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_narrower_of_two_addresses_has_settings_of_its_own() {
    let origin = Origin::start("a").await;
    let port = port();
    let both = |first: &str, second: &str| {
        format!(
            "listeners: [ {first}, {second} ]\n{PROBES}{}routes: [ {{ to: a }} ]\n",
            pools(&[("a", &[&origin], "")])
        )
    };
    let wide = format!("{{ bind: '0.0.0.0:{port}' }}");
    let narrow = format!("{{ bind: '127.0.0.1:{port}', deny: {{ cidrs: [ '127.0.0.0/8' ] }} }}");
    let here: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
    let elsewhere: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
    // At once, in either order.
    for text in [both(&wide, &narrow), both(&narrow, &wide)] {
        let portolan = Portolan::start(&text).await;
        assert_eq!(fetch(here, "/").await.status, 403);
        assert_eq!(fetch(elsewhere, "/").await.status, 200);
        portolan.stop().await;
    }
    // One after the other: the wider one has let in the narrower one's clients until then, and does again.
    let only = |bind: &str| config(&[&format!("{bind}:{port}")], &origin);
    let portolan = Portolan::start(&only("127.0.0.1")).await;
    portolan.change(&only("0.0.0.0")).await;
    let comes = newcomers(elsewhere);
    for _ in 0..2 {
        portolan.change(&both(&wide, &narrow)).await;
        assert_eq!(fetch(here, "/").await.status, 403);
        portolan.change(&only("0.0.0.0")).await;
        assert_eq!(fetch(here, "/").await.status, 200);
        comes.more(20).await;
    }
    // Two become one, and none of the clients of either is turned away.
    let two = [format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}")];
    let two = config(&[&two[0], &two[1]], &origin);
    let first = newcomers(here);
    for _ in 0..2 {
        portolan.change(&two).await;
        first.more(20).await;
        comes.more(20).await;
        portolan.change(&only("[::]")).await;
        first.more(20).await;
        comes.more(20).await;
    }
    comes.stop().await.assert_flawless();
    first.stop().await.assert_flawless();
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_much_room_gives_it_to_whoever_comes_by_any_door() {
    let origin = Origin::start("a").await;
    let port = port();
    let bind = |ip: &str| {
        format!(
            "listeners: [ {{ bind: '{ip}:{port}', limits: {{ connections: 1 }} }} ]\n{PROBES}{}routes: [ {{ to: a }} ]\n",
            pools(&[("a", &[&origin], "")])
        )
    };
    let portolan = Portolan::start(&bind("127.0.0.1")).await;
    portolan.change(&bind("0.0.0.0")).await;
    for _ in 0..10 {
        for ip in [[127, 0, 0, 1], [127, 0, 0, 2]] {
            let address = SocketAddr::new(Ipv4Addr::from(ip).into(), port);
            let ask = Ask::get("/").header("connection", "close").to(address);
            assert_eq!(soon("an answer", ask).await.unwrap().status, 200);
        }
    }
    portolan.stop().await;
}
