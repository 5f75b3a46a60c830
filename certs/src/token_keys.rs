//! Public keys of who signs tokens: read from a JSON Web Key Set (RFC 7517), and what they verify.
//!
//! A key is bound to what it may verify when it is read: an RSA key to the RSA algorithms, a key on
//! P-256 to ES256, and so on; and to one of them, if it says which. Shared secrets (`oct`) are no
//! keys here, so that no public key can ever be taken for one. What the tokens' own header asks for
//! is only followed within that.
//!
//! A key that cannot be used is skipped, and the others count (RFC 7517, section 5): one odd key must not
//! keep a whole set out, or a key that was withdrawn would be believed for as long as the odd one is there.
//!
//! Tokens are taken apart by the crate `jsonwebtoken`; signatures are verified with ring, which it
//! is told to use ([`PROVIDER`]).

use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::signature::Verifier;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Validation, decode, decode_header,
    signature,
};
use portolan_config::document::TokenAlgorithm;
use portolan_config::plan::JwtPlan;
use ring::signature as ring_signature;
use serde_json::{Map, Value};

use crate::error::{BundleError, unreadable};

/// The largest set of keys that is read, in bytes.
pub const LARGEST_SET: usize = 1 << 20;

/// The most keys of a set that are used.
const MOST_KEYS: usize = 100;

/// Base64url with or without padding, and with bits behind the end that should be none: some who
/// publish keys do not know better.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The longest token that is looked at.
const LONGEST_TOKEN: usize = 16 << 10;

/// Keys that are tried for a token that does not name one.
const MOST_TRIED: usize = 8;

/// What a token says.
pub type Claims = Map<String, Value>;

/// Keys that verify tokens.
#[derive(Debug)]
pub struct TokenKeys {
    keys: Vec<VerifyingKey>,
    /// Keys of other kinds, or for other purposes.
    ignored: usize,
    /// What is wrong with keys that should verify tokens.
    faults: Vec<KeyFault>,
    digest: [u8; 32],
}

#[derive(Debug)]
struct VerifyingKey {
    id: Option<String>,
    kind: Kind,
    /// The one algorithm that it is for, if it says so.
    only: Option<Algorithm>,
    key: DecodingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    /// Whether a key of this kind makes signatures like this.
    fn fits(self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => self == Self::Rsa,
            Algorithm::ES256 => self == Self::P256,
            Algorithm::ES384 => self == Self::P384,
            Algorithm::EdDSA => self == Self::Ed25519,
            _ => false,
        }
    }
}

/// What is wrong with a key of a set. It holds nothing of the key, which may be a private one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFault {
    /// Which one, from 1.
    pub number: usize,
    /// What is wrong.
    pub why: &'static str,
    /// Whether it is used all the same.
    pub used: bool,
}

impl std::fmt::Display for KeyFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { number, why, used } = self;
        match used {
            true => write!(f, "key {number} {why}"),
            false => write!(f, "key {number} is left out: {why}"),
        }
    }
}

