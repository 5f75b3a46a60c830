//! Certificate authorities that issue certificates by themselves, over ACME.

use std::fmt;
use std::path::PathBuf;

use schemars::{Schema, json_schema};

use crate::decode::{Secret, document};
use crate::scalar::{FromScalar, LeafError, keywords};
use crate::source::At;
use crate::units::{Percent, TimeSpan};

document! {
    /// A certificate authority that Portolan asks for certificates, by the ACME protocol (RFC 8555).
    /// A listener's `certificates` name it: `{ acme: letsencrypt, names: [ api.example.com ] }`.
    /// Keys, chains and the account are kept in `state_dir`, readable by their owner alone.
    pub struct AcmeIssuer as "an issuer" {
        /// The authority's directory: `letsencrypt`, `letsencrypt-staging` (for trying out: clients
        /// do not trust what it issues), or any authority's URL. Each directory has an account and
        /// certificates of its own.
        pub directory: At<AcmeDirectory> = "letsencrypt",
        /// Whom the authority may write to about the account.
        pub email: Option<At<EmailAddress>>,
        /// That you agree to the authority's terms of service. It must be `true`: no authority
        /// issues certificates otherwise.
        pub terms_agreed: At<bool> = "false",
        /// A customer's account that the ACME account belongs to, for authorities that ask for one.
        pub external_account: Option<ExternalAccount>,
        /// How Portolan proves that the names are yours.
        pub challenge: At<ChallengeKind> = "http-01",
        /// Who writes the records for `challenge: dns-01`.
        pub dns: Option<DnsHook>,
        /// Trust these certificates (PEM) when talking to the directory, and not those of the
        /// system: for an authority of your own.
        pub ca: Option<At<PathBuf>>,
        /// The kind of key that certificates are made for. Every certificate has a new one.
        pub key: At<KeyKind> = "ecdsa-p256",
        /// The share of a certificate's lifetime after which it is renewed, from 1% to 95%. An
        /// authority that says itself when to renew (RFC 9773) is obeyed instead. It is done a
        /// little sooner, by chance, so that not all certificates are renewed at once.
        pub renew_after: At<Percent> = "66.6%",
        /// How long to wait after an order has failed.
        pub retry: AcmeRetry = "{}",
        /// How long an order may take, from its beginning to the certificate.
        pub timeout: At<TimeSpan> = "5m",
    }
}

document! {
    /// A customer's account at the authority (external account binding).
    pub struct ExternalAccount as "`external_account`" {
        /// The authority's name for the key.
        pub key_id: At<String>,
        /// The key, in base64url as authorities give it out, best taken from a file:
        /// `${file:/run/secrets/acme}`.
        pub hmac_key: At<Secret>,
    }
}

document! {
    /// The wait after a failed order doubles from `min` to `max`, a little more or less by chance.
    /// It is never longer than a tenth of what is left of the certificate, and never shorter than
    /// what the authority asks for (`Retry-After`).
    pub struct AcmeRetry as "`retry`" {
        /// After the first failure.
        pub min: At<TimeSpan> = "1m",
        /// At most.
        pub max: At<TimeSpan> = "6h",
    }
}

document! {
    /// Writes the TXT records that prove whose a name is: a program or a URL, one of the two. It is
    /// asked to `present` each record before the authority looks, and to `cleanup` afterwards.
    pub struct DnsHook as "`dns`" {
        /// A program and its arguments. Behind them it gets `present` or `cleanup`, the record's
        /// full name and its value; the same stands in its environment. It has to end with status 0.
        pub exec: Vec<At<String>>,
        /// A URL that gets a POST with `{"action": …, "name": …, "fqdn": …, "value": …}` and has to
        /// answer with a status from 200 to 299.
        pub webhook: Option<At<WebhookUrl>>,
        /// Sent to the webhook as `Authorization: Bearer TOKEN`.
        pub token: Option<At<Secret>>,
        /// How long the program, or the webhook, may take.
        pub timeout: At<TimeSpan> = "1m",
        /// How long to wait after the records were written until the authority is told to look, so
        /// that every name server has them.
        pub wait: At<TimeSpan> = "10s",
    }
}

keywords! {
    /// How a name is proved to be yours.
    pub enum ChallengeKind {
        /// By an answer to a request on port 80, which Portolan gives itself.
        Http01 = "http-01",
        /// By a TLS handshake on port 443, which Portolan makes itself.
        TlsAlpn01 = "tls-alpn-01",
        /// By a record in the DNS, which `dns` writes: the one way to certificates for wildcards.
        Dns01 = "dns-01",
    }
}

keywords! {
    /// The kind of a certificate's key.
    pub enum KeyKind {
        /// ECDSA with the curve P-256.
        EcdsaP256 = "ecdsa-p256",
        /// ECDSA with the curve P-384.
        EcdsaP384 = "ecdsa-p384",
    }
}

/// Where an authority can be asked what it offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcmeDirectory {
    /// Let's Encrypt.
    LetsEncrypt,
    /// Let's Encrypt, for trying out.
    LetsEncryptStaging,
    /// Another one.
    Url(String),
}

impl AcmeDirectory {
    /// Its URL.
    pub fn url(&self) -> &str {
        match self {
            Self::LetsEncrypt => "https://acme-v02.api.letsencrypt.org/directory",
            Self::LetsEncryptStaging => "https://acme-staging-v02.api.letsencrypt.org/directory",
            Self::Url(url) => url,
        }
    }
}

