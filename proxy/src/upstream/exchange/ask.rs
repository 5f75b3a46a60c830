//! A question of Portolan's own to a pool, asked beside a request: without a body, and answered as a
//! whole.
//!
//! It goes the way of every other request: an endpoint by the pool's balancer, a kept connection or a
//! new one, the strict reader of answers. What becomes of it is the endpoint's to answer for, like
//! any try. One that fails is followed by another endpoint, as long as there is time.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use portolan_config::plan::PoolId;
use portolan_control::clock::Tick;
use portolan_control::counters::TryOutcome;
use portolan_control::health::exhaustion::SHORTAGES;
use portolan_control::health::outlier::Source;
use portolan_control::pool::balance::Criteria;
use portolan_control::pool::view::PoolView;
use portolan_control::steering::Basis;
use smallvec::SmallVec;

use super::attempt::{Attempt, Patience, UpstreamAnswer};
use super::upload::Upload;
use crate::http::head::{RequestHeader, ResponseHeader};
use crate::random::fastrand_scope;
use crate::request::context::{InFlight, Served};
use crate::upstream::exchange::attempt::end_of;
use crate::upstream::exchange_context::ExchangeContext;
use crate::upstream::session::part::{Length, Next, Part};
use crate::upstream::session::question::Request;
use crate::upstream::{choose, fault};

/// Endpoints that are asked before it is given up.
const MOST_TRIES: usize = 3;

/// An answer.
pub(crate) struct ServiceAnswer {
    pub(crate) head: Box<ResponseHeader>,
    /// Its body, as far as it was asked for.
    pub(crate) body: Bytes,
}

/// Asks a pool, and waits no longer than this. Of the answer's body so much is kept. Nothing: there
/// was no answer, and why.
pub(crate) async fn ask(
    with: &ExchangeContext,
    ctx: &Served<'_>,
    pool: PoolId,
    head: RequestHeader,
    patience: Duration,
    most: usize,
) -> Result<ServiceAnswer, &'static str> {
    let snapshot = ctx.snapshot();
    let view = &snapshot.pools[pool.index()];
    let clock = &with.clock;
    let until = clock.now() + patience;
    let mut failed: SmallVec<[usize; MOST_TRIES]> = SmallVec::new();
    while failed.len() < MOST_TRIES {
        let began = clock.now();
        let left = until.since(began);
        if left.is_zero() {
            return Err("it took too long");
        }
        let Some(endpoint) = pick(view, &failed, began) else {
            break;
        };
        let Some(target) = choose::target_of(ctx, view, endpoint) else {
            return Err("an endpoint that nobody prepared");
        };
        let mut live = InFlight::new(view.endpoints[endpoint].live.clone());
        let request = Request {
            head: head.clone(),
            length: Length::None,
            idempotent: true,
            once: None,
            expects: false,
            upgrade: false,
            flows: false,
            is_call: false,
        };
        let within = Patience {
            first_byte: left,
            idle: left,
        };
        let mut attempt = Attempt::new(with.upstream.clone(), target, request, within, began);
        let mut nothing = Upload::whole(Bytes::new());
        live.wait(began);
        let answer = tokio::time::timeout(left, end_of(&mut attempt, &mut nothing, clock)).await;
        match answer {
            Ok(Ok(answer)) => {
                let now = clock.now();
                let status = answer.head.status.as_u16();
                // A question of our own is alike every time: what becomes of it is its endpoint's.
                drop(live.answered(status, Some(now.since(began)), now, Source::default));
                let heard = clock.instant(now);
                let rest = whole(with, answer, most, heard);
                let rest = tokio::time::timeout(until.since(now), rest);
                return match rest.await {
                    Ok(Some(told)) => Ok(told),
                    Ok(None) => {
                        live.broke_off();
                        Err("its answer broke off")
                    }
                    Err(_) => Err("it took too long"),
                };
            }
            Ok(Err(error)) => {
                let outcome = fault::outcome(&error.error);
                drop(live.failed(outcome, clock.now(), Source::default));
                if let Some(short) = fault::shortage(&error.error) {
                    SHORTAGES.one(short);
                    if short.is_everybodys() {
                        return Err("this instance cannot connect to anybody");
                    }
                }
                failed.push(endpoint);
            }
            Err(_) => {
                drop(live.failed(TryOutcome::TimedOut, clock.now(), Source::default));
                return Err("it took too long");
            }
        }
    }
    Err(if failed.is_empty() {
        "it has no endpoint that can be asked"
    } else {
        "it cannot be reached"
    })
}

/// An endpoint that has not failed: a healthy one if there is one.
fn pick(view: &PoolView, failed: &[usize], now: Tick) -> Option<usize> {
    fastrand_scope(|random| {
        [Basis::Health, Basis::EveryEndpoint]
            .into_iter()
            .find_map(|basis| {
                let mut wish = Criteria {
                    hash: None,
                    excluded: failed,
                    random,
                    now,
                };
                view.pick(basis, &mut wish)
            })
    })
}

/// The whole of an answer, of which the head was heard then, with so much of its body. Nothing if it
/// breaks off.
async fn whole(
    with: &ExchangeContext,
    answer: UpstreamAnswer,
    most: usize,
    heard: std::time::Instant,
) -> Option<ServiceAnswer> {
    let UpstreamAnswer {
        mut wire,
        target,
        head,
        next,
        ..
    } = answer;
    let mut body = BytesMut::new();
    match next {
        Next::Body => loop {
            let part = std::future::poll_fn(|cx| wire.poll_part(cx)).await;
            let last = match part.ok()? {
                Part::Body(part, last) => {
                    let room = most - body.len();
                    if part.len() > room {
                        // The rest is nobody's: its connection is not kept.
                        body.extend_from_slice(&part[..room]);
                        return Some(ServiceAnswer {
                            head,
                            body: body.freeze(),
                        });
                    }
                    body.extend_from_slice(&part);
                    last
                }
                Part::Trailers(_) | Part::End => true,
            };
            if last {
                break;
            }
        },
        Next::Nothing => {}
        // Nobody asked for that.
        Next::Interim | Next::Upgraded => return None,
    }
    wire.give_back(&with.upstream, target, heard.into());
    Some(ServiceAnswer {
        head,
        body: body.freeze(),
    })
}
