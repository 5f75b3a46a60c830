//! What is wrong with a configuration, said so that it can be mended.
//!
//! Every stage adds to one list; nothing stops at the first problem. A [`Report`] holds the list
//! together with the texts it speaks about and renders it for people ([`Report::render`]) or for
//! programs ([`Report::to_json`]).

mod code;
mod mask;
mod suggest;

pub use code::Code;
pub use suggest::{nearest, quoted_list};

use std::collections::HashSet;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

use crate::source::{Origin, Source, Sources, Span};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not do what was meant.
    Warning,
}

impl Severity {
    /// The word shown to users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Which kind of problem.
    pub code: Code,
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub origin: Origin,
    /// A second place that has to do with it, and how.
    pub related: Option<(Origin, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A problem that keeps the configuration from being used.
    pub fn error(code: Code, origin: Origin, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            origin,
            related: None,
            help: None,
        }
    }

    /// Something suspicious but legal.
    pub fn warning(code: Code, origin: Origin, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, origin, message)
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean …" when one of `names` is near enough to `word`.
    #[must_use]
    pub fn suggest<'a>(self, word: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(word, names) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// Adds a second place.
    #[must_use]
    pub fn related(mut self, origin: Origin, note: impl Into<String>) -> Self {
        self.related = Some((origin, note.into()));
        self
    }
}

/// Problems, and the texts they are about.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The texts.
    pub sources: Sources,
    /// The problems, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Whether the rendered report carries terminal colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Plain text.
    Off,
    /// ANSI escapes.
    On,
}

impl Report {
    /// A report whose problems stand in the order of the text, errors before warnings at one place.
    pub fn new(sources: Sources, mut diagnostics: Vec<Diagnostic>) -> Self {
        for diagnostic in &mut diagnostics {
            let related = diagnostic.related.as_mut().map(|(_, note)| note);
            let said = [
                Some(&mut diagnostic.message),
                diagnostic.help.as_mut(),
                related,
            ];
            for text in said.into_iter().flatten() {
                *text = sources.hidden.left_out(text);
            }
        }
        diagnostics.sort_by_key(|d| (d.origin.span(), d.severity));
        // An inherited value is read once for every heir, and its faults are found as often.
        let mut seen = HashSet::new();
        diagnostics.retain(|d| {
            seen.insert((d.origin.span(), d.code, d.message.clone())) || d.origin.span().is_none()
        });
        Self {
            sources,
            diagnostics,
        }
    }

    /// Whether anything in it keeps the configuration from being used.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many problems of this severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|d| d.severity == severity)
            .count()
    }

    /// "2 errors, 1 warning", or nothing to say.
    pub fn summary(&self) -> String {
        let said = |n: usize, word: &str| match n {
            0 => None,
            1 => Some(format!("1 {word}")),
            n => Some(format!("{n} {word}s")),
        };
        [
            said(self.count(Severity::Error), "error"),
            said(self.count(Severity::Warning), "warning"),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
    }

    /// The first error in one line, with its place: for logs, where a picture has no room.
    pub fn first_error(&self) -> Option<String> {
        let first = self
            .diagnostics
            .iter()
            .find(|d| d.severity == Severity::Error)?;
        let place = match first.origin.span() {
            Some(span) => format!("{}: ", self.sources.place(span)),
            None => String::new(),
        };
        Some(format!(
            "{place}{} [{}]",
            first.message,
            first.code.as_str()
        ))
    }

    /// The report for people: each problem with its code, its place and a caret under the text.
    pub fn render(&self, colours: Colours) -> String {
        let renderer = match colours {
            Colours::On => Renderer::styled(),
            Colours::Off => Renderer::plain(),
        };
        let texts: Vec<String> = (self.sources.iter())
            .map(|source| {
                let is_it = |span: Span| std::ptr::eq(self.sources.get(span.source), source);
                self.sources.hidden.masked(source, is_it)
            })
            .collect();
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            out.push_str(&self.render_one(&renderer, &texts, diagnostic));
            out.push_str("\n\n");
        }
        out
    }

    fn render_one(&self, renderer: &Renderer, texts: &[String], diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level
            .primary_title(diagnostic.message.as_str())
            .id(diagnostic.code.as_str());
        let place = diagnostic.origin.span();
        let related = diagnostic
            .related
            .as_ref()
            .and_then(|(origin, note)| Some((origin.span()?, note.as_str())));
        // A note in the same file shares the picture; one in another file gets its own.
        let beside = related.filter(|(span, _)| place.is_some_and(|p| p.source == span.source));
        let apart = related.filter(|_| beside.is_none());

        let mut group = Group::with_title(title);
        if let Some(span) = place {
            let mut snippet = self.snippet(texts, span).annotation(
                AnnotationKind::Primary.span(range(self.sources.get(span.source), span)),
            );
            if let Some((other, note)) = beside {
                snippet = snippet.annotation(
                    AnnotationKind::Context
                        .span(range(self.sources.get(other.source), other))
                        .label(note),
                );
            }
            group = group.element(snippet);
        }
        if let Some((span, note)) = apart {
            group = group.element(Level::NOTE.message(note)).element(
                self.snippet(texts, span).annotation(
                    AnnotationKind::Context.span(range(self.sources.get(span.source), span)),
                ),
            );
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }

    fn snippet<'a>(&'a self, texts: &'a [String], span: Span) -> Snippet<'a, Annotation<'a>> {
        let source = self.sources.get(span.source);
        let at = self
            .sources
            .iter()
            .position(|other| std::ptr::eq(other, source))
            .unwrap_or_default();
        Snippet::source(texts[at].as_str())
            .path(source.name.as_str())
            .line_start(1)
            .fold(true)
    }

    /// The report for programs: one object per problem, the same facts as data.
    pub fn to_json(&self) -> serde_json::Value {
        let place = |origin: Origin| {
            origin.span().map(|span| {
                let source = self.sources.get(span.source);
                let start = source.line_column(span.start);
                let end = source.line_column(span.end);
                serde_json::json!({
                    "file": source.name,
                    "line": start.line,
                    "column": start.column,
                    "end_line": end.line,
                    "end_column": end.column,
                })
            })
        };
        let problems: Vec<_> = self
            .diagnostics
            .iter()
            .map(|d| {
                serde_json::json!({
                    "severity": d.severity.as_str(),
                    "code": d.code.as_str(),
                    "message": d.message,
                    "place": place(d.origin),
                    "related": d.related.as_ref().map(|(origin, note)| serde_json::json!({
                        "note": note,
                        "place": place(*origin),
                    })),
                    "help": d.help,
                })
            })
            .collect();
        serde_json::json!({
            "errors": self.count(Severity::Error),
            "warnings": self.count(Severity::Warning),
            "diagnostics": problems,
        })
    }
}

/// A span as a byte range that the renderer can draw: never empty, never past the end, and only
/// the first line of something that covers many.
fn range(source: &Source, span: Span) -> std::ops::Range<usize> {
    let text = &source.text;
    // A scanner may point into the middle of a character.
    let (start, end) = mask::whole_characters(text, span.start as usize, span.end as usize);
    let first_line = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let end = end.min(first_line);
    if end > start {
        return start..end;
    }
    match text[start..].chars().next() {
        Some(next) if next != '\n' => start..start + next.len_utf8(),
        _ => start..start,
    }
}
