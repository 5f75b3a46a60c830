//! What stands behind bodies, from clients to endpoints over HTTP/2 (RFC 9113, section 8.1).

use http::{HeaderMap, Request, Response};
use hyper::body::Bytes;
use tokio::net::TcpStream;

use super::{Papers, TWO};
use crate::harness::{Endpoint2, soon};

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_requests_pass_but_for_what_must_not_come_late() {
    let papers = Papers::new();
    for wire in TWO {
        let builder = h2::server::Builder::new();
        // Says what stood behind the body.
        let endpoint = Endpoint2::start(
            wire,
            &papers.identity,
            builder,
            |request, mut respond| async move {
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(Ok(part)) = body.data().await {
                    length += part.len();
                    let _ = body.flow_control().release_capacity(part.len());
                }
                let trailers = body.trailers().await.unwrap().unwrap_or_default();
                let mut names: Vec<String> = trailers
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
                    .collect();
                names.sort_unstable();
                let answer = Response::builder()
                    .header("x-behind", names.join(","))
                    .header("x-length", length)
                    .body(())
                    .unwrap();
                respond.send_response(answer, true).unwrap();
            },
        )
        .await;
        let portolan = papers.in_front_of(wire, endpoint.address, "").await;
        let stream = TcpStream::connect(portolan.address().await).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        // Of a body whose length is told, of one whose length is not, small and large, and of none.
        for (told, size) in [
            (true, 4),
            (false, 4),
            (true, 200_000),
            (false, 200_000),
            (false, 0),
        ] {
            let mut request = Request::post("http://a/");
            if told {
                request = request.header("content-length", size);
            }
            let (answer, mut body) = requests
                .send_request(request.body(()).unwrap(), false)
                .unwrap();
            if size > 0 {
                body.send_data(Bytes::from(vec![b'x'; size]), false)
                    .unwrap();
            }
            let mut trailers = HeaderMap::new();
            for (name, value) in [
                ("x-checksum", "7"),
                ("content-length", "5"),
                ("host", "b"),
                ("authorization", "Basic eA=="),
                ("x-forwarded-for", "192.0.2.1"),
            ] {
                trailers.insert(name, value.parse().unwrap());
            }
            body.send_trailers(trailers).unwrap();
            let answer = soon("an answer", answer).await.unwrap();
            assert_eq!(answer.status(), 200, "{wire:?} {told} {size}");
            assert_eq!(
                answer.headers()["x-behind"],
                "x-checksum=7",
                "{wire:?} {told} {size}"
            );
            assert_eq!(answer.headers()["x-length"], size.to_string().as_str());
        }
        portolan.stop().await;
    }
}
