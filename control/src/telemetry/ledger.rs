//! The ledger: every accepted request ends in exactly one counted outcome.
//!
//! accepted = answered + client gone + refused + under way. A request is accepted with the first
//! byte of its head (over HTTP/2: with its whole head), whether or not it turns out to be one that
//! can be served. Every counter has its place from the start, so that counting is one addition.

use crate::counters::Counter;
use crate::refusal::Refusal;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client got an answer that somebody else made, or that leads it to somewhere else.
    Answered(Answered),
    /// The client went away before it had all of an answer.
    ClientGone(Gone),
    /// Portolan refused it.
    Refused(Refusal),
}

/// How much of an answer there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// All of it.
    Whole,
    /// It began, and its endpoint (or the end of the process) cut it short.
    CutShort,
    /// Portolan's own word that it is to be had elsewhere.
    Redirected,
}

/// When a client went away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// In the middle of the request's head.
    InHead,
    /// Before the answer began.
    BeforeAnswer,
    /// In the middle of the answer.
    InAnswer,
}

impl Answered {
    const REASONS: [&'static str; 3] = ["whole", "cut_short", "redirected"];
}

impl Gone {
    const REASONS: [&'static str; 3] = ["in_head", "before_answer", "in_answer"];
}

impl Outcome {
    /// Every outcome's name.
    pub const NAMES: [&'static str; 3] = ["answered", "client_gone", "refused"];

    /// The label `outcome`.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[match self {
            Self::Answered(_) => 0,
            Self::ClientGone(_) => 1,
            Self::Refused(_) => 2,
        }]
    }

    /// The label `reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Answered(how) => Answered::REASONS[how as usize],
            Self::ClientGone(when) => Gone::REASONS[when as usize],
            Self::Refused(why) => why.reason(),
        }
    }

    /// Why Portolan refused it, if it did.
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            Self::Refused(why) => Some(why),
            _ => None,
        }
    }
}

/// What was accepted, and what became of it.
#[derive(Debug, Default)]
pub struct Ledger {
    accepted: Counter,
    answered: [Counter; Answered::REASONS.len()],
    gone: [Counter; Gone::REASONS.len()],
    refused: [Counter; Refusal::REASONS.len()],
}

impl Ledger {
    /// One more request was accepted.
    pub fn accept(&self) {
        self.accepted.one();
    }

    /// An accepted request has ended. Whoever calls [`accept`](Self::accept) calls this once.
    pub fn close(&self, outcome: Outcome) {
        match outcome {
            Outcome::Answered(how) => self.answered[how as usize].one(),
            Outcome::ClientGone(when) => self.gone[when as usize].one(),
            Outcome::Refused(why) => self.refused[why.place()].one(),
        }
    }

    /// How many were accepted. Read after the outcomes, this is at least their sum.
    pub fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    /// How many were refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        named(Refusal::REASONS, &self.refused)
    }

    /// How many ended how: outcome, reason, number.
    pub fn outcomes(&self) -> impl Iterator<Item = ([&'static str; 2], u64)> {
        let answered = named(Answered::REASONS, &self.answered);
        let gone = named(Gone::REASONS, &self.gone);
        let under = |outcome| move |(reason, count)| ([outcome, reason], count);
        answered
            .map(under(Outcome::NAMES[0]))
            .chain(gone.map(under(Outcome::NAMES[1])))
            .chain(self.refused().map(under(Outcome::NAMES[2])))
    }

    /// How many had this outcome, whatever the reason.
    pub fn total(&self, outcome: &str) -> u64 {
        self.outcomes()
            .filter(|([name, _], _)| *name == outcome)
            .map(|(_, count)| count)
            .sum()
    }
}

fn named<const N: usize>(
    names: [&'static str; N],
    counters: &[Counter; N],
) -> impl Iterator<Item = (&'static str, u64)> {
    names.into_iter().zip(counters.iter().map(Counter::get))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_where_its_names_stand() {
        let all = [
            Outcome::Answered(Answered::Whole),
            Outcome::Answered(Answered::CutShort),
            Outcome::Answered(Answered::Redirected),
            Outcome::ClientGone(Gone::InHead),
            Outcome::ClientGone(Gone::BeforeAnswer),
            Outcome::ClientGone(Gone::InAnswer),
            Outcome::Refused(Refusal::Malformed),
            Outcome::Refused(Refusal::AllDown(502)),
            Outcome::Refused(Refusal::Stopped),
        ];
        for outcome in all {
            let ledger = Ledger::default();
            ledger.accept();
            ledger.close(outcome);
            let counted: Vec<_> = ledger.outcomes().filter(|(_, n)| *n > 0).collect();
            assert_eq!(counted, [([outcome.as_str(), outcome.reason()], 1)]);
            assert_eq!(ledger.total(outcome.as_str()), ledger.accepted());
        }
    }
}
