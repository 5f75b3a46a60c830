//! Is a try that failed tried again?
//!
//! What certainly was not sent harms nobody when it is sent again. What may have been sent is
//! repeated only if the request allows it: its method is idempotent (RFC 9110, section 9.2.2), or
//! it carries an `Idempotency-Key` by which the service recognises the repetition.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use portolan_config::fields::Fields;
use portolan_config::plan::RetryPlan;

use crate::clock::Tick;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryFault {
    /// There was no connection: refused, unreachable, no TLS, not in time.
    Connect,
    /// The connection broke before there was an answer, or what came was no answer.
    Reset,
    /// No answer in time.
    Timeout,
    /// An answer with a status that says that the endpoint could not do it.
    Status(u16),
}

/// How much of a request reached its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Certainly nothing that was acted upon: no connection, or the endpoint said so
    /// (`REFUSED_STREAM`, `GOAWAY` with `NO_ERROR`).
    Nothing,
    /// Perhaps everything.
    Perhaps,
}

/// What a request allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeatable {
    /// To do it twice is to do it once.
    pub idempotent: bool,
    /// All of its body is still there.
    pub body_kept: bool,
}

/// What is left of a request's chances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chances {
    /// How often it was sent so far, with the try that failed.
    pub tries: u32,
    /// Its time is not over yet.
    pub in_time: bool,
    /// The budget of retries has room for it.
    pub in_budget: bool,
    /// Its client has response headers already.
    pub answer_begun: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Another try, elsewhere.
    TryAgain,
    /// It stays failed, and why.
    GiveUp(RetryReasoning),
}

/// Why a request is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReasoning {
    /// Its client has response headers already.
    AnswerBegun,
    /// The route does not retry this.
    NotAsked,
    /// It may have been acted upon, and must not be repeated.
    NotIdempotent,
    /// Its body was too large to be kept.
    BodyGone,
    /// It had its tries.
    NoTriesLeft,
    /// It had its time.
    NoTimeLeft,
    /// Too many others are tried again just now.
    NoBudgetLeft,
}

/// Decides.
pub fn decide(
    policy: &RetryPlan,
    fault: TryFault,
    sent: Sent,
    request: Repeatable,
    chances: Chances,
) -> Action {
    let asked = match fault {
        TryFault::Connect => policy.on_connect,
        TryFault::Reset => policy.on_reset,
        TryFault::Timeout => policy.on_timeout,
        TryFault::Status(status) => policy.on_statuses.contains(&status),
    };
    let reasons = [
        (chances.answer_begun, RetryReasoning::AnswerBegun),
        (!asked, RetryReasoning::NotAsked),
        (
            sent == Sent::Perhaps && !request.idempotent,
            RetryReasoning::NotIdempotent,
        ),
        (
            sent == Sent::Perhaps && !request.body_kept,
            RetryReasoning::BodyGone,
        ),
        // What was not sent costs neither a try nor anybody's capacity; but one try is no other.
        (
            policy.tries <= 1 || (sent == Sent::Perhaps && chances.tries >= policy.tries),
            RetryReasoning::NoTriesLeft,
        ),
        (!chances.in_time, RetryReasoning::NoTimeLeft),
        (
            sent == Sent::Perhaps && !chances.in_budget,
            RetryReasoning::NoBudgetLeft,
        ),
    ];
    match reasons.into_iter().find(|(holds, _)| *holds) {
        Some((_, because)) => Action::GiveUp(because),
        None => Action::TryAgain,
    }
}

/// How many tries a route may have beside the first ones: a share of its requests, and a few in any
/// case. Counted over time and not by what is under way, so that failures which come back at once
/// do not multiply (the idea of Finagle's retry budgets).
///
/// Written by requests with single atomic operations; only who wants another try works anything out.
#[derive(Debug, Default)]
pub struct Budget {
    /// Requests that have begun.
    requests: AtomicU64,
    /// Those of them that were paid for.
    paid: AtomicU64,
    /// When that was, in microseconds since the process began.
    at: AtomicU64,
    /// Requests a second, lately, in thousandths.
    rate: AtomicU64,
    /// Millionths of tries that may begin.
    tokens: AtomicI64,
}

