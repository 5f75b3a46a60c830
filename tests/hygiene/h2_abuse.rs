//! HTTP/2: what is malformed is answered or reset alone, what floods is sent away, and neither costs
//! memory or other clients anything.

use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::frames::{
    ACK, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Outcome, PING,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, get,
};
use super::{guarding, resident};
use crate::harness::config::{LISTENER, PROBES, pool, pools};
use crate::harness::{Origin, PATIENCE, Portolan, eventually, fetch, soon};

const PROTOCOL_ERROR: u32 = 1;
const CALM_DOWN: u32 = 11;

/// More memory than this for what one client does is an attack that works.
const BOUND: u64 = 48 << 20;

type Headers = &'static [(&'static str, &'static str)];

const METHOD: (&str, &str) = (":method", "GET");
const SCHEME: (&str, &str) = (":scheme", "http");
const AUTHORITY: (&str, &str) = (":authority", "a");
const PATH: (&str, &str) = (":path", "/");

#[tokio::test(flavor = "multi_thread")]
async fn malformed_streams_are_refused_one_by_one() {
    use Outcome::{Away, Reset, Status};
    let limits = ", limits: { uri_bytes: 64B, headers: 10, header_bytes: 2KiB }";
    let (portolan, recorder) = guarding(limits, "").await;
    let address = portolan.address().await;
    let long = (
        "x",
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
    );
    let cases: &[(Headers, Outcome)] = &[
        (
            &[METHOD, SCHEME, AUTHORITY, PATH, ("host", "b")],
            Status(400),
        ),
        (
            &[
                METHOD,
                SCHEME,
                AUTHORITY,
                PATH,
                ("host", "a"),
                ("host", "a"),
            ],
            Status(400),
        ),
        (
            &[METHOD, SCHEME, (":authority", "user@a"), PATH],
            Status(400),
        ),
        (&[METHOD, SCHEME, PATH], Status(400)),
        (&[METHOD, SCHEME, (":authority", "a,b"), PATH], Status(400)),
        (
            &[METHOD, SCHEME, AUTHORITY, (":path", "/a%2f..%2fb")],
            Status(400),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, (":path", "/../a")],
            Status(400),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, (":path", "/a%00")],
            Status(400),
        ),
        (&[METHOD, SCHEME, AUTHORITY, (":path", "*")], Status(400)),
        (
            &[METHOD, SCHEME, AUTHORITY, (":path", "http://a/")],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, PATH, ("X-Upper", "y")],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, PATH, ("connection", "x")],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[
                METHOD,
                SCHEME,
                AUTHORITY,
                PATH,
                ("transfer-encoding", "chunked"),
            ],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, PATH, ("upgrade", "h2c")],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, PATH, ("te", "gzip")],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, PATH, ("x", "a\r\nb: c")],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, PATH, (":late", "x")],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[METHOD, METHOD, SCHEME, AUTHORITY, PATH],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[
                METHOD,
                SCHEME,
                AUTHORITY,
                PATH,
                ("content-length", "5"),
                ("content-length", "6"),
            ],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[
                METHOD,
                SCHEME,
                AUTHORITY,
                PATH,
                ("content-length", "18446744073709551616"),
            ],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[METHOD, SCHEME, AUTHORITY, PATH, ("content-length", "5")],
            Reset(PROTOCOL_ERROR),
        ),
        (
            &[
                METHOD,
                SCHEME,
                AUTHORITY,
                (
                    ":path",
                    "/0123456789012345678901234567890123456789012345678901234567890123456789",
                ),
            ],
            Status(414),
        ),
        (
            &[
                METHOD,
                SCHEME,
                AUTHORITY,
                PATH,
                ("a", "b"),
                ("c", "d"),
                ("e", "f"),
                ("g", "h"),
                ("i", "j"),
                ("k", "l"),
                ("m", "n"),
                ("o", "p"),
                ("q", "r"),
                ("s", "t"),
                ("u", "v"),
            ],
            Status(431),
        ),
        (
            &[("x", "y"), METHOD, SCHEME, AUTHORITY, PATH],
            Reset(PROTOCOL_ERROR),
        ),
    ];
    for (headers, outcome) in cases {
        // A connection of its own: the engine ends one on which too much was malformed.
        let mut client = Client::connect(address, &[]).await;
        client
            .send(&frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &block(headers),
            ))
            .await;
        // The next stream is served, whatever became of the first.
        client
            .send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get("/good")))
            .await;
        let outcomes = client.outcomes(&[1, 3]).await;
        // What nobody can make sense of may end the connection as a whole.
        let away = matches!(outcome, Reset(_)) && outcomes[&1] == Away(PROTOCOL_ERROR);
        assert!(
            away || outcomes[&1] == *outcome,
            "{headers:?}: {outcomes:?}"
        );
        assert!(
            away || outcomes[&3] == Status(200),
            "{headers:?}: {outcomes:?}"
        );
        let mut seen = recorder.take();
        seen.retain(|request| request.line() != "GET /good");
        assert!(seen.is_empty(), "{headers:?}: {seen:?}");
    }
    // Too many bytes of headers, in one piece.
    let mut client = Client::connect(address, &[]).await;
    let mut many = get("/");
    for _ in 0..6 {
        many.extend(block(&[long, ("y", long.1), ("z", long.1)]));
    }
    client
        .send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &many))
        .await;
    assert_eq!(client.outcomes(&[1]).await[&1], Status(431));
    // The path that is matched is the path that is forwarded.
    client
        .send(&frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            3,
            &get("//a/./%62/../c?d=//"),
        ))
        .await;
    assert_eq!(client.outcomes(&[3]).await[&3], Status(200));
    let seen = recorder.take();
    assert_eq!(seen[0].line(), "GET /a/c?d=//");
    assert_eq!(seen[0].values("host"), ["a"]);
    let requests = "portolan_refused_requests_total";
    for (name, reason, least) in [
        ("portolan_refused_streams_total", "malformed", 10.0),
        (requests, "malformed", 3.0),
        (requests, "bad_path", 4.0),
        (requests, "bad_host", 1.0),
        (requests, "uri_too_long", 1.0),
        (requests, "headers_too_large", 2.0),
    ] {
        let label = format!("reason=\"{reason}\"");
        eventually(reason, async || {
            (portolan.metric(name, &[&label]).await >= least).then_some(())
        })
        .await;
    }
    drop(client);
    portolan.stop().await;
}

