//! What the command prints, and where: results on standard output, everything else on standard
//! error; colours on terminals alone.

use std::io::{self, IsTerminal as _, Write as _};

use portolan_config::diagnostic::{Colours, Report};

/// Prints a result. A reader that has gone away is no failure of ours.
pub(crate) fn result(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
    let _ = out.flush();
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
    let colours = if io::stderr().is_terminal() {
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
