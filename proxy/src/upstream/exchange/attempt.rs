//! One try: connect to an endpoint, send the request, and wait for the head of the answer.
//!
//! A try only goes on when it is polled, with the body as far as the client has sent it. It keeps
//! no time itself: whoever polls it knows when its time is over.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use pingora::{Error, ErrorType, Result};
use portolan_control::clock::{Clock, Tick};
use portolan_control::counters::TryOutcome;
use portolan_control::health::retry::{Sent, TryFault};

use super::upload::Upload;
use crate::http::head::ResponseHeader;
use crate::upstream::connect::peer::Target;
use crate::upstream::connect::pool::{Connected, Upstream};
use crate::upstream::fault;
use crate::upstream::session::http2::{Claim, Need};
use crate::upstream::session::part::{Length, Lost, Next};
use crate::upstream::session::question::Request;
use crate::upstream::session::{Session, http2};

/// Kept connections that may be found closed before that counts as the endpoint's failure.
const MOST_REPLACEMENTS: u32 = 3;

/// The same for connections on which an endpoint has accepted nothing at all. On any other a request
/// that was not processed may be refused, however often: others were served meanwhile.
const MOST_BARREN: u32 = 3;

/// How long an endpoint is asked whether it wants a body, if its client waits to be told. Those
/// that know nothing of such a question do not answer it (RFC 9110, section 10.1.1).
const ASKED: Duration = Duration::from_secs(1);

/// How long an endpoint may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the head of its answer, once it has all of the request.
    pub(super) first_byte: Duration,
    /// To take more of the request.
    pub(super) idle: Duration,
}

/// The head of an answer, and where the rest of it comes from.
pub(crate) struct UpstreamAnswer {
    pub(super) wire: Session,
    pub(super) target: Target,
    pub(super) head: Box<ResponseHeader>,
    pub(super) next: Next,
    /// How much of the request's body was sent.
    pub(super) at: usize,
    /// All of it.
    pub(super) finished: bool,
}

/// What became of a try for now.
pub(super) enum Progress {
    /// All of the request was sent.
    Sent,
    /// An interim answer.
    Interim(Box<ResponseHeader>),
    /// The answer has begun.
    Answered(UpstreamAnswer),
}

/// A try that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    /// As the engine says it.
    pub(crate) error: Box<Error>,
    /// As the decider knows it.
    pub(crate) fault: TryFault,
    /// How much of the request reached the endpoint.
    pub(crate) sent: Sent,
    /// It says nothing about the endpoint: a kept connection had been closed meanwhile, or it is the
    /// request that cannot be sent ([`Self::is_the_requests_own`]).
    pub(crate) excused: bool,
}

