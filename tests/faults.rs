//! Endpoints that fail requests, in every way, over everything that is spoken to them: what the
//! client sees, what is counted, and which requests get through all the same.

mod alike;
mod before_answer;
mod dead_cloud;
mod deadlines;
mod edge;
mod kept;
mod many;
mod mid_answer;
mod names;
mod network;
mod pieces;
mod silence;
mod stopped;

use std::net::SocketAddr;

use http::Method;

use crate::harness::certificates::{Authority, Identity};
use crate::harness::config::{LISTENER, pool};
use crate::harness::portolan::Builder;
use crate::harness::{Ask, Origin, Portolan, Wire, soon};

/// Two tiers, the first one bad: only requests find out, and nobody is left out for it.
async fn behind(bad: SocketAddr, good: &Origin, pool_rest: &str, route_rest: &str) -> Portolan {
    let config = [
        LISTENER,
        "defaults: { health: off, outlier: off }\npools:\n",
        &pool("bad", &[bad], pool_rest),
        &pool("good", &[good.address], ""),
        &format!(
            "routes: [ {{ name: all, to: {{ tiers: [ bad, good ] }}, expose: true{route_rest} }} ]\n"
        ),
    ]
    .concat();
    Portolan::start(&config).await
}

/// What becomes of a request that may be repeated, of one that may not, and of one with a key.
async fn fates(address: SocketAddr) -> [(u16, String); 3] {
    let asks = [
        Ask::get("/"),
        Ask::new(Method::POST, "/").body("once"),
        Ask::new(Method::POST, "/")
            .header("idempotency-key", "7")
            .body("once"),
    ];
    let mut fates = Vec::new();
    for ask in asks {
        let answer = soon("an answer", ask.to(address)).await.unwrap();
        fates.push((answer.status, answer.origin().to_owned()));
    }
    fates.try_into().unwrap()
}

fn served() -> (u16, String) {
    (200, "good".to_owned())
}

/// Who signs the certificates of a test's endpoints, and what they show.
struct Papers {
    authority: Authority,
    identity: Identity,
}

impl Papers {
    fn new() -> Self {
        let authority = Authority::new();
        let identity = authority.sign(&[Wire::NAME]);
        Self {
            authority,
            identity,
        }
    }

    /// A process that trusts them.
    fn portolan(&self, config: &str) -> Builder {
        Portolan::with(config).file("ca.pem", self.authority.pem())
    }
}
