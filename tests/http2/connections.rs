//! Connections that end, refuse and allow little: what was certainly not processed is sent again,
//! whatever it is and however often, and is nobody's fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use hyper::body::Bytes;
use tokio::net::TcpStream;

use super::{Papers, TWO, nobody_is_blamed};
use crate::harness::client::send_exactly;
use crate::harness::endpoint2::{Frames, frame};
use crate::harness::{Ask, Endpoint2, Nginx, Origin, Wire, eventually, soon};

const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const CALM_DOWN: u32 = 11;

fn post(_: u64) -> Ask {
    Ask::new(Method::POST, "/").body("once")
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_goes_away_again_and_again_and_no_post_is_lost() {
    let papers = Papers::new();
    for wire in TWO {
        let each = [20, 100, 1000];
        let nginx = Nginx::start(each.len(), Some(&papers.identity), |number, address| {
            let tls = match wire {
                Wire::Tls2 => "ssl http2; ssl_certificate tls.pem; ssl_certificate_key tls.key",
                _ => "http2",
            };
            let most = each[number];
            format!(
                "listen {address} {tls}; keepalive_requests {most}; location / {{ return 200 ok; }}"
            )
        })
        .await;
        for (most, endpoint) in each.into_iter().zip(&nginx.addresses) {
            let portolan = papers.in_front_of(wire, *endpoint, "").await;
            let address = portolan.address().await;
            for clients in [100, 1000] {
                let count = if most == 20 { 2_000 } else { 4_000 };
                let tally = soon("every answer", send_exactly(address, count, clients, post)).await;
                tally.assert_flawless();
            }
            let all = if most == 20 { 4_000.0 } else { 8_000.0 };
            nobody_is_blamed(&portolan, all).await;
            portolan.stop().await;
        }
    }
}

/// Bodies that are larger than what is kept in any case, and than nginx takes before it begins with a request.
#[tokio::test(flavor = "multi_thread")]
async fn nginx_goes_away_and_no_large_body_is_lost() {
    let papers = Papers::new();
    let origin = Origin::start("origin").await;
    for wire in TWO {
        let nginx = Nginx::start(1, Some(&papers.identity), |_, address| {
            let tls = match wire {
                Wire::Tls2 => "ssl http2; ssl_certificate tls.pem; ssl_certificate_key tls.key",
                _ => "http2",
            };
            format!(
                "listen {address} {tls}; keepalive_requests 20; client_max_body_size 1m; \
                 location / {{ proxy_pass http://{}; }}",
                origin.address
            )
        })
        .await;
        for (size, method) in [
            (65_536, Method::POST),
            (66_000, Method::POST),
            (100_000, Method::PUT),
            (200_000, Method::POST),
        ] {
            let portolan = papers.in_front_of(wire, nginx.addresses[0], "").await;
            let address = portolan.address().await;
            let before = origin.hits();
            let upload = move |_| Ask::new(method.clone(), "/").body(vec![b'x'; size]);
            let tally = soon("every answer", send_exactly(address, 400, 40, upload)).await;
            tally.assert_flawless();
            assert_eq!(origin.hits(), before + 400, "{size} bytes over {wire:?}");
            nobody_is_blamed(&portolan, 400.0).await;
            portolan.stop().await;
        }
    }
}

/// As Node.js does when answers that nobody reads fill the memory of a session: those go on, and whatever else
/// comes over that connection is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_an_endpoint_wants_no_more_is_left_for_another_one() {
    const ENOUGH: u32 = 20;
    let papers = Papers::new();
    for wire in TWO {
        let endpoint = Endpoint2::by_hand(wire, &papers.identity, move |_, line| async move {
            let Some(mut frames) = Frames::begin(line, &[]).await else {
                return;
            };
            let mut number = 0;
            while let Some(stream) = frames.request().await {
                number += 1;
                match number <= ENOUGH {
                    true => frames.answer(stream, b"ok").await,
                    false => frames.reset(stream, CALM_DOWN).await,
                };
            }
        })
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        let tally = soon(
            "every answer",
            send_exactly(address, 200, 1, |_| Ask::get("/")),
        )
        .await;
        tally.assert_flawless();
        let ejections = portolan.metric("portolan_ejections_total", &[]).await;
        assert_eq!(ejections, 0.0, "{wire:?}");
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_takes_one_request_at_a_time_is_asked_for_no_more() {
    let papers = Papers::new();
    for wire in TWO {
        let refused = Arc::new(AtomicU64::new(0));
        let counted = refused.clone();
        // Not the library, which would remember who had not read its settings yet.
        let endpoint = Endpoint2::by_hand(wire, &papers.identity, move |_, line| {
            let refused = counted.clone();
            async move {
                let Some(mut frames) = Frames::begin(line, &[(3, 1)]).await else {
                    return;
                };
                let mut taken = None;
                while let Some(came) = frames.next().await {
                    let begins = came.kind == frame::HEADERS;
                    if begins && taken.is_some() {
                        refused.fetch_add(1, Ordering::Relaxed);
                        frames.reset(came.stream, REFUSED_STREAM).await;
                    } else if begins {
                        taken = Some(came.stream);
                    }
                    if taken == Some(came.stream) && came.flags & frame::END_STREAM != 0 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        frames.answer(came.stream, b"ok").await;
                        taken = None;
                    }
                }
            }
        })
        .await;
        for cold in 0..4 {
            let portolan = papers.in_front_of(wire, endpoint.address, "").await;
            let address = portolan.address().await;
            let tally = soon("every answer", send_exactly(address, 300, 300, post)).await;
            tally.assert_flawless();
            nobody_is_blamed(&portolan, 300.0).await;
            assert_eq!(refused.load(Ordering::Relaxed), 0, "{wire:?}, start {cold}");
            portolan.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_once_share_a_connection_that_is_being_made() {
    let papers = Papers::new();
    for wire in TWO {
        let builder = h2::server::Builder::new();
        let endpoint = Endpoint2::start(
            wire,
            &papers.identity,
            builder,
            |_, mut respond| async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"ok"), true).unwrap();
            },
        )
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        let tally = soon("every answer", send_exactly(address, 300, 300, post)).await;
        tally.assert_flawless();
        // Two workers, a hundred requests on each connection.
        assert!(endpoint.connections() <= 6, "{}", endpoint.connections());
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_are_paced_and_spread_over_connections() {
    const CONNECTIONS: usize = 64;
    let papers = Papers::new();
    for wire in TWO {
        let resets: Arc<[AtomicU64; CONNECTIONS]> =
            Arc::new([const { AtomicU64::new(0) }; CONNECTIONS]);
        let counted = resets.clone();
        let endpoint = Endpoint2::by_hand(wire, &papers.identity, move |number, line| {
            let resets = counted.clone();
            async move {
                // Never answers, and counts what is taken back.
                if let Some(mut frames) = Frames::begin(line, &[]).await {
                    while let Some(came) = frames.next().await {
                        if came.kind == frame::RST_STREAM {
                            resets[number as usize].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
        })
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        let began = Instant::now();
        // Clients that may each take back as many.
        let clients = (0..6).map(async |_| {
            let stream = TcpStream::connect(address).await.unwrap();
            let (requests, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..150 {
                let request = Request::get("http://a/").body(()).unwrap();
                let mut requests = soon("a stream", requests.clone().ready()).await.unwrap();
                let (answer, _) = requests.send_request(request, true).unwrap();
                let _ = tokio::time::timeout(Duration::from_millis(2), answer).await;
            }
        });
        soon(
            "all of it is taken back",
            futures_util::future::join_all(clients),
        )
        .await;
        let all = || {
            resets
                .iter()
                .map(|count| count.load(Ordering::Relaxed))
                .sum::<u64>()
        };
        // Hardly one was over before it had begun.
        eventually("the endpoint is told of them", async || {
            (all() >= 700).then_some(())
        })
        .await;
        let seconds = began.elapsed().as_secs() + 1;
        for count in resets.iter().map(|count| count.load(Ordering::Relaxed)) {
            assert!(
                count <= 100 + 30 * seconds,
                "{count} on one connection in {seconds} s"
            );
        }
        assert!(endpoint.connections() >= 3, "{}", endpoint.connections());
        portolan.stop().await;
    }
}

/// What an endpoint does about requests that it could have taken.
#[derive(Clone, Copy, Debug)]
enum Unwilling {
    /// It goes away after the first on a connection, with this code, and answers that one.
    GoesAway(u32),
    /// It refuses every other one.
    Refuses,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_processed_is_sent_again_whatever_the_reason() {
    let papers = Papers::new();
    let all = [
        Unwilling::GoesAway(NO_ERROR),
        Unwilling::GoesAway(CALM_DOWN),
        Unwilling::Refuses,
    ];
    for (wire, how) in TWO.into_iter().flat_map(|wire| all.map(|how| (wire, how))) {
        let processed = Arc::new(AtomicU64::new(0));
        let counted = processed.clone();
        let endpoint = Endpoint2::by_hand(wire, &papers.identity, move |_, line| {
            let processed = counted.clone();
            async move {
                let Some(mut frames) = Frames::begin(line, &[]).await else {
                    return;
                };
                for number in 0.. {
                    let Some(stream) = frames.request().await else {
                        return;
                    };
                    if number % 2 == 1 {
                        frames.reset(stream, REFUSED_STREAM).await;
                        continue;
                    }
                    // Others are on their way meanwhile.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    processed.fetch_add(1, Ordering::Relaxed);
                    if let Unwilling::GoesAway(code) = how {
                        frames.go_away(stream, code).await;
                        frames.answer(stream, b"ok").await;
                        // Whatever else came is not looked at.
                        return;
                    }
                    frames.answer(stream, b"ok").await;
                }
            }
        })
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        let tally = soon("every answer", send_exactly(address, 200, 8, post)).await;
        tally.assert_flawless();
        assert_eq!(processed.load(Ordering::Relaxed), 200, "{wire:?} {how:?}");
        nobody_is_blamed(&portolan, 200.0).await;
        portolan.stop().await;
    }
}

/// Behind a balancer of connections, one of several servers is on its way out: what waits for a connection that
/// ends at once gets another one.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_connection_that_ends_at_once_gets_another_one() {
    let papers = Papers::new();
    for wire in TWO {
        let processed = Arc::new(AtomicU64::new(0));
        let counted = processed.clone();
        let endpoint = Endpoint2::by_hand(wire, &papers.identity, move |number, line| {
            let processed = counted.clone();
            async move {
                let Some(mut frames) = Frames::begin(line, &[]).await else {
                    return;
                };
                if number % 3 == 0 {
                    frames.go_away(0, NO_ERROR).await;
                    return;
                }
                while let Some(stream) = frames.request().await {
                    processed.fetch_add(1, Ordering::Relaxed);
                    frames.answer(stream, b"ok").await;
                }
            }
        })
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        let tally = soon("every answer", send_exactly(address, 300, 300, post)).await;
        tally.assert_flawless();
        assert_eq!(processed.load(Ordering::Relaxed), 300, "{wire:?}");
        nobody_is_blamed(&portolan, 300.0).await;
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_accepts_nothing_fails_requests_and_does_not_hold_them() {
    let papers = Papers::new();
    for wire in TWO {
        for code in [NO_ERROR, CALM_DOWN] {
            let endpoint = Endpoint2::by_hand(wire, &papers.identity, move |_, line| async move {
                if let Some(mut frames) = Frames::begin(line, &[]).await {
                    frames.go_away(0, code).await;
                    while frames.next().await.is_some() {}
                }
            })
            .await;
            let (portolan, good) = papers
                .before(wire, endpoint.address, ", outlier: off")
                .await;
            let address = portolan.address().await;
            let tally = soon("every answer", send_exactly(address, 200, 50, post)).await;
            tally.assert_flawless();
            assert_eq!(tally.from("good"), 200);
            assert_eq!(good.hits(), 200);
            portolan.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_allows_nothing_or_says_nothing_is_left() {
    let papers = Papers::new();
    for silent in [false, true] {
        let endpoint = Endpoint2::by_hand(Wire::H2c, &papers.identity, move |_, line| async move {
            if silent {
                // Not even what it allows: one request goes there, and the others after a while.
                let mut line = line;
                let mut piece = [0; 4096];
                while let Ok(1..) = tokio::io::AsyncReadExt::read(&mut line, &mut piece).await {}
            } else if let Some(mut frames) = Frames::begin(line, &[(3, 0)]).await {
                while frames.next().await.is_some() {}
            }
        })
        .await;
        let rest = ", outlier: off, timeouts: { connect: 300ms, first_byte: 500ms }";
        let (portolan, _good) = papers.before(Wire::H2c, endpoint.address, rest).await;
        let address = portolan.address().await;
        let ask = |_| Ask::get("/");
        // As many at a time as may be tried again after a silence: no verdict moves them.
        let tally = soon("every answer", send_exactly(address, 40, 8, ask)).await;
        tally.assert_flawless();
        assert_eq!(tally.from("good"), 40);
        portolan.stop().await;
    }
}
