//! Interim answers of endpoints over HTTP/2 (RFC 9110, section 15.2).

use http::{Method, Request, Response, StatusCode};
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Papers, TWO};
use crate::harness::endpoint2::Frames;
use crate::harness::{Ask, Endpoint2, soon};

fn interim(status: u16, link: &str) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert("link", link.parse().unwrap());
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_pass_to_clients_of_either_version() {
    let papers = Papers::new();
    for wire in TWO {
        let builder = h2::server::Builder::new();
        let endpoint = Endpoint2::start(
            wire,
            &papers.identity,
            builder,
            |_, mut respond| async move {
                for (status, link) in [(102, "</0>"), (103, "</1>"), (100, "</2>"), (103, "</3>")] {
                    respond.send_informational(interim(status, link)).unwrap();
                }
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from_static(b"ok"), true).unwrap();
            },
        )
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let address = portolan.address().await;
        // Over HTTP/1.1, word by word.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut said = Vec::new();
        soon("the whole answer", stream.read_to_end(&mut said))
            .await
            .unwrap();
        let said = String::from_utf8(said).unwrap();
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| {
                line.starts_with("HTTP/1.1 ") || line.to_lowercase().starts_with("link:")
            })
            .map(|line| line.split_once(' ').unwrap().1)
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(
            lines,
            ["102", "</0>", "103", "</1>", "103", "</3>", "200"],
            "{said}"
        );
        // HTTP/1.0 knows no such thing.
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut said = Vec::new();
        soon("the whole answer", stream.read_to_end(&mut said))
            .await
            .unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        assert_eq!(said.matches("HTTP/1.1").count(), 1, "{said}");
        // Over HTTP/2.
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a/").body(()).unwrap();
        let (mut answer, _) = requests.send_request(request, true).unwrap();
        let mut seen = Vec::new();
        let reading = async {
            while let Some(interim) = std::future::poll_fn(|cx| answer.poll_informational(cx)).await
            {
                let interim = interim.unwrap();
                let link = interim.headers()["link"].to_str().unwrap().to_owned();
                seen.push((interim.status().as_u16(), link));
            }
        };
        soon("interim answers", reading).await;
        let wanted = [(102, "</0>"), (103, "</1>"), (103, "</3>")];
        assert_eq!(seen, wanted.map(|(status, link)| (status, link.to_owned())));
        assert_eq!(soon("the answer", answer).await.unwrap().status(), 200);
        portolan.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn interim_answers_without_end_or_that_switch_protocols_are_no_answer() {
    let papers = Papers::new();
    for (status, count) in [(b"103", 1000), (b"101", 1)] {
        let wire = TWO[0];
        let endpoint = Endpoint2::by_hand(wire, &papers.identity, move |_, line| async move {
            let Some(mut frames) = Frames::begin(line, &[]).await else {
                return;
            };
            while let Some(stream) = frames.request().await {
                for _ in 0..count {
                    // `:status`, written out.
                    let block = [&[0x08, 3], &status[..]].concat();
                    if frames.say(1, 4, stream, &block).await.is_none() {
                        return;
                    }
                }
            }
        })
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let ask = Ask::new(Method::POST, "/").body("once");
        let answer = soon("an answer", ask.to(portolan.address().await)).await;
        // Those that came before may have been passed on.
        assert_eq!(answer.unwrap().status, 502);
        portolan.stop().await;
    }
}
