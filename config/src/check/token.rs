//! Tokens: keys that can be had, and tokens that can be believed.

use std::time::Duration;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::{JwtAuth, TokenKeys};
use crate::source::Origin;

/// Clocks that are further apart are wrong.
const LARGEST_LEEWAY: Duration = Duration::from_secs(600);
/// How often keys are asked for.
const REFRESH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(7 * 86_400));
/// How long whoever has keys is waited for.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

pub(super) fn check(jwt: &JwtAuth, found: &mut Vec<Diagnostic>) {
    keys(&jwt.keys, found);
    for (key, given, meaning) in [
        (
            "issuer",
            &jwt.issuer,
            "whoever has one of the keys may have issued it",
        ),
        (
            "audience",
            &jwt.audience,
            "a token that was meant for another service is good for this one",
        ),
    ] {
        match given {
            None => found.push(
                Diagnostic::warning(
                    Code::TokenForAnybody,
                    jwt.origin,
                    format!("no `{key}` is asked for: {meaning}"),
                )
                .help(format!("say which `{key}` tokens must have")),
            ),
            Some(texts) => {
                let empty = texts.0.iter().find(|text| text.value.is_empty());
                let origin = match (empty, texts.0.is_empty()) {
                    (Some(text), _) => text.origin,
                    (None, true) => jwt.origin,
                    (None, false) => continue,
                };
                let message = format!("an empty `{key}` is nobody");
                found.push(Diagnostic::error(Code::BadValue, origin, message));
            }
        }
    }
    let mut bad = |origin: Origin, message: String, help: &str| {
        found.push(Diagnostic::error(Code::BadValue, origin, message).help(help));
    };
    if jwt.algorithms.is_empty() {
        bad(
            jwt.origin,
            "without `algorithms`, no token can be believed".to_owned(),
            "leave the key out for all that are safe",
        );
    }
    if jwt.leeway.value.duration() > LARGEST_LEEWAY {
        bad(
            jwt.leeway.origin,
            format!("clocks that are {} apart are wrong", jwt.leeway),
            "the most is 10m",
        );
    }
    match (&jwt.from.header, &jwt.from.cookie) {
        (Some(_), Some(cookie)) => bad(
            cookie.origin,
            "a token stands in a header or in a cookie".to_owned(),
            "leave one out",
        ),
        (Some(header), None) if header.value == http::header::AUTHORIZATION => bad(
            header.origin,
            "a token is looked for in Authorization anyway".to_owned(),
            "leave `from` out",
        ),
        _ => {}
    }
    for (name, values) in &jwt.claims {
        if values.0.is_empty() {
            bad(
                name.origin,
                "a claim without values that it may have".to_owned(),
                "name one at least",
            );
        }
    }
}

fn keys(keys: &TokenKeys, found: &mut Vec<Diagnostic>) {
    let mut bad = |code: Code, origin: Origin, message: String, help: &str| {
        found.push(Diagnostic::error(code, origin, message).help(help));
    };
    match (&keys.file, &keys.url) {
        (None, None) => bad(
            Code::MissingKey,
            keys.origin,
            "`keys` come from nowhere".to_owned(),
            "name a `file` or a `url`",
        ),
        (Some(_), Some(url)) => bad(
            Code::BadValue,
            url.origin,
            "`keys` come from a file and from a URL".to_owned(),
            "leave one out",
        ),
        (Some(_), None) => {
            if let Some(ca) = &keys.ca {
                bad(
                    Code::BadValue,
                    ca.origin,
                    "`ca` is for a URL, and the keys come from a file".to_owned(),
                    "leave it out",
                );
            }
        }
        (None, Some(_)) => {}
    }
    let refresh = keys.refresh.value.duration();
    if !(REFRESH.0..=REFRESH.1).contains(&refresh) {
        bad(
            Code::BadValue,
            keys.refresh.origin,
            format!("`refresh: {}` is too often or too seldom", keys.refresh),
            "it lies between 1s and 7d",
        );
    }
    let timeout = keys.timeout.value.duration();
    if timeout.is_zero() || timeout > LONGEST_ANSWER {
        bad(
            Code::BadValue,
            keys.timeout.origin,
            format!("`timeout: {}` is no time to wait", keys.timeout),
            "it lies between 1ms and 1m",
        );
    }
}
