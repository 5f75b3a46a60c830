//! Certificate authorities, and the certificates that are asked of them.

use std::collections::HashMap;

use crate::diagnostic::{Code, Diagnostic};
use crate::document::{AcmeIssuer, Certificate, ChallengeKind, DnsHook, Document};
use crate::names::Name;
use crate::source::{At, Origin};

/// As many names as an authority takes in one certificate: Let's Encrypt's bound, and nobody's is
/// higher.
const MOST_NAMES: usize = 100;

pub(super) fn check(document: &Document, found: &mut Vec<Diagnostic>) {
    for (_, issuer) in &document.acme {
        settings(issuer, found);
        if issuer.challenge.value == ChallengeKind::Dns01 {
            match &issuer.dns {
                Some(hook) => records(hook, found),
                None => found.push(
                    Diagnostic::error(
                        Code::MissingKey,
                        issuer.challenge.origin,
                        "`challenge: dns-01` needs `dns`: somebody has to write the records",
                    )
                    .help("write `dns: { exec: [ PROGRAM ] }` or `dns: { webhook: URL }`"),
                ),
            }
        } else if let Some(hook) = &issuer.dns {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    hook.origin,
                    format!("`dns` has no use with `challenge: {}`", challenge(issuer)),
                )
                .help("write `challenge: dns-01`, or leave `dns` out"),
            );
        }
    }
    let mut used: HashMap<&str, Origin> = HashMap::new();
    for listener in &document.listeners {
        for certificate in listener.tls.iter().flat_map(|tls| &tls.certificates) {
            if let Some(name) = &certificate.acme {
                used.entry(name.value.as_str()).or_insert(name.origin);
                asked(document, certificate, name, found);
            }
        }
    }
    for (name, issuer) in &document.acme {
        match used.get(name.value.as_str()) {
            Some(_) => reach(document, issuer, found),
            None => found.push(
                Diagnostic::warning(
                    Code::UnusedIssuer,
                    name.origin,
                    format!("no certificate is asked of `{name}`"),
                )
                .help(format!(
                    "write `{{ acme: {name}, names: [ api.example.com ] }}` below a listener's \
                     `certificates`"
                )),
            ),
        }
    }
}

fn challenge(issuer: &AcmeIssuer) -> &'static str {
    issuer.challenge.value.as_str()
}

fn settings(issuer: &AcmeIssuer, found: &mut Vec<Diagnostic>) {
    if !issuer.terms_agreed.value {
        let origin = match issuer.terms_agreed.origin {
            Origin::Default => issuer.origin,
            written => written,
        };
        found.push(
            Diagnostic::error(
                Code::MissingKey,
                origin,
                "the authority's terms of service have to be agreed to",
            )
            .help("read them, and write `terms_agreed: true`"),
        );
    }
    if let Some(account) = &issuer.external_account {
        let fit = |c: char| c.is_ascii_alphanumeric() || "-_+/=".contains(c);
        if !account.hmac_key.value.expose().chars().all(fit) {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    account.hmac_key.origin,
                    "the secret is not base64url, as authorities give it out",
                )
                .help("copy it as it is, without spaces or line breaks"),
            );
        }
    }
    let renew_after = &issuer.renew_after;
    if !(0.01..=0.95).contains(&renew_after.value.fraction()) {
        found.push(Diagnostic::error(
            Code::BadValue,
            renew_after.origin,
            "`renew_after` lies between 1% and 95%",
        ));
    }
    let (min, max) = (&issuer.retry.min, &issuer.retry.max);
    for (name, span) in [("min", min), ("max", max), ("timeout", &issuer.timeout)] {
        if span.value.duration().is_zero() {
            found.push(Diagnostic::error(
                Code::BadValue,
                span.origin,
                format!("`{name}` has to be longer than nothing"),
            ));
        }
    }
    if min.value > max.value {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                min.origin,
                format!("`min` ({min}) is longer than `max` ({max})"),
            )
            .related(max.origin, "here"),
        );
    }
}

