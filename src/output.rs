//! What the command prints, and where: results on standard output, everything else on standard
//! error; colours on terminals alone, and only if the environment does not say otherwise.

use std::io;
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use portolan_config::diagnostic::{Colours, Report};

use crate::machine;

/// A result could not be written: the command has not done what it was asked for.
static INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// Whether every result so far was written, or nobody wanted to read it.
pub(crate) fn is_complete() -> bool {
    !INCOMPLETE.load(Ordering::Relaxed)
}

/// Prints a result. A reader that has gone away is no failure of ours; a full disk is one.
pub(crate) fn result(text: &str) {
    let mut out = io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(end.as_bytes()))
        .and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
        && !INCOMPLETE.swap(true, Ordering::Relaxed)
    {
        note(&format!("portolan: cannot write the output: {error}"));
    }
}

/// Whether to write with colours: on a terminal that knows them, unless the environment says
/// `NO_COLOR` (<https://no-color.org>, with anything in it) or `TERM=dumb`.
pub(crate) fn has_colours(stream: &impl IsTerminal) -> bool {
    let no_color = machine::variable("NO_COLOR");
    let term = machine::variable("TERM");
    stream.is_terminal() && wants_colours(no_color.as_deref(), term.as_deref())
}

fn wants_colours(no_color: Option<&str>, term: Option<&str>) -> bool {
    no_color.is_none_or(str::is_empty) && term.is_none_or(|term| term != "dumb")
}

/// Prints a result for programs.
pub(crate) fn json(value: &serde_json::Value) {
    result(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Says something that is not a result.
pub(crate) fn note(text: &str) {
    let mut err = io::stderr().lock();
    let _ = writeln!(err, "{text}");
}

/// Says what went wrong, with every cause.
pub(crate) fn complain(error: &anyhow::Error) {
    note(&format!("portolan: {error:#}"));
}

/// Prints what was found in a configuration.
pub(crate) fn report(report: &Report) {
    let colours = if has_colours(&io::stderr()) {
        Colours::On
    } else {
        Colours::Off
    };
    let text = report.render(colours);
    if !text.is_empty() {
        note(text.trim_end());
        note("");
    }
}

/// Columns of text, each as wide as it must be.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let pad = width - cell.chars().count();
            line.push_str(cell);
            line.push_str(&" ".repeat(pad + 2));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_can_refuse_colours() {
        let wants = wants_colours;
        assert!(wants(None, None) && wants(None, Some("xterm-256color")));
        assert!(wants(Some(""), Some("xterm")), "an empty one says nothing");
        assert!(!wants(Some("1"), Some("xterm")) && !wants(Some("0"), None));
        assert!(!wants(None, Some("dumb")));
    }

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = table(&[
            row(&["pool", "up"]),
            row(&["a-long-name", "yes"]),
            row(&["b"]),
        ]);
        assert_eq!(text, "pool         up\na-long-name  yes\nb\n");
    }
}