impl Budget {
    /// Tries that are always allowed, a second and in a row.
    const FLOOR: f64 = 10.0;
    const FLOOR_AT_ONCE: f64 = 20.0;

    /// How long unused tries of a share are kept.
    const KEPT: Duration = Duration::from_secs(1);

    /// A request begins.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one more try may begin now, by this share of the requests; if so, it is paid for.
    pub fn take(&self, share: f64, now: Tick) -> bool {
        const ONE: i64 = 1_000_000;
        self.fill(share, now);
        let took = self
            .tokens
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
                (tokens >= ONE).then(|| tokens - ONE)
            });
        took.is_ok()
    }

    /// Gives what came in since the last time.
    fn fill(&self, share: f64, now: Tick) {
        let now = (now.since_start().as_micros() as u64).max(1);
        let before = self.at.swap(now, Ordering::Relaxed);
        let requests = self.requests.load(Ordering::Relaxed);
        let new = requests.saturating_sub(self.paid.swap(requests, Ordering::Relaxed));
        // The first time it is as if nothing had been used since the process began.
        let span = now.saturating_sub(before) as f64 / 1e6;
        let kept = Self::KEPT.as_secs_f64();
        let fades = (-span / kept).exp();
        let rate = self.rate.load(Ordering::Relaxed) as f64 / 1e3;
        let rate = rate * fades + new as f64 * (1.0 - fades) / span.max(1e-6);
        self.rate.store((rate * 1e3) as u64, Ordering::Relaxed);
        let unused = if before == 0 {
            Self::FLOOR_AT_ONCE
        } else {
            0.0
        };
        let more = share * new as f64 + Self::FLOOR * span + unused;
        let most = Self::FLOOR_AT_ONCE + share * rate.max(new as f64 / span.max(kept)) * kept;
        let _ = self
            .tokens
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
                let filled = tokens + (more * 1e6) as i64;
                Some(filled.min((most * 1e6) as i64).max(tokens.min(0)))
            });
    }
}

