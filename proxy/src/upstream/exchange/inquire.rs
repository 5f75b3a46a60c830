//! A question of Portolan's own to one endpoint: sent and answered as a whole.
//!
//! For whoever knows whom to ask, and what an answer means: probes. It is a try like any other.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora::Error;
use portolan_control::clock::Clock;

use super::attempt::{Attempt, Failed, Patience, UpstreamAnswer};
use super::upload::Upload;
use crate::http::head::{RequestHeader, ResponseHeader};
use crate::upstream::connect::peer::Target;
use crate::upstream::connect::pool::Upstream;
use crate::upstream::exchange::attempt::end_of;
use crate::upstream::session::part::{Length, Next, Part};
use crate::upstream::session::question::Request;

/// What is asked, and whom.
pub(crate) struct Question {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) target: Target,
    pub(crate) head: RequestHeader,
    pub(crate) body: Bytes,
    /// How long each part of it may take. The whole is for who asks to bound.
    pub(crate) patience: Duration,
    /// The largest body of an answer.
    pub(crate) most: usize,
}

/// The answer.
pub(crate) struct Reply {
    pub(crate) head: Box<ResponseHeader>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

/// Why there is none.
pub(crate) enum Unanswered {
    /// It never began.
    Failed(Failed),
    /// It broke off.
    Broken(Box<Error>),
    /// It is too large.
    TooMuch,
}

/// Asks.
pub(crate) async fn inquire(question: Question, clock: &Clock) -> Result<Reply, Unanswered> {
    let Question {
        upstream,
        target,
        mut head,
        body,
        patience,
        most,
    } = question;
    let length = match body.len() {
        0 => Length::None,
        length => {
            let told = head.insert_header(header::CONTENT_LENGTH, length);
            told.map_err(Unanswered::Broken)?;
            Length::Known(length as u64)
        }
    };
    let request = Request {
        head,
        length,
        idempotent: true,
        once: None,
        expects: false,
        upgrade: false,
        flows: false,
        is_call: false,
    };
    let within = Patience {
        first_byte: patience,
        idle: patience,
    };
    let mut attempt = Attempt::new(upstream.clone(), target, request, within, clock.now());
    let mut upload = Upload::whole(body);
    let answer = end_of(&mut attempt, &mut upload, clock).await;
    read(answer.map_err(Unanswered::Failed)?, &upstream, most, clock).await
}

/// Reads an answer to its end.
async fn read(
    answer: UpstreamAnswer,
    upstream: &Upstream,
    most: usize,
    clock: &Clock,
) -> Result<Reply, Unanswered> {
    let UpstreamAnswer {
        mut wire,
        target,
        head,
        next,
        ..
    } = answer;
    let mut body = BytesMut::new();
    let mut trailers = None;
    let mut last = next != Next::Body;
    while !last {
        let part = std::future::poll_fn(|cx| wire.poll_part(cx)).await;
        match part.map_err(Unanswered::Broken)? {
            Part::Body(part, end) => {
                if body.len() + part.len() > most {
                    return Err(Unanswered::TooMuch);
                }
                body.extend_from_slice(&part);
                last = end;
            }
            Part::Trailers(behind) => {
                trailers = Some(behind);
                last = true;
            }
            Part::End => last = true,
        }
    }
    wire.give_back(upstream, target, clock.instant(clock.now()).into());
    Ok(Reply {
        head,
        body: body.freeze(),
        trailers,
    })
}