/// What became of a key.
enum Read {
    /// It verifies tokens; and what should be said about it.
    Key(VerifyingKey, Option<&'static str>),
    /// It is none that verifies tokens.
    Other,
    /// It should verify tokens, and cannot.
    Broken(&'static str),
}

/// Why a text is no set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is no JSON.
    #[error("it is not a JSON Web Key Set: {0}")]
    Malformed(String),
    /// It is too large.
    #[error("it has more than {0}")]
    TooLarge(&'static str),
    /// It is a set, and none of its keys can verify a token.
    #[error("none of its {} keys can verify a token{}", .0, first(.1))]
    NoneFit(usize, Vec<KeyFault>),
}

impl KeysError {
    /// Whether it is a whole set of keys, and none of those of before is in it: they were withdrawn. A set
    /// of nothing is more often a mistake.
    pub fn withdraws(&self) -> bool {
        matches!(self, Self::NoneFit(count, _) if *count > 0)
    }
}

/// The first of what is wrong, as the end of a sentence.
fn first(faults: &[KeyFault]) -> String {
    let first = faults.first().map(|fault| format!("; {fault}"));
    first.unwrap_or_default()
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It is no token.
    Malformed,
    /// It is longer than any token is.
    TooLong,
    /// It is signed in a way that is not allowed, or not at all.
    Algorithm,
    /// It is signed with a key that is not known.
    UnknownKey,
    /// Its signature does not hold.
    Signature,
    /// It is over.
    Expired,
    /// It is not valid yet.
    NotYet,
    /// Somebody else issued it.
    Issuer,
    /// It is for somebody else.
    Audience,
}

impl Doubt {
    /// In words, for whoever sent it: what can be said in a quoted string.
    pub fn words(self) -> &'static str {
        match self {
            Self::Malformed => "the token is malformed",
            Self::TooLong => "the token is too long",
            Self::Algorithm => "the token is not signed in a way that is allowed",
            Self::UnknownKey => "the token is signed with a key that is not known",
            Self::Signature => "the signature of the token does not hold",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Issuer => "the token was issued by somebody else",
            Self::Audience => "the token is for somebody else",
        }
    }
}

impl TokenKeys {
    /// Reads a set of keys. Keys of other kinds and for other purposes are left alone, and so is a key
    /// that should verify tokens and cannot: the others count.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parse(text: &[u8]) -> Result<Self, KeysError> {
        if text.len() > LARGEST_SET {
            return Err(KeysError::TooLarge("1 MiB"));
        }
        let malformed =
            |error: serde_json::Error| KeysError::Malformed(crate::shown::no_json(&error));
        let set: Value = serde_json::from_slice(text).map_err(malformed)?;
        let Some(entries) = set.get("keys").and_then(Value::as_array) else {
            return Err(KeysError::Malformed("it has no list of `keys`".to_owned()));
        };
        if entries.len() > MOST_KEYS {
            return Err(KeysError::TooLarge("100 keys"));
        }
        let mut keys: Vec<VerifyingKey> = Vec::new();
        let mut faults = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let (why, used) = match VerifyingKey::read(entry) {
                Read::Key(key, why) => {
                    keys.push(key);
                    (why, true)
                }
                Read::Other => (None, false),
                Read::Broken(why) => (Some(why), false),
            };
            faults.extend(why.map(|why| KeyFault {
                number: at + 1,
                why,
                used,
            }));
        }
        if keys.is_empty() {
            return Err(KeysError::NoneFit(entries.len(), faults));
        }
        let broken = faults.iter().filter(|fault| !fault.used).count();
        Ok(Self {
            ignored: entries.len() - keys.len() - broken,
            keys,
            faults,
            digest: crate::digest::digest(text),
        })
    }

    /// No keys at all: those of before were withdrawn, and there are none that can be used instead.
    pub fn none() -> Self {
        Self {
            keys: Vec::new(),
            ignored: 0,
            faults: Vec::new(),
            digest: [0; 32],
        }
    }

    /// Reads a file of keys.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        Self::read_file(path).map_err(|(error, _)| error)
    }

    /// The same; and whether the file is a set of keys none of which can be used.
    pub(crate) fn read_file(path: &Path) -> Result<Self, (BundleError, bool)> {
        let text = portolan_config::read_bytes(path, LARGEST_SET as u64)
            .map_err(|error| (unreadable(path, &error), false))?;
        Self::parse(&text).map_err(|error| {
            let none_fit = error.withdraws();
            let error = BundleError::Unusable {
                path: path.display().to_string(),
                what: "keys of tokens",
                error: error.to_string(),
            };
            (error, none_fit)
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// How many are left alone.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// What is wrong with keys that should verify tokens.
    pub fn faults(&self) -> &[KeyFault] {
        &self.faults
    }

    /// Whether both were read from the same text.
    pub fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// What a token says, if it is to be believed at `now`, since 1970.
    ///
    /// # Errors
    /// Why it is not.
    pub fn believe(
        &self,
        token: &str,
        policy: &TokenPolicy,
        now: Duration,
    ) -> Result<Claims, Doubt> {
        if token.len() > LONGEST_TOKEN {
            return Err(Doubt::TooLong);
        }
        let header = decode_header(token).map_err(|error| doubt(&error))?;
        // What must be understood and is not (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(Doubt::Malformed);
        }
        let validation = policy.validation(header.alg).ok_or(Doubt::Algorithm)?;
        let fit = |key: &&VerifyingKey| {
            key.kind.fits(header.alg) && key.only.is_none_or(|only| only == header.alg)
        };
        let named = header.kid.as_deref();
        let is_named = |key: &&VerifyingKey| named.is_some() && key.id.as_deref() == named;
        let any = |key: &&VerifyingKey| named.is_none() || key.id.is_none();
        let mut last = Doubt::UnknownKey;
        for key in self
            .keys
            .iter()
            .filter(is_named)
            .filter(fit)
            .take(MOST_TRIED)
        {
            match verify(token, key, validation) {
                Ok(claims) => return policy.in_time(claims, now),
                Err(doubt) => last = doubt,
            }
        }
        if last != Doubt::UnknownKey {
            return Err(last);
        }
        let others = self.keys.iter().filter(any).filter(fit);
        for key in others.take(MOST_TRIED) {
            match verify(token, key, validation) {
                Ok(claims) => return policy.in_time(claims, now),
                // It may be another one that is not known.
                Err(Doubt::Signature) => {}
                Err(doubt) => return Err(doubt),
            }
        }
        Err(Doubt::UnknownKey)
    }
}

fn verify(token: &str, key: &VerifyingKey, validation: &Validation) -> Result<Claims, Doubt> {
    LazyLock::force(&INSTALLED);
    let decoded = decode::<Claims>(token, &key.key, validation);
    decoded
        .map(|data| data.claims)
        .map_err(|error| doubt(&error))
}

/// The crate's error, as what is wrong with the token.
fn doubt(error: &JwtError) -> Doubt {
    match error.kind() {
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::MissingAlgorithm
        | ErrorKind::UnsupportedAlgorithm => Doubt::Algorithm,
        ErrorKind::InvalidSignature => Doubt::Signature,
        ErrorKind::InvalidIssuer => Doubt::Issuer,
        ErrorKind::InvalidAudience => Doubt::Audience,
        ErrorKind::ExpiredSignature => Doubt::Expired,
        ErrorKind::ImmatureSignature => Doubt::NotYet,
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "iss" => Doubt::Issuer,
            "aud" => Doubt::Audience,
            _ => Doubt::Malformed,
        },
        _ => Doubt::Malformed,
    }
}

