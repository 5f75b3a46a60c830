//! The admin API: not open to the world.

use std::collections::HashMap;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::Document;

/// Shorter tokens can be guessed.
const SHORTEST_TOKEN: usize = 16;

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    let admin = &document.admin;
    if !admin.bind.value.ip().is_loopback() && admin.tokens.is_empty() {
        found.push(
            Diagnostic::error(
                Code::AdminExposed,
                admin.bind.origin,
                format!(
                    "`{}` can be reached from elsewhere, and there are no `tokens`",
                    admin.bind
                ),
            )
            .help("add `tokens`, or bind to 127.0.0.1"),
        );
    }
    let mut names = HashMap::new();
    for token in &admin.tokens {
        crate::check::shown::shown(&token.name, found);
        if let Some(first) = names.insert(token.name.value.as_str(), token.name.origin) {
            found.push(
                Diagnostic::error(
                    Code::DuplicateName,
                    token.name.origin,
                    format!("two tokens are named `{}`", token.name),
                )
                .related(first, "the other one"),
            );
        }
        // RFC 9110, section 5.5: nobody could send anything else in a header, and blanks around it are
        // not part of it.
        let text = token.token.value.expose();
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    token.token.origin,
                    "the token has characters that nobody can send in a header",
                )
                .help(
                    "use letters, digits and punctuation of ASCII, without blanks or line breaks",
                ),
            );
        }
        if text.chars().count() < SHORTEST_TOKEN {
            found.push(Diagnostic::error(
                Code::BadValue,
                token.token.origin,
                format!("the token is shorter than {SHORTEST_TOKEN} characters"),
            ));
        }
    }
}