impl FromScalar for AcmeDirectory {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        const WORDS: [&str; 2] = ["letsencrypt", "letsencrypt-staging"];
        match text {
            "letsencrypt" => return Ok(Self::LetsEncrypt),
            "letsencrypt-staging" => return Ok(Self::LetsEncryptStaging),
            _ => {}
        }
        if !text.contains("://") {
            let error = LeafError::bad("is no directory: neither a known authority nor a URL");
            return Err(match crate::diagnostic::nearest(text, WORDS) {
                Some(word) => error.help(format!("did you mean `{word}`?")),
                None => error.help("write `letsencrypt`, `letsencrypt-staging` or a URL"),
            });
        }
        match url(text)? {
            "https" => Ok(Self::Url(text.to_owned())),
            _ => Err(LeafError::bad("is not https, which ACME asks for")
                .help("a private authority's certificate can be trusted with `ca`")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::LetsEncrypt => "letsencrypt".to_owned(),
            Self::LetsEncryptStaging => "letsencrypt-staging".to_owned(),
            Self::Url(url) => url.clone(),
        }
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["letsencrypt", "letsencrypt-staging", "https://ca.example.com/acme/directory"] })
    }
}

/// A URL's scheme, if it is a URL that a request can be sent to.
fn url(text: &str) -> Result<&'static str, LeafError> {
    let bad = || LeafError::bad("is not a URL");
    let uri: http::Uri = text.parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    if authority.host().is_empty() {
        return Err(bad());
    }
    if authority.as_str().contains('@') {
        return Err(LeafError::bad("has a user in it"));
    }
    match uri.scheme_str() {
        Some("https") => Ok("https"),
        Some("http") => Ok("http"),
        _ => Err(bad()),
    }
}

/// Where records are written by a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookUrl(String);

impl WebhookUrl {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromScalar for WebhookUrl {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        url(text).map(|_| Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["http://127.0.0.1:8053/records"] })
    }
}

/// Where mail is sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromScalar for EmailAddress {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        let bad = || LeafError::bad("is not a mail address").help("write `name@example.com`");
        let text = text.strip_prefix("mailto:").unwrap_or(text);
        let (name, domain) = text.rsplit_once('@').ok_or_else(bad)?;
        let fit = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '?' | '@');
        if name.is_empty()
            || !domain.contains('.')
            || !(name.chars().chain(domain.chars())).all(fit)
        {
            return Err(bad());
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["ops@example.com"] })
    }
}

/// A name that a certificate is asked for: `api.example.com`, or `*.example.com`. In lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CertificateName(String);

impl CertificateName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for every name one label below another.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromScalar for CertificateName {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        let name = text.trim_end_matches('.').to_ascii_lowercase();
        let below = name.strip_prefix("*.").unwrap_or(&name);
        if below
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok()
        {
            return Err(LeafError::bad(
                "is an address: certificates are issued for names",
            ));
        }
        if below.contains("://") || below.contains(['/', ':']) {
            return Err(LeafError::bad("is not a name").help("write the name alone"));
        }
        if below.contains('*') {
            return Err(LeafError::bad("has its star in the wrong place")
                .help("a wildcard stands for the first label: `*.example.com`"));
        }
        if !below.is_ascii() {
            return Err(
                LeafError::bad("has letters that names in the DNS do not have")
                    .help("write it in its ASCII form, which begins with `xn--`"),
            );
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.len() > 253 || !below.split('.').all(label) {
            return Err(LeafError::bad("is not a name in the DNS"));
        }
        if !below.contains('.') {
            return Err(LeafError::bad(
                "has no dot: no authority issues certificates for such names",
            )
            .help("write it in full, like `api.example.com`"));
        }
        Ok(Self(name))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "examples": ["api.example.com", "*.example.com"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_an_authority_can_take() {
        let name = |text| CertificateName::parse(text).map(|name| name.0);
        assert_eq!(name("API.example.com.").unwrap(), "api.example.com");
        assert_eq!(name("*.example.com").unwrap(), "*.example.com");
        for (text, why) in [
            ("localhost", "no dot"),
            ("*.com", "no dot"),
            ("192.0.2.1", "address"),
            ("a.*.example.com", "star"),
            ("a..example.com", "not a name"),
            ("-a.example.com", "not a name"),
            ("https://a.example.com", "not a name"),
            ("bücher.example", "letters"),
        ] {
            let said = name(text).unwrap_err().message;
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn directories_are_known_or_https() {
        let directory = |text| AcmeDirectory::parse(text);
        assert_eq!(
            directory("letsencrypt").unwrap(),
            AcmeDirectory::LetsEncrypt
        );
        assert!(directory("https://ca.example.com:14000/dir").is_ok());
        assert!(directory("http://ca.example.com/dir").is_err());
        assert!(directory("https:///dir").is_err());
        assert!(directory("https://user@ca.example.com/dir").is_err());
        assert_eq!(
            directory("letsencrypt-stagin").unwrap_err().help.unwrap(),
            "did you mean `letsencrypt-staging`?"
        );
    }

    #[test]
    fn mail_addresses_have_a_name_and_a_domain() {
        assert_eq!(
            EmailAddress::parse("mailto:a@b.example").unwrap().as_str(),
            "a@b.example"
        );
        for bad in ["a", "a@b", "@b.example", "a b@c.example", "a,b@c.example"] {
            assert!(EmailAddress::parse(bad).is_err(), "{bad}");
        }
    }
}