/// What a route asks of tokens.
#[derive(Debug)]
pub struct TokenPolicy {
    /// One for each family of algorithms: a key is good for one of them.
    validations: Vec<Validation>,
    leeway: Duration,
}

impl TokenPolicy {
    /// As configured.
    pub fn new(plan: &JwtPlan) -> Self {
        let allowed: Vec<Algorithm> = plan.algorithms.iter().map(|it| algorithm(*it)).collect();
        let texts = |texts: &[std::sync::Arc<str>]| -> Option<HashSet<String>> {
            (!texts.is_empty()).then(|| texts.iter().map(ToString::to_string).collect())
        };
        let families = [
            AlgorithmFamily::Rsa,
            AlgorithmFamily::Ec,
            AlgorithmFamily::Ed,
        ];
        let validations = families.into_iter().filter_map(|family| {
            let mut validation = Validation::new_for_family(family);
            validation.algorithms.retain(|it| allowed.contains(it));
            validation.iss = texts(&plan.issuers);
            validation.aud = texts(&plan.audiences);
            validation.validate_aud = validation.aud.is_some();
            // By the clock that everything else goes by.
            validation.validate_exp = false;
            validation.validate_nbf = false;
            let required = [
                (true, "exp"),
                (validation.iss.is_some(), "iss"),
                (validation.aud.is_some(), "aud"),
            ];
            let required = required.into_iter().filter(|(needed, _)| *needed);
            validation.required_spec_claims = required.map(|(_, name)| name.to_owned()).collect();
            (!validation.algorithms.is_empty()).then_some(validation)
        });
        Self {
            validations: validations.collect(),
            leeway: plan.leeway,
        }
    }

    fn validation(&self, algorithm: Algorithm) -> Option<&Validation> {
        let mut validations = self.validations.iter();
        validations.find(|validation| validation.algorithms.contains(&algorithm))
    }

