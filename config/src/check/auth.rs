//! Who somebody is: somebody who can be, and hashes that can be read.

use std::collections::HashMap;
use std::time::Duration;

use super::token;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Auth, BasicAuth, Document, ForwardAuth, htpasswd};
use crate::source::Origin;

/// The longest time that a service is waited for.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

/// The largest answer of a service that is kept.
const LARGEST_ANSWER: u64 = 1 << 20;

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    for auth in document.routes.iter().filter_map(|route| route.auth.on()) {
        one(auth, found);
    }
}

fn one(auth: &Auth, found: &mut Vec<Diagnostic>) {
    let ways = [
        auth.basic.as_ref().map(|it| it.origin),
        auth.jwt.as_ref().map(|it| it.origin),
        auth.forward_auth.as_ref().map(|it| it.origin),
    ];
    let mut ways = ways.into_iter().flatten();
    match (ways.next(), ways.next()) {
        (None, _) => found.push(
            Diagnostic::error(Code::MissingKey, auth.origin, "`auth` asks for nothing")
                .help("say how users prove who they are: `basic`, `jwt` or `forward_auth`; or leave `auth` out"),
        ),
        (Some(first), Some(second)) => found.push(
            Diagnostic::error(
                Code::BadValue,
                second,
                "there is one way to prove who one is, and a second one",
            )
            .related(first, "the other one")
            .help("leave one out: `basic`, `jwt` or `forward_auth`"),
        ),
        _ => {}
    }
    if let Some(basic) = &auth.basic {
        users(basic, found);
    }
    if let Some(jwt) = &auth.jwt {
        token::check(jwt, found);
    }
    if let Some(forward) = &auth.forward_auth {
        self::forward(auth, forward, found);
    }
    told(auth, found);
}

/// The headers in which endpoints are told: none that is Portolan's, and none twice.
fn told(auth: &Auth, found: &mut Vec<Diagnostic>) {
    let claims = auth.jwt.iter().flat_map(|jwt| jwt.headers.iter());
    let copied = auth.forward_auth.iter().flat_map(|it| &it.copy_headers);
    let all = (auth.user_header.iter())
        .chain(claims.map(|(_, header)| header))
        .chain(copied);
    let mut names: HashMap<&str, Origin> = HashMap::new();
    for header in all {
        let name = header.value.as_str();
        if crate::check::headers::PROTECTED.contains(&name) {
            found.push(Diagnostic::error(
                Code::BadValue,
                header.origin,
                format!("`{name}` belongs to Portolan"),
            ));
        }
        if let Some(first) = names.insert(name, header.origin) {
            found.push(
                Diagnostic::error(
                    Code::DuplicateName,
                    header.origin,
                    format!("endpoints would be told two things in `{name}`"),
                )
                .related(first, "the other one"),
            );
        }
    }
}

fn forward(auth: &Auth, forward: &ForwardAuth, found: &mut Vec<Diagnostic>) {
    let mut bad = |origin: Origin, message: String, help: &str| {
        found.push(Diagnostic::error(Code::BadValue, origin, message).help(help));
    };
    if let Some(header) = &auth.user_header {
        bad(
            header.origin,
            "a service says who somebody is in words of its own".to_owned(),
            "name the header in which it does in `copy_headers`",
        );
    }
    let timeout = forward.timeout.value.duration();
    if timeout.is_zero() || timeout > LONGEST_ANSWER {
        bad(
            forward.timeout.origin,
            format!("`timeout: {}` is no time to wait", forward.timeout),
            "it lies between 1ms and 1m",
        );
    }
    if forward.max_body.value.bytes() > LARGEST_ANSWER {
        bad(
            forward.max_body.origin,
            format!("an answer of `{}` is kept in memory", forward.max_body),
            "the most is 1MiB",
        );
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