/// Frames without end, and the beginning of the reasons under which that is counted.
struct Flood {
    name: &'static str,
    reason: &'static str,
    make: Box<dyn FnMut(u32) -> Vec<u8> + Send>,
}

fn flood(
    name: &'static str,
    reason: &'static str,
    make: impl FnMut(u32) -> Vec<u8> + Send + 'static,
) -> Flood {
    Flood {
        name,
        reason,
        make: Box::new(make),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_are_sent_away_and_cost_nobody_anything() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    assert_eq!(fetch(address, "/").await.status, 200);
    let before = resident(portolan.pid());
    let request = |number: u32| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * number + 1,
            &get("/sleep?ms=20000"),
        )
    };
    // A large entry in the table, and then a head that names it over and over.
    let mut bomb = get("/");
    bomb.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'y'; 4000]);
    let entry = bomb.clone();
    let mut bomb = get("/");
    bomb.extend([0xbe; 12_000]);
    let opened = frame(HEADERS, END_STREAM, 1, &get("/"));
    let floods = [
        flood("ping", "h2_frame_flood", |_| frame(PING, 0, 0, &[0; 8])),
        flood("settings", "h2_frame_flood", |_| frame(SETTINGS, 0, 0, &[])),
        flood("settings acknowledged", "h2_", |_| {
            frame(SETTINGS, ACK, 0, &[])
        }),
        flood("priority", "h2_frame_flood", |_| {
            frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])
        }),
        flood("window updates", "h2_frame_flood", |_| {
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
        }),
        flood("unknown frames", "h2_frame_flood", |_| {
            frame(0x77, 0, 0, &[])
        }),
        flood("continuations", "h2_", move |number| match number {
            0 => opened.clone(),
            _ => frame(CONTINUATION, 0, 1, &block(&[("x", "y")])),
        }),
        flood("rapid reset", "h2_", move |number| {
            let mut both = request(number);
            both.extend(frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]));
            both
        }),
        flood("compression bomb", "h2_", move |number| {
            let block = if number == 0 { &entry } else { &bomb };
            frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, block)
        }),
    ];
    for Flood { name, reason, make } in floods {
        let label = format!("reason=\"{reason}");
        let count = async || {
            portolan
                .metric("portolan_refused_connections_total", &[&label])
                .await
        };
        let counted = count().await;
        let client = Client::connect(address, &[]).await;
        let goaway = client.flood(make).await;
        // Its last word may be lost when what was not read resets the connection.
        assert!(
            goaway.is_none_or(|code| code == CALM_DOWN || code == PROTOCOL_ERROR),
            "{name}: {goaway:?}"
        );
        eventually(name, async || (count().await > counted).then_some(())).await;
        assert_eq!(fetch(address, "/").await.status, 200, "{name}");
        let grown = resident(portolan.pid()).saturating_sub(before);
        assert!(grown < BOUND, "{name}: {grown} bytes more");
    }
    portolan.stop().await;
}

