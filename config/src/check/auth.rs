//! Who somebody is: somebody who can be, and hashes that can be read.

use std::collections::HashMap;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Auth, BasicAuth, Document, htpasswd};
use crate::source::Origin;

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    for auth in document.routes.iter().filter_map(|route| route.auth.on()) {
        one(auth, found);
    }
}

fn one(auth: &Auth, found: &mut Vec<Diagnostic>) {
    match &auth.basic {
        None => found.push(
            Diagnostic::error(Code::MissingKey, auth.origin, "`auth` asks for nothing")
                .help("say how users prove who they are: `basic`; or leave `auth` out"),
        ),
        Some(basic) => users(basic, found),
    }
    if let Some(header) = &auth.user_header
        && super::routes::PROTECTED.contains(&header.value.as_str())
    {
        found.push(Diagnostic::error(
            Code::BadValue,
            header.origin,
            format!("`{}` belongs to Portolan", header.value),
        ));
    }
}

fn users(basic: &BasicAuth, found: &mut Vec<Diagnostic>) {
    let mut names: HashMap<String, Origin> = HashMap::new();
    for user in &basic.users {
        let name = &user.name;
        if let Some(first) = names.insert(name.value.as_str().to_owned(), name.origin) {
            found.push(
                Diagnostic::error(
                    Code::DuplicateName,
                    name.origin,
                    format!("two users are named `{}`", name.value.as_str()),
                )
                .related(first, "the other one"),
            );
        }
    }
    if let Some(file) = &basic.htpasswd {
        match htpasswd(file.value.expose()) {
            Ok(users) => {
                for (name, _) in users {
                    let name = name.as_str();
                    if names.insert(name.to_owned(), file.origin).is_some() {
                        found.push(Diagnostic::error(
                            Code::DuplicateName,
                            file.origin,
                            format!("the user `{name}` stands here twice"),
                        ));
                    }
                }
            }
            Err((line, error)) => {
                let message = format!("line {line} of the users {}", error.message);
                let mut diagnostic = Diagnostic::error(error.code, file.origin, message);
                diagnostic.help = error.help;
                found.push(diagnostic);
                return;
            }
        }
    }
    if names.is_empty() {
        found.push(
            Diagnostic::error(Code::Unreachable, basic.origin, "`basic` knows nobody")
                .help("name users with the hashes of their passwords"),
        );
    }
}