/// Whether a method may be repeated (RFC 9110, section 9.2.2).
pub fn is_idempotent(method: &http::Method, headers: &Fields) -> bool {
    method.is_idempotent() || headers.contains("idempotency-key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn policy() -> RetryPlan {
        RetryPlan {
            tries: 3,
            on_connect: true,
            on_reset: true,
            on_timeout: true,
            on_statuses: vec![502, 503, 504],
            per_try: None,
            budget: 0.2,
            max_body: 65_536,
        }
    }

    const ROOM: Chances = Chances {
        tries: 1,
        in_time: true,
        in_budget: true,
        answer_begun: false,
    };

    /// The whole table, as text. `UPDATE_GOLDEN=1` writes it anew.
    #[test]
    fn the_table_is_as_written() {
        let mut table = String::from("fault × method × sent × body × budget → action\n\n");
        let faults = [
            TryFault::Connect,
            TryFault::Reset,
            TryFault::Timeout,
            TryFault::Status(500),
            TryFault::Status(503),
        ];
        for fault in faults {
            for idempotent in [true, false] {
                for sent in [Sent::Nothing, Sent::Perhaps] {
                    if fault == TryFault::Connect && sent == Sent::Perhaps {
                        continue;
                    }
                    for body_kept in [true, false] {
                        for in_budget in [true, false] {
                            let request = Repeatable {
                                idempotent,
                                body_kept,
                            };
                            let chances = Chances { in_budget, ..ROOM };
                            let action = decide(&policy(), fault, sent, request, chances);
                            let fault = format!("{fault:?}");
                            let method = if idempotent { "GET" } else { "POST" };
                            let sent = format!("{sent:?}");
                            let body = if body_kept { "kept" } else { "gone" };
                            let budget = if in_budget { "room" } else { "full" };
                            writeln!(
                                table,
                                "{fault:<12} {method:<5} {sent:<8} {body:<5} {budget:<5} → {action:?}"
                            )
                            .unwrap();
                        }
                    }
                }
            }
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/health/retry/table.txt");
        #[expect(clippy::disallowed_methods, reason = "a test is a border")]
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/src/health/retry"))
                .unwrap();
            std::fs::write(path, &table).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), table);
    }

    #[test]
    fn nothing_is_tried_for_ever() {
        let request = Repeatable {
            idempotent: true,
            body_kept: true,
        };
        let with = |chances| decide(&policy(), TryFault::Reset, Sent::Perhaps, request, chances);
        assert_eq!(with(ROOM), Action::TryAgain);
        assert_eq!(
            with(Chances { tries: 3, ..ROOM }),
            Action::GiveUp(RetryReasoning::NoTriesLeft)
        );
        let late = Chances {
            in_time: false,
            ..ROOM
        };
        assert_eq!(with(late), Action::GiveUp(RetryReasoning::NoTimeLeft));
        let begun = Chances {
            answer_begun: true,
            ..ROOM
        };
        assert_eq!(with(begun), Action::GiveUp(RetryReasoning::AnswerBegun));
    }

    #[test]
    fn what_was_not_sent_costs_no_try() {
        let request = Repeatable {
            idempotent: false,
            body_kept: false,
        };
        let spent = Chances {
            tries: 3,
            in_budget: false,
            ..ROOM
        };
        for fault in [TryFault::Connect, TryFault::Reset] {
            let action = decide(&policy(), fault, Sent::Nothing, request, spent);
            assert_eq!(action, Action::TryAgain);
            let once = RetryPlan {
                tries: 1,
                ..policy()
            };
            let action = decide(&once, fault, Sent::Nothing, request, spent);
            assert_eq!(action, Action::GiveUp(RetryReasoning::NoTriesLeft));
        }
    }

    /// Tries of requests at this rate, of which each one would have another one.
    fn granted(share: f64, a_second: u64, seconds: u64) -> u64 {
        let budget = Budget::default();
        let mut granted = 0;
        for number in 0..a_second * seconds {
            let now = Duration::from_secs_f64(1.0 + number as f64 / a_second as f64);
            budget.request();
            granted += u64::from(budget.take(share, Tick::after(now)));
        }
        granted
    }

    #[test]
    fn a_budget_is_a_share_of_the_requests_and_a_few_in_any_case() {
        for (share, a_second, expected) in [
            (0.2, 500, 1_000 + 100 + 20),
            (0.0, 500, 100 + 20),
            (0.5, 2_000, 10_000 + 100 + 20),
            // Each of them.
            (0.2, 10, 100),
            (0.0, 1, 10),
        ] {
            let granted = granted(share, a_second, 10);
            let close = granted.abs_diff(expected) <= expected / 50 + 2;
            assert!(close, "{share} {a_second}: {granted} of {expected}");
        }
    }

    #[test]
    fn what_was_not_used_is_kept_for_a_moment() {
        let budget = Budget::default();
        let at = |seconds: f64| Tick::after(Duration::from_secs_f64(seconds));
        assert!(budget.take(0.2, at(1.0)));
        // An hour of 100 requests a second.
        for _ in 0..360_000 {
            budget.request();
        }
        let in_a_row = (0..1_000).filter(|_| budget.take(0.2, at(3_601.0)));
        let in_a_row = in_a_row.count();
        assert!((35..=45).contains(&in_a_row), "{in_a_row}");
        // After an hour of nothing only what is always allowed.
        let in_a_row = (0..1_000).filter(|_| budget.take(0.2, at(7_201.0)));
        assert_eq!(in_a_row.count(), 20);
    }

    #[test]
    fn methods_and_keys_say_what_may_be_repeated() {
        let mut headers = Fields::new();
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(
                is_idempotent(&method.parse().unwrap(), &headers),
                "{method}"
            );
        }
        assert!(!is_idempotent(&http::Method::POST, &headers));
        assert!(!is_idempotent(&http::Method::PATCH, &headers));
        headers.insert(
            http::HeaderName::from_static("idempotency-key"),
            "1".parse().unwrap(),
        );
        assert!(is_idempotent(&http::Method::POST, &headers));
    }
}
