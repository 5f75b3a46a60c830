//! Names and passwords (RFC 7617), and who is believed.
//!
//! A password's hash takes long to check, on purpose: tens of milliseconds on a core, and megabytes.
//! So it is checked away from the threads that serve ([`Basic::check`] is for a thread that may
//! wait), only a few at a time, and a password that was right once is known again by a code that only
//! this process can make ([`Basic::recall`]). Each user has one such code, so there is nothing that
//! could grow, and nothing to lock.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::header;
use portolan_config::document::{HashKind, PasswordHash};
use portolan_config::fields::Fields;
use portolan_config::plan::BasicPlan;
use ring::hmac;
use ring::rand::SystemRandom;
use subtle::ConstantTimeEq as _;

/// With or without padding: clients differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longer names and passwords are nobody's.
const LONGEST: usize = 1024;

/// As much of a password as bcrypt looks at.
const BCRYPT_BYTES: usize = 72;

/// What somebody says who they are.
#[derive(Clone)]
pub struct Credentials {
    name: String,
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?}, •••)", self.name)
    }
}

impl Credentials {
    /// What a request's Authorization says; nothing if it says nothing of this kind, or two things.
    pub fn of(headers: &Fields) -> Option<Self> {
        let mut lines = headers.get_all(header::AUTHORIZATION);
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return None;
        };
        let (scheme, rest) = line.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let rest = rest.trim_start_matches(' ');
        if rest.len() > LONGEST * 2 {
            return None;
        }
        let text = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        Some(Self {
            name: name.to_owned(),
            password: password.to_owned(),
        })
    }

    /// Who they say they are.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The users of a route.
#[derive(Debug)]
pub struct Basic {
    /// As configured.
    pub plan: BasicPlan,
    users: HashMap<Arc<str>, User>,
    /// Makes the codes by which passwords are known again.
    key: hmac::Key,
    /// Checked for those who are nobody, so that it takes as long as for somebody.
    decoy: Option<PasswordHash>,
}

#[derive(Debug)]
struct User {
    hash: PasswordHash,
    /// The code of the password that was right.
    known: OnceLock<[u8; 32]>,
}

impl Basic {
    /// The users of a plan, none of whom has come yet. Nothing if the system has no randomness.
    pub fn new(plan: BasicPlan) -> Option<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        let users = plan.users.iter().map(|(name, hash)| {
            let user = User {
                hash: hash.clone(),
                known: OnceLock::new(),
            };
            (name.clone(), user)
        });
        Some(Self {
            users: users.collect(),
            key,
            decoy: plan.users.first().map(|(_, hash)| hash.clone()),
            plan,
        })
    }

    /// Whether this password was right before.
    pub fn recall(&self, credentials: &Credentials) -> bool {
        let known = self
            .users
            .get(&*credentials.name)
            .and_then(|user| user.known.get());
        known.is_some_and(|known| known.ct_eq(&self.code(credentials)).into())
    }

    /// Whether this password is right. Takes long.
    pub fn check(&self, credentials: &Credentials) -> bool {
        let user = self.users.get(&*credentials.name);
        let Some(hash) = user.map(|user| &user.hash).or(self.decoy.as_ref()) else {
            return false;
        };
        let right = credentials.password.len() <= LONGEST && matches(&credentials.password, hash);
        match user {
            Some(user) if right => {
                user.known.get_or_init(|| self.code(credentials));
                true
            }
            _ => false,
        }
    }

    fn code(&self, credentials: &Credentials) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        // The name has no colon: nobody else's name and password make the same text.
        context.update(credentials.name.as_bytes());
        context.update(b":");
        context.update(credentials.password.as_bytes());
        let mut code = [0; 32];
        code.copy_from_slice(context.sign().as_ref());
        code
    }
}

