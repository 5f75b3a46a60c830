//! Who somebody is: what a route asks before it lets a request through.

use http::HeaderName;
use schemars::{Schema, json_schema};

use super::forward_auth::ForwardAuth;
use super::token::JwtAuth;
use crate::decode::{Secret, document};
use crate::document::values::Realm;
use crate::scalar::{FromScalar, LeafError};
use crate::source::At;

document! {
    /// Who may use a route, by what they can prove, in one of three ways. Whoever cannot gets 401.
    pub struct Auth as "`auth`" {
        /// Names and passwords (RFC 7617).
        pub basic: Option<BasicAuth>,
        /// Tokens that an issuer has signed.
        pub jwt: Option<JwtAuth>,
        /// A service of your own that is asked about every request.
        pub forward_auth: Option<ForwardAuth>,
        /// The header in which endpoints get the user's name (of a token: its `sub`). What clients
        /// send under it is taken off.
        pub user_header: Option<At<HeaderName>>,
        /// Send on to endpoints what it was proved by: the request's Authorization, or the header or
        /// the cookie in which its token stood. By default it ends here.
        pub forward_authorization: At<bool> = "false",
    }
}

document! {
    /// Names and passwords. Of passwords only hashes are kept, by bcrypt or Argon2, as `htpasswd -B`
    /// and `argon2` make them.
    pub struct BasicAuth as "`basic`" {
        /// Who is known.
        pub users: Vec<BasicUser>,
        /// More of them, a line `name:hash` for each; meant for a file: `${file:users.htpasswd}`.
        pub htpasswd: Option<At<Secret>>,
        /// What browsers show when they ask for the password.
        pub realm: At<Realm> = "restricted",
    }
}

document! {
    /// Somebody who is known.
    pub struct BasicUser as "a user" {
        /// The name.
        pub name: At<UserName>,
        /// The hash of the password.
        pub password: At<PasswordHash>,
    }
}

/// The name of a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserName(String);

impl UserName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromScalar for UserName {
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        if text.is_empty() || text.contains(':') || text.chars().any(char::is_control) {
            return Err(LeafError::bad("is not a user's name").help("it cannot have a colon"));
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "pattern": "^[^:]+$" })
    }
}

/// The hash of a password, as it is written in files of passwords. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

/// How a password was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashKind {
    /// bcrypt.
    Bcrypt,
    /// Argon2 in one of its variants.
    Argon2,
}

/// More rounds than these take bcrypt seconds for each password.
const MOST_ROUNDS: u32 = 16;

/// More memory than this for each password is a way to be overwhelmed, in KiB.
const MOST_MEMORY: u32 = 256 << 10;

impl PasswordHash {
    /// The text itself: for comparing, never for showing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// How it was made.
    pub fn kind(&self) -> HashKind {
        if self.0.starts_with("$argon2") {
            HashKind::Argon2
        } else {
            HashKind::Bcrypt
        }
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("•••")
    }
}

impl FromScalar for PasswordHash {
    const SECRET: bool = true;
    const TEXT: bool = true;

    fn parse(text: &str) -> Result<Self, LeafError> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('$').collect();
        match *parts.as_slice() {
            ["", "2a" | "2b" | "2y", rounds, rest] => {
                let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'/');
                let rounds: Option<u32> = rounds.parse().ok().filter(|_| rounds.len() == 2);
                if rest.len() != 53 || !rest.bytes().all(alphabet) || rounds.is_none() {
                    return Err(LeafError::bad("is not a whole bcrypt hash"));
                }
                if rounds.is_some_and(|rounds| !(4..=MOST_ROUNDS).contains(&rounds)) {
                    return Err(LeafError::bad(format!(
                        "was made with other than 4 to {MOST_ROUNDS} rounds"
                    )));
                }
            }
            [
                "",
                "argon2i" | "argon2d" | "argon2id",
                "v=19",
                params,
                salt,
                hash,
            ] => {
                let number = |name: &str| {
                    let found = params.split(',').find_map(|p| p.strip_prefix(name));
                    found.and_then(|text| text.parse::<u32>().ok())
                };
                let base64 = |text: &str| {
                    text.len() >= 11
                        && text
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
                };
                let (Some(memory), Some(time), Some(lanes)) =
                    (number("m="), number("t="), number("p="))
                else {
                    return Err(LeafError::bad("is not a whole Argon2 hash"));
                };
                if !base64(salt) || !base64(hash) || lanes == 0 || time == 0 || memory < 8 * lanes {
                    return Err(LeafError::bad("is not a whole Argon2 hash"));
                }
                if memory > MOST_MEMORY || time > 64 || lanes > 64 {
                    return Err(LeafError::bad("takes too much memory or time to check")
                        .help("at most m=262144, t=64 and p=64"));
                }
            }
            _ => {
                return Err(
                    LeafError::bad("is not a hash by bcrypt or Argon2").help(
                        "make one with `htpasswd -nB NAME`; passwords themselves, MD5 and SHA-1 are not taken",
                    ),
                );
            }
        }
        Ok(Self(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

/// The users of a text with a line `name:hash` for each; empty lines and those that begin with `#`
/// are none.
///
/// # Errors
/// The number of the first line that cannot be read, and why.
pub fn htpasswd(text: &str) -> Result<Vec<(UserName, PasswordHash)>, (usize, LeafError)> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at, line)| {
            let (name, hash) = line
                .split_once(':')
                .ok_or_else(|| (at, LeafError::bad("is not `name:hash`")))?;
            let name = UserName::parse(name).map_err(|error| (at, error))?;
            let hash = PasswordHash::parse(hash).map_err(|error| (at, error))?;
            Ok((name, hash))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2y$05$abcdefghijklmnopqrstuuJ6PmJwEX0h8nqZ9lX1H3Yw7Cw1m5q8K";
    const ARGON2: &str = "$argon2id$v=19$m=4096,t=3,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA";

    #[test]
    fn only_hashes_that_take_their_time_are_taken() {
        assert_eq!(
            PasswordHash::parse(BCRYPT).unwrap().kind(),
            HashKind::Bcrypt
        );
        assert_eq!(
            PasswordHash::parse(ARGON2).unwrap().kind(),
            HashKind::Argon2
        );
        for bad in [
            "secret",
            "",
            "$apr1$salt$hash",
            "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
            "$2y$05$short",
            "$2y$5$abcdefghijklmnopqrstuuJ6PmJwEX0h8nqZ9lX1H3Yw7Cw1m5q8K",
            "$2y$31$abcdefghijklmnopqrstuuJ6PmJwEX0h8nqZ9lX1H3Yw7Cw1m5q8K",
            "$argon2id$v=19$m=4194304,t=3,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA",
            "$argon2id$v=19$m=4096,t=3,p=0$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA",
            "$argon2id$v=19$t=3,p=1$c29tZXNhbHRzb21l$aGFzaGhhc2hoYXNoaGFzaA",
        ] {
            assert!(PasswordHash::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", PasswordHash::parse(BCRYPT).unwrap()), "•••");
    }

    #[test]
    fn files_of_passwords_are_read_line_by_line() {
        let text = format!("# staff\nalice:{BCRYPT}\n\n  bob:{ARGON2}  \n");
        let users = htpasswd(&text).unwrap();
        let names: Vec<&str> = users.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["alice", "bob"]);
        assert_eq!(htpasswd("alice").unwrap_err().0, 1);
        assert_eq!(htpasswd(&format!("a:{BCRYPT}\nb:plain")).unwrap_err().0, 2);
    }
}
