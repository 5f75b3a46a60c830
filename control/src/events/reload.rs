//! What became of a reload, as events tell of it.

use std::fmt;
use std::sync::Arc;

use portolan_config::diagnostic::Report;

/// Why a file is not believed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Somebody is writing it.
    Open,
    /// It is the beginning of what it was.
    Beginning,
    /// It ends where it went on before.
    Middle,
    /// It has become much shorter.
    Half,
    /// It has become shorter, and nothing else is known of what is in it.
    Shorter,
    /// Its last line does not end.
    LastLine,
    /// It had a mark at its end, and has none.
    NoMark,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "it is being written",
            Self::Beginning => "it is the first part of what it was",
            Self::Middle => "it ends where it went on before",
            Self::Half => "it has become less than half as long",
            Self::Shorter => "it has become shorter",
            Self::LastLine => "its last line does not end",
            Self::NoMark => "its last line was `...`, which is missing now",
        })
    }
}

impl Doubt {
    /// Whether a pause ends it.
    pub fn ends_by_itself(self) -> bool {
        self != Self::NoMark
    }
}

/// Who asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A watched file changed.
    FileChanged,
    /// SIGHUP.
    Signal,
    /// The admin API.
    Api,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FileChanged => "a file changed",
            Self::Signal => "SIGHUP",
            Self::Api => "the admin API",
        })
    }
}

/// What became of a reload.
#[derive(Clone, Debug)]
pub enum Reloaded {
    /// It runs.
    Applied {
        /// What it is known by.
        hash: String,
        /// The first snapshot that has it.
        generation: u64,
    },
    /// It is what runs already.
    Unchanged,
    /// The old one goes on.
    Refused(Arc<Report>),
}
