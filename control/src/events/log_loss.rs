//! Lines of a log that are lost, as events tell of them.

use std::fmt;

/// Why lines are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The sink takes them more slowly than they come, or not at all.
    Behind,
    /// The system refused to write; in its words.
    Refused(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Behind => f.write_str("they come faster than they can be written"),
            Self::Refused(why) => write!(f, "they cannot be written: {why}"),
        }
    }
}

/// Which log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// That of requests.
    Access,
    /// The process's own.
    Process,
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Access => "access log",
            Self::Process => "log",
        })
    }
}