fn records(hook: &DnsHook, found: &mut Vec<Diagnostic>) {
    match (hook.exec.first(), &hook.webhook) {
        (None, None) => found.push(
            Diagnostic::error(
                Code::MissingKey,
                hook.origin,
                "`dns` needs `exec` or `webhook`",
            )
            .help("write `exec: [ PROGRAM ]` or `webhook: URL`"),
        ),
        (Some(program), Some(url)) => found.push(
            Diagnostic::error(
                Code::BadValue,
                url.origin,
                "`dns` has `exec` or `webhook`, not both",
            )
            .related(program.origin, "here"),
        ),
        (Some(program), None) if program.value.is_empty() => found.push(Diagnostic::error(
            Code::BadValue,
            program.origin,
            "the program has no name",
        )),
        _ => {}
    }
    if let Some(token) = &hook.token
        && http::HeaderValue::from_str(token.value.expose()).is_err()
    {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                token.origin,
                "the token has characters that no header can have",
            )
            .help("it is one line of printable ASCII"),
        );
    }
    if let (Some(token), None) = (&hook.token, &hook.webhook) {
        found.push(Diagnostic::error(
            Code::MissingKey,
            token.origin,
            "`token` belongs to a `webhook`",
        ));
    }
    if hook.timeout.value.duration().is_zero() {
        found.push(Diagnostic::error(
            Code::BadValue,
            hook.timeout.origin,
            "with `timeout: 0s` no record could ever be written",
        ));
    }
}

/// A certificate that is asked of an issuer.
fn asked(
    document: &Document,
    certificate: &Certificate,
    name: &At<Name>,
    found: &mut Vec<Diagnostic>,
) {
    let issuers = || document.acme.iter().map(|(name, _)| name.value.as_str());
    let issuer = document
        .acme
        .iter()
        .find(|(known, _)| known.value == name.value);
    if issuer.is_none() {
        let diagnostic = Diagnostic::error(
            Code::UnknownName,
            name.origin,
            format!("there is no issuer named `{name}`"),
        )
        .suggest(name.value.as_str(), issuers());
        found.push(match (&diagnostic.help, issuers().next()) {
            (None, None) => diagnostic.help(format!(
                "define it at the top: `acme: {{ {name}: {{ terms_agreed: true }} }}`"
            )),
            _ => diagnostic,
        });
    }
    if certificate.names.is_empty() {
        found.push(
            Diagnostic::error(
                Code::MissingKey,
                certificate.origin,
                "a certificate that is asked for needs `names`",
            )
            .help("write `names: [ api.example.com ]`"),
        );
    }
    if let Some(beyond) = certificate.names.get(MOST_NAMES) {
        found.push(
            Diagnostic::error(
                Code::BadValue,
                beyond.origin,
                format!("a certificate can have at most {MOST_NAMES} names"),
            )
            .help("ask for several certificates"),
        );
    }
    let mut seen: HashMap<&str, Origin> = HashMap::new();
    for wanted in &certificate.names {
        if let Some(first) = seen.insert(wanted.value.as_str(), wanted.origin) {
            found.push(
                Diagnostic::error(
                    Code::DuplicateName,
                    wanted.origin,
                    format!("`{wanted}` stands twice"),
                )
                .related(first, "here"),
            );
        }
        if let Some((_, issuer)) = issuer
            && wanted.value.is_wildcard()
            && issuer.challenge.value != ChallengeKind::Dns01
        {
            found.push(
                Diagnostic::error(
                    Code::BadValue,
                    wanted.origin,
                    format!(
                        "`{wanted}` is a wildcard, which no authority issues by {}",
                        challenge(issuer)
                    ),
                )
                .related(issuer.challenge.origin, "the challenge")
                .help("write `challenge: dns-01`, or an issuer of its own for it"),
            );
        }
    }
}

/// Whether the authority will find anybody to ask.
fn reach(document: &Document, issuer: &AcmeIssuer, found: &mut Vec<Diagnostic>) {
    let (port, tls) = match issuer.challenge.value {
        ChallengeKind::Http01 => (80, false),
        ChallengeKind::TlsAlpn01 => (443, true),
        ChallengeKind::Dns01 => return,
    };
    let here = document
        .listeners
        .iter()
        .any(|listener| listener.bind.value.port() == port && listener.tls.is_some() == tls);
    if !here {
        let origin = match issuer.challenge.origin {
            Origin::Default => issuer.origin,
            written => written,
        };
        let kind = if tls {
            "listener with `tls`"
        } else {
            "listener without `tls`"
        };
        found.push(
            Diagnostic::warning(
                Code::AcmeReach,
                origin,
                format!(
                    "`{}` is asked for on port {port}, and no {kind} is bound to it",
                    challenge(issuer)
                ),
            )
            .help(format!(
                "it can only work if something in front leads port {port} here"
            )),
        );
    }
}
