//! Figures: the middle and the spread, a table for people, and the raw data for everybody else.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

/// Several measurements of one thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[middle]
        } else {
            f64::midpoint(self.0[middle - 1], self.0[middle])
        }
    }

    /// `median [least – most]`, with so many decimals; one alone has no spread.
    pub(crate) fn show(&self, decimals: usize) -> String {
        let (least, most) = (self.0[0], self.0[self.0.len() - 1]);
        let median = self.median();
        if self.0.len() == 1 {
            return format!("{median:.decimals$}");
        }
        format!("{median:.decimals$} [{least:.decimals$} – {most:.decimals$}]")
    }
}

impl FromIterator<f64> for Figures {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut figures = Self(values.into_iter().collect());
        figures.0.sort_by(f64::total_cmp);
        figures
    }
}

/// A table in Markdown: the first column names what the others measure.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut text = format!(
        "| {} |\n| --- |{}\n",
        head.join(" | "),
        " ---: |".repeat(N - 1)
    );
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// The folder for raw data.
pub(crate) fn folder() -> PathBuf {
    // The folder for temporary files stands in the target folder.
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench-results");
    std::fs::create_dir_all(&folder).expect("a folder for the results");
    folder
}

/// Raw data: one JSON document a line.
#[derive(Debug)]
pub(crate) struct Raw(File);

impl Raw {
    pub(crate) fn create(name: &str) -> Self {
        let path = folder().join(name);
        Self(File::create(path).expect("a file for the results"))
    }

    pub(crate) fn write(&mut self, line: &serde_json::Value) {
        writeln!(self.0, "{line}").expect("a line of results");
    }
}
