//! Endpoints that write an answer in pieces, and have their system collect them (Nagle's algorithm): it
//! sends the first one, and the others when that one is acknowledged. Whoever waits for something to
//! send along with the acknowledgement waits for 40 ms each time.
//!
//! The system counts acknowledgements that it delayed until there was no more waiting for it, for each
//! network: so each test has a network of its own.

use super::Papers;
use crate::harness::client::Connection;
use crate::harness::config::{LISTENER, pool};
use crate::harness::keeper::{Habits, Keeper};
use crate::harness::namespace::{ip, is_inside};
use crate::harness::{Ask, Wire, soon};

/// Answers, by their pieces.
const ANSWERS: [(&str, &[&str]); 6] = [
    (
        "a head and a body",
        &[
            "HTTP/1.1 200 OK\r\n{keep}content-length: 5\r\n\r\n",
            "whole",
        ],
    ),
    (
        "chunks",
        &[
            "HTTP/1.1 200 OK\r\n{keep}transfer-encoding: chunked\r\n\r\n",
            "5\r\n",
            "whole",
            "\r\n",
            "0\r\n\r\n",
        ],
    ),
    (
        "a head line by line",
        &[
            "HTTP/1.1 200 OK\r\n",
            "{keep}",
            "content-length: 5\r\n",
            "\r\n",
            "whole",
        ],
    ),
    (
        "an interim answer before",
        &[
            "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n",
            "HTTP/1.1 200 OK\r\n{keep}content-length: 5\r\n\r\nwhole",
        ],
    ),
    (
        "a body in two",
        &[
            "HTTP/1.1 200 OK\r\n{keep}content-length: 5\r\n\r\nwh",
            "ole",
        ],
    ),
    (
        "all at once",
        &["HTTP/1.1 200 OK\r\n{keep}content-length: 5\r\n\r\nwhole"],
    ),
];

/// Acknowledgements of this network that were sent because there was no more waiting.
fn delayed() -> u64 {
    let text = std::fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let names = lines.next().unwrap().split(' ');
    let mut counted = names.zip(lines.next().unwrap().split(' '));
    let (_, count) = counted.find(|(name, _)| *name == "DelayedACKs").unwrap();
    count.parse().unwrap()
}

const REQUESTS: u64 = 100;

async fn nobody_waits(wire: Wire) {
    ip("link set lo up");
    let papers = Papers::new();
    for (what, pieces) in ANSWERS {
        let pieces = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        let habits = Habits {
            pieces: Some(pieces),
            ..Habits::default()
        };
        let keeper = Keeper::start(wire, &papers.identity, habits).await;
        let config = [
            LISTENER,
            "defaults: { health: off }\npools:\n",
            &pool("a", &[keeper.address], wire.pool()),
            "routes: [ { to: a } ]\n",
        ]
        .concat();
        let portolan = papers.portolan(&config).start().await;
        let mut connection = Connection::open(portolan.address().await).await.unwrap();
        let before = delayed();
        for _ in 0..REQUESTS {
            let answer = soon("an answer", connection.ask(Ask::get("/"))).await;
            assert_eq!(answer.unwrap().status, 200, "{what}");
        }
        let delayed = delayed() - before;
        assert!(
            delayed < REQUESTS / 5,
            "{what}: {delayed} of {REQUESTS} waited"
        );
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_pieces_waits_for_no_acknowledgement() {
    let this = "faults::pieces::an_answer_in_pieces_waits_for_no_acknowledgement";
    if is_inside(this).await {
        nobody_waits(Wire::Http1).await;
    }
}