fn matches(password: &str, hash: &PasswordHash) -> bool {
    match hash.kind() {
        // bcrypt looks at 72 bytes alone: a longer password is one that was never hashed as a whole.
        HashKind::Bcrypt => {
            password.len() <= BCRYPT_BYTES
                && bcrypt::verify(password, hash.expose()).unwrap_or(false)
        }
        HashKind::Argon2 => {
            use argon2::PasswordVerifier as _;
            argon2::Argon2::default()
                .verify_password(password.as_bytes(), hash.expose())
                .is_ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::scalar::FromScalar as _;

    fn basic(password: &str) -> Basic {
        let hash = bcrypt::non_truncating_hash(password, 4).unwrap();
        let plan = BasicPlan {
            users: vec![("alice".into(), PasswordHash::parse(&hash).unwrap())],
            challenge: http::HeaderValue::from_static("Basic"),
        };
        Basic::new(plan).unwrap()
    }

    fn credentials(name: &str, password: &str) -> Credentials {
        Credentials {
            name: name.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn a_password_is_checked_once_and_known_afterwards() {
        let basic = basic("open sesame");
        let right = credentials("alice", "open sesame");
        assert!(!basic.recall(&right), "not yet");
        for wrong in [
            credentials("alice", "open"),
            credentials("alice", ""),
            credentials("bob", "open sesame"),
            credentials("alice", &"open sesame".repeat(200)),
        ] {
            assert!(!basic.check(&wrong) && !basic.recall(&wrong), "{wrong:?}");
        }
        assert!(!basic.recall(&right), "nothing wrong is kept");
        assert!(basic.check(&right) && basic.recall(&right));
        assert!(!basic.recall(&credentials("alice", "open sesame!")));
        assert_eq!(format!("{right:?}"), "Credentials(\"alice\", •••)");
    }

    #[test]
    fn a_password_may_be_as_long_as_bcrypt_looks_at() {
        let whole = "0123456789abcdef".repeat(5)[..72].to_owned();
        let hash = PasswordHash::parse(&bcrypt::hash(&whole, 4).unwrap()).unwrap();
        assert!(matches(&whole, &hash));
        assert!(!matches(&whole[..71], &hash));
        assert!(
            !matches(&format!("{whole}0"), &hash),
            "never hashed as a whole"
        );
        let shorter = bcrypt::hash(&whole[..71], 4).unwrap();
        let shorter = PasswordHash::parse(&shorter).unwrap();
        assert!(matches(&whole[..71], &shorter) && !matches(&whole, &shorter));
    }

    #[test]
    fn argon2_is_checked_with_the_parameters_of_the_hash() {
        let text = argon2_of("open sesame");
        let hash = PasswordHash::parse(&text).unwrap();
        assert!(matches("open sesame", &hash));
        assert!(!matches("open", &hash));
    }

    fn argon2_of(password: &str) -> String {
        use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version};
        let params = Params::new(64, 2, 1, None).unwrap();
        let hash: argon2::PasswordHash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_with_salt(password.as_bytes(), b"saltsaltsalt")
            .unwrap();
        hash.to_string()
    }

    #[test]
    fn only_one_plain_word_counts() {
        let of = |lines: &[&str]| {
            let mut headers = Fields::new();
            for line in lines {
                headers.append(header::AUTHORIZATION, line.parse().unwrap());
            }
            Credentials::of(&headers).map(|said| (said.name, said.password))
        };
        let said = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        // The example of RFC 7617.
        let aladdin = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(of(&[aladdin]), said("Aladdin", "open sesame"));
        assert_eq!(of(&["basic dGVzdDoxMjPCow=="]), said("test", "123£"));
        assert_eq!(of(&["Basic YTpiOmM="]), said("a", "b:c"));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[aladdin, aladdin]), None);
        for bad in [
            "Basic",
            "Basic !",
            "Basic YQ==",
            "Basic Y",
            "Bearer QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "Basic /w==",
        ] {
            assert_eq!(of(&[bad]), None, "{bad}");
        }
    }
}
