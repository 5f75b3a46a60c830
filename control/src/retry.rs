//! Is a try that failed tried again?
//!
//! What certainly was not sent harms nobody when it is sent again. What may have been sent is
//! repeated only if the request allows it: its method is idempotent (RFC 9110, section 9.2.2), or
//! it carries an `Idempotency-Key` by which the service recognises the repetition.

use portolan_config::fields::Fields;
use portolan_config::plan::RetryPlan;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
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
    /// Tries so far, with the one that failed.
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
    GiveUp(Because),
}

/// Why a request is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
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
    fault: Fault,
    sent: Sent,
    request: Repeatable,
    chances: Chances,
) -> Action {
    let asked = match fault {
        Fault::Connect => policy.on_connect,
        Fault::Reset => policy.on_reset,
        Fault::Timeout => policy.on_timeout,
        Fault::Status(status) => policy.on_statuses.contains(&status),
    };
    let reasons = [
        (chances.answer_begun, Because::AnswerBegun),
        (!asked, Because::NotAsked),
        (
            sent == Sent::Perhaps && !request.idempotent,
            Because::NotIdempotent,
        ),
        (
            sent == Sent::Perhaps && !request.body_kept,
            Because::BodyGone,
        ),
        (chances.tries >= policy.tries, Because::NoTriesLeft),
        (!chances.in_time, Because::NoTimeLeft),
        (!chances.in_budget, Because::NoBudgetLeft),
    ];
    match reasons.into_iter().find(|(holds, _)| *holds) {
        Some((_, because)) => Action::GiveUp(because),
        None => Action::TryAgain,
    }
}

/// Retries that a pool always allows, however little traffic there is.
const ALWAYS: u64 = 10;

/// Whether one more retry may go to a pool, by how many requests and how many retries are under way
/// there.
pub fn in_budget(budget: f64, in_flight: u64, retrying: u64) -> bool {
    retrying < ALWAYS.max((in_flight as f64 * budget) as u64)
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
            Fault::Connect,
            Fault::Reset,
            Fault::Timeout,
            Fault::Status(500),
            Fault::Status(503),
        ];
        for fault in faults {
            for idempotent in [true, false] {
                for sent in [Sent::Nothing, Sent::Perhaps] {
                    if fault == Fault::Connect && sent == Sent::Perhaps {
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
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/retry/table.txt");
        #[expect(clippy::disallowed_methods, reason = "a test is a border")]
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/src/retry")).unwrap();
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
        let with = |chances| decide(&policy(), Fault::Connect, Sent::Nothing, request, chances);
        assert_eq!(with(ROOM), Action::TryAgain);
        assert_eq!(
            with(Chances { tries: 3, ..ROOM }),
            Action::GiveUp(Because::NoTriesLeft)
        );
        let late = Chances {
            in_time: false,
            ..ROOM
        };
        assert_eq!(with(late), Action::GiveUp(Because::NoTimeLeft));
        let begun = Chances {
            answer_begun: true,
            ..ROOM
        };
        assert_eq!(with(begun), Action::GiveUp(Because::AnswerBegun));
    }

    #[test]
    fn budgets_have_a_floor_and_grow_with_traffic() {
        assert!(in_budget(0.2, 0, 9));
        assert!(!in_budget(0.2, 40, 10));
        assert!(in_budget(0.2, 100, 19));
        assert!(!in_budget(0.2, 100, 20));
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