    /// Whether this is the time of a token.
    fn in_time(&self, claims: Claims, now: Duration) -> Result<Claims, Doubt> {
        let now = now.as_secs_f64();
        let leeway = self.leeway.as_secs_f64();
        let ends = claims.get("exp").and_then(Value::as_f64);
        let ends = ends.ok_or(Doubt::Malformed)?;
        if ends + leeway <= now {
            return Err(Doubt::Expired);
        }
        if let Some(begins) = claims.get("nbf") {
            let begins = begins.as_f64().ok_or(Doubt::Malformed)?;
            if begins - leeway > now {
                return Err(Doubt::NotYet);
            }
        }
        Ok(claims)
    }
}

fn algorithm(written: TokenAlgorithm) -> Algorithm {
    match written {
        TokenAlgorithm::Rs256 => Algorithm::RS256,
        TokenAlgorithm::Rs384 => Algorithm::RS384,
        TokenAlgorithm::Rs512 => Algorithm::RS512,
        TokenAlgorithm::Ps256 => Algorithm::PS256,
        TokenAlgorithm::Ps384 => Algorithm::PS384,
        TokenAlgorithm::Ps512 => Algorithm::PS512,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::Es384 => Algorithm::ES384,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}

impl VerifyingKey {
    /// Reads a key. What is not known is passed over: `x5c`, `x5t`, whatever there will be.
    fn read(entry: &Value) -> Read {
        let Some(members) = entry.as_object() else {
            return Read::Broken("it is not an object");
        };
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        // A shared secret, or a kind that is not known here.
        let known = match text("kty") {
            Some(known @ ("RSA" | "EC" | "OKP")) => known,
            Some(_) => return Read::Other,
            None => return Read::Broken("it has no `kty`, which says of what kind it is"),
        };
        if is_for_something_else(members) {
            return Read::Other;
        }
        let read = match (known, text("crv")) {
            ("RSA", _) => rsa(text("n"), text("e")),
            ("EC", Some("P-256")) => point(Kind::P256, 32, text("x"), text("y")),
            ("EC", Some("P-384")) => point(Kind::P384, 48, text("x"), text("y")),
            ("OKP", Some("Ed25519")) => edwards(text("x")),
            // A curve that nobody here can verify with.
            (_, Some(_)) => return Read::Other,
            (_, None) => Err("it has no `crv`, which says on what curve it is"),
        };
        let (kind, key) = match read {
            Ok(read) => read,
            Err(why) => return Read::Broken(why),
        };
        let only = match members.get("alg") {
            None | Some(Value::Null) => None,
            Some(named) => match named.as_str().and_then(signing) {
                Some(only) if kind.fits(only) => Some(only),
                // For something else than signatures, or in a way that is not known here.
                _ => return Read::Other,
            },
        };
        let private = members.contains_key("d");
        let key = Self {
            id: text("kid").map(str::to_owned),
            kind,
            only,
            key,
        };
        Read::Key(
            key,
            private
                .then_some("has its private part beside it: whoever can read it can sign tokens"),
        )
    }
}

/// Whether a key says that it is for something else than verifying signatures.
fn is_for_something_else(members: &Map<String, Value>) -> bool {
    let usage = members.get("use").and_then(Value::as_str);
    let operations = members.get("key_ops").and_then(Value::as_array);
    usage.is_some_and(|usage| usage != "sig")
        // The private key signs, and verifies.
        || operations.is_some_and(|all| !all.iter().any(|one| one == "verify" || one == "sign"))
}

/// A member as bytes, without zeros in front: a number.
fn number(text: Option<&str>) -> Option<Vec<u8>> {
    let bytes = bytes(text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes[zeros..].to_vec())
}

/// A member as bytes.
fn bytes(text: Option<&str>) -> Option<Vec<u8>> {
    // Some write the other alphabet.
    BASE64
        .decode(text?.replace('+', "-").replace('/', "_"))
        .ok()
}

/// An RSA key.
fn rsa(n: Option<&str>, e: Option<&str>) -> Result<(Kind, DecodingKey), &'static str> {
    let n = number(n).ok_or("its `n` is missing, or is no base64url")?;
    let e = number(e).ok_or("its `e` is missing, or is no base64url")?;
    let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
    // What ring verifies with.
    if !(2048..=8192).contains(&bits) {
        return Err("an RSA key has 2048 to 8192 bits");
    }
    let odd = e.last().is_some_and(|byte| byte % 2 == 1);
    if !odd || e.len() > 4 || e == [1] {
        return Err("its exponent `e` is none that RSA has");
    }
    Ok((Kind::Rsa, DecodingKey::from_rsa_raw_components(&n, &e)))
}