/// It acknowledges the first settings, which give it more room than the protocol does, and none that take it
/// back: so nothing could keep it from sending more.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_holds_much_and_acknowledges_nothing_is_sent_away() {
    const UPLOADS: u32 = 60;
    // It is full: who connects waits, and nothing of an upload is taken.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut crowd = Vec::new();
    while let Ok(inside) =
        tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(address)).await
    {
        crowd.push(inside.unwrap());
    }
    let config = [
        LISTENER,
        "pools:\n",
        &pool(
            "full",
            &[address],
            ", health: off, outlier: off, timeouts: { connect: 10m }",
        ),
        "routes: [ { to: full, timeout: 10m } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let mut client = Client::connect(portolan.address().await, &[]).await;
    while client.next().await.expect("its settings").kind != SETTINGS {}
    client.send(&frame(SETTINGS, ACK, 0, &[])).await;
    let post = block(&[(":method", "POST"), SCHEME, AUTHORITY, PATH]);
    let piece = vec![b'x'; 16 << 10];
    for number in 0..UPLOADS {
        let stream = 2 * number + 1;
        client
            .send(&frame(HEADERS, END_HEADERS, stream, &post))
            .await;
        for _ in 0..64 {
            client.send(&frame(DATA, 0, stream, &piece)).await;
        }
    }
    let gone = async {
        let label = "reason=\"h2_hoard\"";
        let refused = "portolan_refused_connections_total";
        while portolan.metric(refused, &[label]).await < 1.0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    // It has half a minute.
    tokio::time::timeout(2 * PATIENCE, gone)
        .await
        .expect("it is sent away");
    portolan
        .wait_for_metric("portolan_http2_held_bytes", &[], 0.0)
        .await;
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_and_clients_that_do_not_read_cost_little() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        &pools(&[("a", &[&origin], "")]),
        "routes: [ { to: a } ]\n",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    assert_eq!(fetch(address, "/").await.status, 200);
    let before = resident(portolan.pid());
    // Windows of nothing: no answer can be sent on.
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(address, &[0, 4, 0, 0, 0, 0]).await;
        let before = origin.hits();
        for number in 0..128 {
            let path = get("/bytes?count=1000000");
            let stream = 2 * number + 1;
            client
                .send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &path))
                .await;
            // Not more connections at once than a queue for them has room for.
            eventually("the endpoint has it", async || {
                (origin.hits() + 16 > before + u64::from(number)).then_some(())
            })
            .await;
        }
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 257, &get("/"));
        client.send(&head).await;
        assert_eq!(client.outcomes(&[257]).await[&257], Outcome::Reset(7));
        clients.push(client);
    }
    eventually("every answer is on its way", async || {
        (origin.hits() > 4 * 128).then_some(())
    })
    .await;
    assert_eq!(fetch(address, "/").await.status, 200);
    let grown = resident(portolan.pid()).saturating_sub(before);
    assert!(
        grown < 3 * BOUND,
        "{grown} bytes more for 512 answers nobody takes"
    );
    portolan
        .wait_for_metric(
            "portolan_refused_streams_total",
            &["reason=\"too_many\""],
            4.0,
        )
        .await;
    drop(clients);
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_break_their_word_are_reset() {
    let (portolan, recorder) = guarding(", limits: { body_bytes: 1KiB }", "").await;
    let address = portolan.address().await;
    let post = |length: &str| {
        let mut headers = vec![(":method", "POST"), SCHEME, AUTHORITY, PATH];
        if !length.is_empty() {
            headers.push(("content-length", length));
        }
        block(&headers)
    };
    for (length, body, outcome) in [
        ("5", 3, Outcome::Reset(PROTOCOL_ERROR)),
        ("3", 5, Outcome::Reset(PROTOCOL_ERROR)),
        ("2000", 2_000, Outcome::Status(413)),
        ("", 2_000, Outcome::Status(413)),
        ("5", 5, Outcome::Status(200)),
    ] {
        let mut client = Client::connect(address, &[]).await;
        client
            .send(&frame(HEADERS, END_HEADERS, 1, &post(length)))
            .await;
        client
            .send(&frame(DATA, END_STREAM, 1, &vec![b'b'; body]))
            .await;
        assert_eq!(
            client.outcomes(&[1]).await[&1],
            outcome,
            "{length:?}, {body}"
        );
        let forwarded = usize::from(outcome == Outcome::Status(200));
        assert_eq!(recorder.take().len(), forwarded, "{length:?}, {body}");
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pseudo_headers_behind_a_body_are_malformed() {
    let (portolan, recorder) = guarding("", "").await;
    let address = portolan.address().await;
    let post = block(&[(":method", "POST"), SCHEME, AUTHORITY]);
    // A path that the table remembers, so that it can be said again by its number.
    let path = b"\x44\x02/x";
    let cases: [(&str, Vec<u8>, u16); 7] = [
        ("a field", block(&[("x-sum", "7")]), 200),
        (
            "fields of one name",
            block(&[("x-sum", "7"), ("x-sum", "8")]),
            200,
        ),
        ("a path", block(&[(":path", "/y")]), 400),
        (
            "a path before a field",
            block(&[(":path", "/y"), ("x-sum", "7")]),
            400,
        ),
        ("a method by its number", vec![0x83], 400),
        ("a path that was remembered", vec![0xbe], 400),
        ("a status", block(&[(":status", "200")]), 400),
    ];
    for (what, behind, status) in cases {
        // As a whole, and in two frames.
        for cut in [behind.len(), behind.len() / 2] {
            let mut client = Client::connect(address, &[]).await;
            let head = [&*post, path].concat();
            client.send(&frame(HEADERS, END_HEADERS, 1, &head)).await;
            client.send(&frame(DATA, 0, 1, b"once")).await;
            let (first, rest) = behind.split_at(cut);
            if rest.is_empty() {
                let last = frame(HEADERS, END_HEADERS | END_STREAM, 1, first);
                client.send(&last).await;
            } else {
                let mut both = frame(HEADERS, END_STREAM, 1, first);
                both.extend(frame(CONTINUATION, END_HEADERS, 1, rest));
                client.send(&both).await;
            }
            let outcome = client.outcomes(&[1]).await[&1];
            assert_eq!(outcome, Outcome::Status(status), "{what}, cut at {cut}");
            drop(client);
            let forwarded = recorder.take();
            assert!(
                status == 200 || forwarded.iter().all(|it| it.line() != "POST /x"),
                "{what}"
            );
        }
    }
    portolan.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_after_as_many_requests_as_they_may_bring() {
    let (portolan, recorder) = guarding(", limits: { requests_per_connection: 5 }", "").await;
    let address = portolan.address().await;
    let mut client = Client::connect(address, &[]).await;
    for number in 0..5 {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &get("/"));
        client.send(&head).await;
    }
    // All of them are answered, it is told to go, and then it is over.
    let (mut answers, mut goaway) = (0, false);
    while let Some(came) = client.next().await {
        answers += u32::from(came.kind == HEADERS);
        goaway |= came.kind == GOAWAY;
        if came.kind == PING && came.flags & ACK == 0 {
            client.send(&frame(PING, ACK, 0, &came.payload)).await;
        }
    }
    assert_eq!((answers, goaway), (5, true));
    assert_eq!(recorder.take().len(), 5);
    // The same with HTTP/1.1.
    let mut one = soon(
        "a connection",
        crate::harness::client::Connection::open(address),
    )
    .await
    .unwrap();
    for number in 1..=5 {
        let answer = one.ask(crate::harness::Ask::get("/")).await.unwrap();
        let last = answer.header("connection") == "close";
        assert_eq!(last, number == 5, "{number}");
    }
    eventually("it is closed", async || one.is_closed().then_some(())).await;
    portolan.stop().await;
}
