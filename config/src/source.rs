//! Where a value stood: named texts, places in them, and values that remember their place.
//!
//! Everything the later stages complain about can be traced to a byte range of a file, to the
//! file's `defaults`, or to Portolan's own default. The plan itself keeps no places, except for
//! file names that are opened later (certificates), whose problems also want a line and a column.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which of the [`Sources`] a place is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(u16);

/// A byte range of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The text it is a part of.
    pub source: SourceId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// How a value came to be what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was written at this place.
    File(Span),
    /// It was written under `defaults`, at this place, and inherited from there.
    Inherited(Span),
    /// Nobody wrote it: this is Portolan's default.
    Default,
}

impl Origin {
    /// The place to point at, if there is one.
    pub fn span(self) -> Option<Span> {
        match self {
            Self::File(span) | Self::Inherited(span) => Some(span),
            Self::Default => None,
        }
    }

    /// The same place, seen from something that inherits it.
    #[must_use]
    pub fn inherited(self) -> Self {
        match self {
            Self::File(span) => Self::Inherited(span),
            other => other,
        }
    }
}

/// A value and where it came from.
///
/// Two such values are equal when the values are; where they stood does not matter.
#[derive(Clone, Debug)]
pub struct At<T> {
    /// The value itself.
    pub value: T,
    /// Where it came from.
    pub origin: Origin,
    /// Whether it came from `${file:…}`: never printed.
    pub secret: bool,
}

impl<T> At<T> {
    /// A value written (or inherited, or defaulted) at `origin`.
    pub fn new(value: T, origin: Origin) -> Self {
        Self {
            value,
            origin,
            secret: false,
        }
    }

    /// A value that nobody wrote.
    pub fn default_value(value: T) -> Self {
        Self::new(value, Origin::Default)
    }
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for At<T> {}

impl<T: fmt::Display> fmt::Display for At<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// What is secret in the texts: see `diagnostic/mask.rs`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hidden {
    /// The secrets, line by line.
    pub(crate) texts: Vec<String>,
    /// Where they stand.
    pub(crate) spans: Vec<Span>,
}

/// One named text.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the user calls it: the path as given, or `<api>`.
    pub name: String,
    /// The folder that relative paths in it are relative to.
    pub folder: PathBuf,
    /// The text.
    pub text: String,
    /// Byte offset of the first byte of every line.
    lines: Vec<u32>,
}

/// A place as people say it: both numbers start at 1, columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineColumn {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Source {
    fn new(name: String, folder: PathBuf, text: String) -> Self {
        let mut lines = vec![0];
        lines.extend(
            text.bytes()
                .enumerate()
                .filter(|(_, byte)| *byte == b'\n')
                .map(|(at, _)| at as u32 + 1),
        );
        Self {
            name,
            folder,
            text,
            lines,
        }
    }

    /// Line and column of a byte.
    pub fn line_column(&self, byte: u32) -> LineColumn {
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let start = self.lines[line - 1] as usize;
        let upto = (byte as usize).min(self.text.len());
        let column = self.text.get(start..upto).map_or(0, |s| s.chars().count());
        LineColumn {
            line,
            column: column + 1,
        }
    }

    /// The byte at which a line and column (both from 1, in characters) begin.
    pub fn byte_of(&self, place: LineColumn) -> u32 {
        let Some(start) = self.lines.get(place.line.saturating_sub(1)) else {
            return self.text.len() as u32;
        };
        let rest = &self.text[*start as usize..];
        let offset = rest
            .char_indices()
            .nth(place.column.saturating_sub(1))
            .map_or(rest.len(), |(at, _)| at);
        start + offset as u32
    }
}

/// Every text a configuration was read from, the main file first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    all: Vec<Arc<Source>>,
    /// What must not be said or shown of them.
    pub(crate) hidden: Arc<Hidden>,
}

impl Sources {
    /// Adds a text. `folder` is what relative paths in it are relative to.
    ///
    /// # Panics
    /// With more than 65,535 sources, which the loader refuses long before.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        folder: impl Into<PathBuf>,
        text: String,
    ) -> SourceId {
        let id = SourceId(u16::try_from(self.all.len()).expect("the loader bounds the includes"));
        self.all
            .push(Arc::new(Source::new(name.into(), folder.into(), text)));
        id
    }

    /// The text with this id.
    pub fn get(&self, id: SourceId) -> &Source {
        &self.all[usize::from(id.0)]
    }

    /// All texts, the main file first.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.all.iter().map(AsRef::as_ref)
    }

    /// `file:line:column` of the first byte of a span.
    pub fn place(&self, span: Span) -> String {
        let source = self.get(span.source);
        let LineColumn { line, column } = source.line_column(span.start);
        format!("{}:{line}:{column}", source.name)
    }

    /// `path` as seen from the file in which it was written; a default's, from the main file.
    pub fn resolve(&self, origin: Origin, path: &Path) -> PathBuf {
        let source = match origin.span() {
            Some(span) => Some(self.get(span.source)),
            None => self.iter().next(),
        };
        source.map_or_else(|| path.to_path_buf(), |source| source.folder.join(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters_and_find_their_way_back() {
        let mut sources = Sources::default();
        let id = sources.add("a.yaml", "", "ä: 1\nbü: zwei\n".to_owned());
        let source = sources.get(id);
        let place = source.line_column(source.text.find("zwei").unwrap() as u32);
        assert_eq!(place, LineColumn { line: 2, column: 5 });
        assert_eq!(
            source.byte_of(place) as usize,
            source.text.find("zwei").unwrap()
        );
        let after_the_end = LineColumn {
            line: 99,
            column: 1,
        };
        assert_eq!(source.byte_of(after_the_end) as usize, source.text.len());
    }

    #[test]
    fn relative_paths_belong_to_the_file_they_stand_in() {
        let mut sources = Sources::default();
        let source = sources.add("conf/pools.yaml", "conf", String::new());
        let span = Span {
            source,
            start: 0,
            end: 0,
        };
        let written = Origin::File(span);
        assert_eq!(
            sources.resolve(written, Path::new("ca.pem")),
            Path::new("conf/ca.pem")
        );
        assert_eq!(
            sources.resolve(written, Path::new("/ca.pem")),
            Path::new("/ca.pem")
        );
        assert_eq!(
            sources.resolve(Origin::Default, Path::new("state")),
            Path::new("conf/state")
        );
    }
}