impl Failed {
    /// Whether the request cannot be sent like this: Portolan answers itself, and no other endpoint is
    /// asked.
    pub(crate) fn is_the_requests_own(&self) -> bool {
        fault::is_the_requests_own(&self.error)
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<(Connected, bool)>> + Send>>;

enum AttemptState {
    /// A connection was there already.
    Kept(Connected),
    Connecting(Connecting),
    Asking(Session),
    Over,
}

/// A try under way.
pub(super) struct Attempt {
    upstream: Arc<Upstream>,
    target: Target,
    request: Request,
    /// What it needs of its connection.
    need: Need,
    patience: Patience,
    state: AttemptState,
    /// The connection was kept from an earlier request.
    kept: bool,
    replacements: u32,
    barren: u32,
    /// How much of the body was given to the connection.
    at: usize,
    finished: bool,
    /// Something of the request may have reached the endpoint.
    sent: bool,
    /// The same over a connection that was replaced.
    perhaps: bool,
    /// When the endpoint last took some of it.
    took: Tick,
    /// When it had all of it.
    asked: Option<Tick>,
    /// Until when it may say whether it wants the body.
    holding: Option<Tick>,
}

impl Attempt {
    pub(super) fn new(
        upstream: Arc<Upstream>,
        target: Target,
        request: Request,
        patience: Patience,
        now: Tick,
    ) -> Self {
        let need = need(&target, &request);
        let state = connect(&upstream, &target, need);
        Self {
            upstream,
            target,
            request,
            need,
            patience,
            state,
            kept: false,
            replacements: 0,
            barren: 0,
            at: 0,
            finished: false,
            sent: false,
            perhaps: false,
            took: now,
            asked: None,
            holding: None,
        }
    }

    /// When the endpoint had all of the request.
    pub(super) fn asked(&self) -> Option<Tick> {
        self.asked
    }

    /// When it has taken too long.
    pub(super) fn limit(&self) -> Option<Tick> {
        match (&self.state, self.asked) {
            (_, Some(asked)) => Some(asked + self.patience.first_byte),
            // It does not take what it is sent.
            (AttemptState::Asking(wire), None) if !wire.is_sent() => {
                Some(self.took + self.patience.idle)
            }
            _ => None,
        }
    }

    /// When it need not be asked any longer whether it wants the body.
    pub(super) fn held_until(&self) -> Option<Tick> {
        self.holding
    }

    /// Whether it would take more of the body if it were there.
    pub(super) fn wants_more(&self, upload: &Upload) -> bool {
        match &self.state {
            AttemptState::Asking(wire) => {
                self.holding.is_none() && upload.is_used_up(self.at) && wire.has_room()
            }
            _ => false,
        }
    }

    /// Goes on, as far as it can.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Upload,
        clock: &Clock,
    ) -> Poll<Result<Progress, Failed>> {
        // Whether the time of `took` is now.
        let mut just_begun = false;
        loop {
            match &mut self.state {
                AttemptState::Kept(_) | AttemptState::Connecting(_) => {
                    let (connected, kept) = match ready!(self.state.poll_connected(cx)) {
                        Ok(connected) => connected,
                        Err(error) => return Poll::Ready(Err(self.unsent(error))),
                    };
                    self.kept = kept;
                    just_begun = true;
                    if let Err(error) = self.begin(connected, clock) {
                        let lost = match http2::is_gone(&error) {
                            true => Lost::Unprocessed { useful: kept },
                            false => Lost::Perhaps,
                        };
                        if let Err(failed) = self.again(error, lost, upload) {
                            return Poll::Ready(Err(failed));
                        }
                    }
                }
                AttemptState::Asking(_) => {
                    if let Some(progress) = self.send(cx, upload, clock, just_begun) {
                        return Poll::Ready(Ok(progress));
                    }
                    let AttemptState::Asking(wire) = &mut self.state else {
                        return Poll::Pending;
                    };
                    match ready!(wire.poll_head(cx)) {
                        Ok((head, Next::Interim)) => {
                            if head.status != StatusCode::CONTINUE {
                                return Poll::Ready(Ok(Progress::Interim(head)));
                            }
                            // The client is told when its body is read.
                            self.holding = None;
                        }
                        Ok((head, next)) => {
                            let AttemptState::Asking(wire) =
                                std::mem::replace(&mut self.state, AttemptState::Over)
                            else {
                                return Poll::Pending;
                            };
                            return Poll::Ready(Ok(Progress::Answered(UpstreamAnswer {
                                wire,
                                target: self.target.clone(),
                                head,
                                next,
                                at: self.at,
                                finished: self.finished,
                            })));
                        }
                        Err(error) => {
                            let lost = wire.lost(&error, self.kept);
                            if let Err(failed) = self.again(error, lost, upload) {
                                return Poll::Ready(Err(failed));
                            }
                        }
                    }
                }
                AttemptState::Over => return Poll::Pending,
            }
        }
    }

    /// Begins the request on a connection.
    fn begin(&mut self, connected: Connected, clock: &Clock) -> Result<()> {
        let now = clock.now();
        (self.at, self.finished, self.asked) = (0, false, None);
        self.took = now;
        self.holding =
            (self.request.expects && matches!(connected, Connected::H1(_))).then_some(now + ASKED);
        self.sent = true;
        let wire = Session::begin(connected, &self.target, &mut self.request)?;
        self.state = AttemptState::Asking(wire);
        Ok(())
    }

    /// Sends what is there of the request. When all of it was sent, that is told once.
    fn send(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Upload,
        clock: &Clock,
        just_begun: bool,
    ) -> Option<Progress> {
        let AttemptState::Asking(wire) = &mut self.state else {
            return None;
        };
        if self.asked.is_some() {
            return None;
        }
        if self.holding.is_some_and(|until| clock.now() >= until) {
            self.holding = None;
        }
        loop {
            while self.holding.is_none() && !self.finished && wire.has_room() {
                if let Some(part) = upload.part(self.at) {
                    wire.send(part.clone());
                    self.at += 1;
                } else if upload.is_complete() {
                    wire.finish(upload.trailers().cloned());
                    self.finished = true;
                } else {
                    break;
                }
            }
            let sent = wire.send_on(cx);
            if wire.is_sent() {
                upload.sent(self.at, matches!(wire, Session::H2(_)));
            }
            if wire.is_cut() {
                // Whatever it says now is its answer to what it has.
                self.asked = Some(clock.now());
                return None;
            }
            if self.finished && wire.is_sent() {
                self.asked = Some(if just_begun { self.took } else { clock.now() });
                // Of what was there from the beginning nobody needs to be told.
                return self.request.flows.then_some(Progress::Sent);
            }
            let more = self.holding.is_none()
                && !self.finished
                && (!upload.is_used_up(self.at) || upload.is_complete());
            if sent {
                self.took = clock.now();
            } else if !wire.is_sent() || !more {
                return None;
            }
        }
    }

    /// The connection is no good. Another one, if the request certainly was not processed or may be
    /// repeated: that is no other try, and says nothing about the endpoint.
    fn again(&mut self, error: Box<Error>, lost: Lost, upload: &Upload) -> Result<(), Failed> {
        let (error, lost) = match lost {
            Lost::TooLarge => {
                let why = "a head that is larger than the endpoint takes";
                (Error::explain(ErrorType::HTTPStatus(431), why), lost)
            }
            _ => (error, lost),
        };
        let own = fault::is_the_requests_own(&error);
        let (fault, sent) = match (lost, classify(&error)) {
            (Lost::Unprocessed { .. }, (fault, _)) => (fault, Sent::Nothing),
            (_, classified) => classified,
        };
        let another = !own
            && fault == TryFault::Reset
            && upload.is_whole()
            && match lost {
                Lost::Unprocessed { useful: true } => true,
                Lost::Unprocessed { useful: false } => {
                    self.barren += 1;
                    self.barren <= MOST_BARREN
                }
                Lost::Stale if self.request.idempotent => {
                    self.replacements += 1;
                    self.replacements <= MOST_REPLACEMENTS
                }
                Lost::Stale | Lost::TooLarge | Lost::Perhaps => false,
            };
        if another {
            self.holding = None;
            self.asked = None;
            // Of what was not processed nothing counts as sent, unless an earlier one may have been.
            self.perhaps |= !matches!(lost, Lost::Unprocessed { .. });
            self.sent = self.perhaps;
            self.state = connect(&self.upstream, &self.target, self.need);
            return Ok(());
        }
        self.state = AttemptState::Over;
        Err(Failed {
            error: error.into_up(),
            fault,
            sent,
            excused: own || matches!(lost, Lost::Stale | Lost::Unprocessed { useful: true }),
        })
    }

    /// There was no connection.
    fn unsent(&mut self, error: Box<Error>) -> Failed {
        self.state = AttemptState::Over;
        let error = fault::told_apart(error, self.target.address());
        Failed {
            fault: classify(&error).0,
            excused: fault::shortage(&error).is_some(),
            error: error.into_up(),
            sent: Sent::Nothing,
        }
    }

    /// Whether anything of the request may have reached the endpoint.
    pub(super) fn may_have_sent(&self) -> bool {
        self.sent
    }

    /// It has taken too long.
    pub(super) fn timed_out(&self) -> Failed {
        if self.sent {
            self.given_up(TryFault::Timeout, Sent::Perhaps)
        } else {
            self.given_up(TryFault::Connect, Sent::Nothing)
        }
    }

    /// Nothing is to be expected of it any more.
    pub(super) fn given_up(&self, fault: TryFault, sent: Sent) -> Failed {
        let etype = match sent {
            Sent::Perhaps => ErrorType::ReadTimedout,
            Sent::Nothing => ErrorType::ConnectTimedout,
        };
        Failed {
            error: Error::explain(etype, "the try took too long").into_up(),
            fault,
            sent,
            excused: false,
        }
    }
}

impl AttemptState {
    /// The connection, and whether it was there already.
    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Connected, bool)>> {
        match self {
            Self::Connecting(connecting) => connecting.as_mut().poll(cx),
            Self::Kept(_) => match std::mem::replace(self, Self::Over) {
                Self::Kept(connected) => Poll::Ready(Ok((connected, true))),
                _ => Poll::Pending,
            },
            Self::Asking(_) | Self::Over => Poll::Pending,
        }
    }
}