/// A point on a curve whose coordinates have so many bytes.
fn point(
    kind: Kind,
    size: usize,
    x: Option<&str>,
    y: Option<&str>,
) -> Result<(Kind, DecodingKey), &'static str> {
    // Uncompressed (SEC 1, section 2.3.3).
    let mut point = vec![4];
    for coordinate in [number(x), number(y)] {
        let coordinate = coordinate.ok_or("its `x` or `y` is missing, or is no base64url")?;
        let zeros = size.checked_sub(coordinate.len());
        let zeros = zeros.ok_or("its point has not the size of its curve")?;
        point.resize(point.len() + zeros, 0);
        point.extend(coordinate);
    }
    Ok((kind, DecodingKey::from_ec_der(&point)))
}

/// An Ed25519 key.
fn edwards(x: Option<&str>) -> Result<(Kind, DecodingKey), &'static str> {
    let x = bytes(x).ok_or("its `x` is missing, or is no base64url")?;
    if x.len() != 32 {
        return Err("an Ed25519 key has 32 bytes");
    }
    Ok((Kind::Ed25519, DecodingKey::from_ed_der(&x)))
}

/// The algorithm of this name, if it makes signatures.
fn signing(name: &str) -> Option<Algorithm> {
    // RFC 9864: with the curve in the name.
    let name = if name == "Ed25519" { "EdDSA" } else { name };
    name.parse().ok()
}

// === The provider of cryptography ===

/// Verifies with ring, and signs nothing.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| {
        let verifier = RingVerifier::new(*algorithm, key)?;
        Ok(Box::new(verifier))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Told once to the crate that takes tokens apart.
static INSTALLED: LazyLock<()> = LazyLock::new(|| {
    // Nobody else in this process tells it.
    let _ = PROVIDER.install_default();
});

struct RingVerifier {
    algorithm: Algorithm,
    key: RingKey,
}

enum RingKey {
    Rsa {
        parameters: &'static ring_signature::RsaParameters,
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Point {
        parameters: &'static dyn ring_signature::VerificationAlgorithm,
        point: Vec<u8>,
    },
}

impl RingVerifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self, JwtError> {
        let rsa = |parameters| match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => Ok(RingKey::Rsa {
                parameters,
                n: n.clone(),
                e: e.clone(),
            }),
            DecodingKeyKind::SecretOrDer(_) => Err(JwtError::from(ErrorKind::InvalidKeyFormat)),
        };
        let point = |family: AlgorithmFamily, parameters| {
            if key.family() != family {
                return Err(JwtError::from(ErrorKind::InvalidKeyFormat));
            }
            let point = key.try_get_as_bytes()?.to_vec();
            Ok(RingKey::Point { parameters, point })
        };
        let key = match algorithm {
            Algorithm::RS256 => rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA256)?,
            Algorithm::RS384 => rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA384)?,
            Algorithm::RS512 => rsa(&ring_signature::RSA_PKCS1_2048_8192_SHA512)?,
            Algorithm::PS256 => rsa(&ring_signature::RSA_PSS_2048_8192_SHA256)?,
            Algorithm::PS384 => rsa(&ring_signature::RSA_PSS_2048_8192_SHA384)?,
            Algorithm::PS512 => rsa(&ring_signature::RSA_PSS_2048_8192_SHA512)?,
            Algorithm::ES256 => point(
                AlgorithmFamily::Ec,
                &ring_signature::ECDSA_P256_SHA256_FIXED,
            )?,
            Algorithm::ES384 => point(
                AlgorithmFamily::Ec,
                &ring_signature::ECDSA_P384_SHA384_FIXED,
            )?,
            Algorithm::EdDSA => point(AlgorithmFamily::Ed, &ring_signature::ED25519)?,
            // Shared secrets, and whatever else there will be.
            _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
        };
        Ok(Self { algorithm, key })
    }
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match &self.key {
            RingKey::Rsa { parameters, n, e } => {
                let key = ring_signature::RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature)
            }
            RingKey::Point { parameters, point } => {
                ring_signature::UnparsedPublicKey::new(*parameters, point)
                    .verify(message, signature)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
pub(crate) mod tests;
