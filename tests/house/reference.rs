//! The pages of `docs/reference`: made from the code, and equal to what it says now.
//! `UPDATE_GOLDEN=1` writes them anew.

use std::fmt::Write as _;

use super::root;
use crate::harness::portolan::{command, stdout};

/// Compares a page with what it should be, or writes it.
fn holds(name: &str, should: &str) {
    let path = root().join("docs/reference").join(name);
    if std::env::vars().any(|(name, value)| name == "UPDATE_GOLDEN" && value == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, should).unwrap();
        return;
    }
    let is = std::fs::read_to_string(&path).unwrap_or_default();
    if is == should {
        return;
    }
    let same = is
        .lines()
        .zip(should.lines())
        .take_while(|(is, should)| is == should)
        .count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    panic!(
        "docs/reference/{name} does not say what the code says, from line {} on:\n  page: {}\n  code: {}\nUPDATE_GOLDEN=1 writes it anew",
        same + 1,
        line(&is),
        line(should)
    );
}

#[test]
fn the_configuration_reference_is_true() {
    holds("config.md", &portolan_config::reference_page());
}

#[test]
fn the_schema_is_true() {
    let schema = serde_json::to_string_pretty(&portolan_config::json_schema()).unwrap();
    holds("config.schema.json", &(schema + "\n"));
}

#[test]
fn the_diagnostics_reference_is_true() {
    holds("diagnostics.md", &portolan_config::diagnostics_page());
}

#[test]
fn the_metrics_reference_is_true() {
    holds(
        "metrics.md",
        &portolan_control::telemetry::metrics::family::reference_page(),
    );
}

#[tokio::test]
async fn the_reference_of_the_commands_is_true() {
    let overview = help(&[]).await;
    let mut page = format!(
        "# The command\n\n\
         What `portolan help` says. This page is made from it, and a test keeps it true.\n\n\
         Exit status: 0, done; 1, it could not be done, or `check` found errors; 2, wrong usage. \
         Results are printed on standard output, everything else on standard error.\n\n\
         ```text\n{overview}```\n"
    );
    let listed: Vec<&str> = overview
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(listed.contains(&"run"), "{overview}");
    for name in listed {
        let text = help(&[name]).await;
        write!(page, "\n## portolan {name}\n\n```text\n{text}```\n").unwrap();
    }
    holds("commands.md", &page);
}

/// The help of a command, without blanks at the ends of lines.
async fn help(of: &[&str]) -> String {
    let output = command(&[&["help"], of].concat()).await;
    assert!(output.status.success(), "{of:?}");
    let text = stdout(&output);
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}