fn connect(upstream: &Arc<Upstream>, target: &Target, need: Need) -> AttemptState {
    if let Some(kept) = upstream.kept(target, need) {
        return AttemptState::Kept(kept);
    }
    let (upstream, target) = (upstream.clone(), target.clone());
    AttemptState::Connecting(Box::pin(
        async move { upstream.connect(&target, need).await },
    ))
}

/// What a request needs of its connection, where others may be on it.
fn need(target: &Target, request: &Request) -> Need {
    if !target.speaks_http2() && !request.upgrade {
        return Need {
            once: request.once,
            ..Need::default()
        };
    }
    let claim = match request.length {
        _ if request.upgrade => Claim::Call,
        Length::None => Claim::Nothing,
        Length::Known(length) => Claim::Bytes(length),
        Length::Unknown if request.is_call => Claim::Call,
        Length::Unknown => Claim::Everything,
    };
    Need {
        once: request.once,
        ..http2::need(&request.head, claim, request.upgrade)
    }
}

/// The engine's error, in the decider's words.
pub(crate) fn classify(error: &Error) -> (TryFault, Sent) {
    match fault::outcome(error) {
        TryOutcome::ConnectFailed | TryOutcome::EdgeExhausted => (TryFault::Connect, Sent::Nothing),
        TryOutcome::TimedOut => (TryFault::Timeout, Sent::Perhaps),
        _ => (TryFault::Reset, Sent::Perhaps),
    }
}

/// Waits for the end of a try.
pub(crate) async fn end_of(
    attempt: &mut Attempt,
    upload: &mut Upload,
    clock: &Clock,
) -> Result<UpstreamAnswer, Failed> {
    loop {
        match std::future::poll_fn(|cx| attempt.poll(cx, upload, clock)).await? {
            Progress::Answered(answer) => return Ok(answer),
            Progress::Sent | Progress::Interim(_) => {}
        }
    }
}
