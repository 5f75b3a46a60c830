//! `${env:NAME}` and `${file:/path}` inside text values, after parsing.
//!
//! Expanding the raw text would let a variable's content change the structure of the file and
//! would spoil every place behind it. Here only the leaves change, and they keep their places.

use std::io;
use std::path::Path;

use crate::diagnostic::{Code, Diagnostic};
use crate::node::{Node, Scalar, Value};
use crate::source::{Origin, Sources};
use crate::stamp::Stamp;

/// Where references are looked up: the border between this crate and the machine.
pub trait Environment {
    /// An environment variable.
    fn variable(&self, name: &str) -> Option<String>;

    /// A file's content.
    ///
    /// # Errors
    /// When it cannot be read, or is not UTF-8.
    fn file(&self, path: &Path) -> io::Result<String>;

    /// The same, and what the file was like meanwhile, where that is known.
    ///
    /// # Errors
    /// When it cannot be read, or is not UTF-8.
    fn stamped_file(&self, path: &Path) -> io::Result<(String, Stamp)> {
        Ok((self.file(path)?, Stamp::default()))
    }
}

/// The longest content of a `${file:…}`: secrets are short, and a device would never end.
pub(crate) const LONGEST_FILE: u64 = 1 << 20;

/// Expands every reference in the tree.
pub(crate) fn expand(
    node: &mut Node,
    sources: &Sources,
    environment: &dyn Environment,
    diagnostics: &mut Vec<Diagnostic>,
) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar(scalar) if has_reference(&scalar.text) => {
            if let Err(diagnostic) = expand_scalar(scalar, node.origin, sources, environment) {
                scalar.broken = true;
                diagnostics.push(diagnostic);
            }
        }
        Value::Scalar(_) => {}
        Value::List(items) => {
            for item in items {
                expand(item, sources, environment, diagnostics);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                expand(&mut entry.value, sources, environment, diagnostics);
            }
        }
    }
}

/// Whether there is `${` in it. Most texts are short, and have no dollar at all.
fn has_reference(text: &str) -> bool {
    text.bytes().any(|byte| byte == b'$') && text.contains("${")
}

fn expand_scalar(
    scalar: &mut Scalar,
    origin: Origin,
    sources: &Sources,
    environment: &dyn Environment,
) -> Result<(), Diagnostic> {
    let fault = |message: String| Diagnostic::error(Code::Expansion, origin, message);
    let mut out = String::with_capacity(scalar.text.len());
    let mut rest = scalar.text.as_str();
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = &reference[2..];
            continue;
        }
        out.push_str(before);
        let Some((inside, after)) = reference[2..].split_once('}') else {
            return Err(
                fault("`${` without its `}`".to_owned()).help("write `$${` for a literal `${`")
            );
        };
        rest = after;
        match inside.split_once(':') {
            Some(("env", name)) => match environment.variable(name) {
                Some(value) => out.push_str(&value),
                None => {
                    return Err(fault(format!(
                        "the environment variable `{name}` is not set"
                    )));
                }
            },
            Some(("file", path)) => {
                let path = sources.resolve(origin, Path::new(path));
                let content = environment
                    .file(&path)
                    .map_err(|error| fault(format!("cannot read `{}`: {error}", path.display())))?;
                // Files that hold a secret nearly always end in a newline that is not part of it.
                out.push_str(content.trim_end_matches(['\n', '\r']));
                scalar.secret = true;
            }
            _ => {
                return Err(fault(format!("`${{{inside}}}` is not a reference"))
                    .help("write `${env:NAME}` or `${file:/path}`, or `$${` for a literal `${`"));
            }
        }
    }
    out.push_str(rest);
    scalar.text = out;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Environment for Fixed {
        fn variable(&self, name: &str) -> Option<String> {
            (name == "REGION").then(|| "us: [east]".to_owned())
        }

        fn file(&self, path: &Path) -> io::Result<String> {
            if path == Path::new("conf/secret") {
                return Ok("s3cret\n".to_owned());
            }
            Err(io::Error::from(io::ErrorKind::NotFound))
        }
    }

    fn expanded(text: &str) -> (Node, Vec<Diagnostic>) {
        let mut sources = Sources::default();
        let id = sources.add("conf/a.yaml", "conf", format!("key: {text}\n"));
        let mut diagnostics = Vec::new();
        let mut node = crate::parse::parse(&sources, id, &mut diagnostics).unwrap();
        expand(&mut node, &sources, &Fixed, &mut diagnostics);
        (node.get("key").unwrap().clone(), diagnostics)
    }

    #[test]
    fn variables_stay_text_whatever_they_contain() {
        let (node, diagnostics) = expanded("a-${env:REGION}-b");
        assert!(diagnostics.is_empty());
        assert!(matches!(&node.value, Value::Scalar(s) if s.text == "a-us: [east]-b" && !s.secret));
    }

    #[test]
    fn file_contents_are_secrets_and_lose_their_last_newline() {
        let (node, _) = expanded("'${file:secret}'");
        assert!(matches!(&node.value, Value::Scalar(s) if s.text == "s3cret" && s.secret));
        assert_eq!(node.described(), "a secret");
    }

    #[test]
    fn a_doubled_dollar_is_literal() {
        let (node, diagnostics) = expanded("'$${env:REGION}'");
        assert!(diagnostics.is_empty());
        assert!(matches!(&node.value, Value::Scalar(s) if s.text == "${env:REGION}"));
    }

    #[test]
    fn what_cannot_be_filled_in_is_an_error() {
        for (text, said) in [
            ("'${env:NOPE}'", "`NOPE` is not set"),
            ("'${file:nope}'", "cannot read `conf/nope`"),
            ("'${nope}'", "not a reference"),
            ("'${env:REGION'", "without its `}`"),
        ] {
            let (_, diagnostics) = expanded(text);
            assert!(
                diagnostics[0].message.contains(said),
                "{text}: {diagnostics:?}"
            );
        }
    }
}
