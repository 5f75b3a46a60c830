//! Affinity: what keeps a client at the pool and the endpoint that it had before.
//!
//! # By a key
//! A header's value or the client's address gives a number, and every pool and every endpoint bids
//! for it (weighted rendezvous hashing: Wang, Ravishankar, "Using Name-Based Mappings to Increase
//! Hit Rates"). The highest score wins, so the same key gives the same place in every process that runs
//! the same configuration with the same health, and nothing has to be remembered. A pool that dies
//! gives its clients to the others and has them back afterwards; a share that grows takes from the
//! others what it grew by. Nobody else moves.
//!
//! # By a cookie
//! The cookie names the endpoint itself, by a [`Tag`] that only Portolan can make. A new client gets
//! a pool from the route's sequence of draws, so that the shares of new clients are exact, and keeps
//! it while the pool has any share of such clients' traffic. Who has to move is drawn like a new
//! client, and stays where it was moved to.
//!
//! Browsers send all cookies of a name that fit, those of several paths and domains side by side, and in
//! an order that says nothing (RFC 6265, section 5.4): one that is out of date may stand before the one
//! that counts. So tags are looked for in all of them, and those that name nobody are passed over.
//!
//! Routes may share a cookie's name although they lead to different pools (browsers send it to all
//! of them): a cookie holds one tag for each, so that they do not push each other's out.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{fmt, io};

use portolan_certs::state_file;
use portolan_config::fields::Fields;
use portolan_config::plan::{AffinityPlan, Plan, PoolId, RoutePlan, WhenAllDownPlan};
use ring::hmac;
use ring::rand::SecureRandom as _;
use smallvec::SmallVec;

use crate::auth::cookie::{MOST_COOKIES, cookies};
use crate::decision::Decision;
use crate::pool::endpoint::{Endpoint, EndpointKey};
use crate::pool::rendezvous::{key, key_of_address, score, seed};
use crate::pool::view::PoolView;
use crate::snapshot::{ClassTables, Snapshot};
use crate::steering::{Basis, Table};

/// The most tags that a cookie holds: routes with pools of their own that share its name.
const MOST_TAGS: usize = 4;

/// Stands between the tags of a cookie.
const BETWEEN: u8 = b'.';

/// Whose score counts for the share that is refused.
const NOBODY: u64 = 0x5EED_0F0F_2C9A_7E31;

// === Who a client is ===

/// What ties a request to where its client was before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAffinity {
    /// Nothing: it may go anywhere.
    #[default]
    Free,
    /// A property of its client.
    Key(u64),
    /// The cookie it brought: where it may go on, the best place first. None for a new client.
    Places(SmallVec<[EndpointIndex; 1]>),
}

/// An endpoint, as a snapshot counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointIndex {
    /// Its pool.
    pub pool: PoolId,
    /// Its index there.
    pub endpoint: usize,
}

impl ClientAffinity {
    /// What ties a request of this route with these headers from this client. Cookies say something
    /// to those alone who know the secret.
    pub fn of<'s>(
        snapshot: &Snapshot,
        route: &RoutePlan,
        headers: &Fields,
        client: Option<IpAddr>,
        secret: impl FnOnce() -> Option<&'s Secret>,
    ) -> Self {
        match &route.affinity {
            None => Self::Free,
            Some(AffinityPlan::Header(name)) => headers
                .get(name)
                .filter(|value| !value.is_empty())
                .map_or(Self::Free, |value| Self::Key(key(value.as_bytes()))),
            Some(AffinityPlan::ClientIp) => {
                client.map_or(Self::Free, |address| Self::Key(key_of_address(address)))
            }
            Some(AffinityPlan::Cookie(name)) => {
                let given = tags(headers, name);
                if given.is_empty() {
                    return Self::Places(SmallVec::new());
                }
                let Some(secret) = secret() else {
                    return Self::Places(SmallVec::new());
                };
                let pools = &snapshot.plan.targets.node(route.target).pools;
                let places = given.iter().filter_map(|tag| {
                    pools
                        .iter()
                        .find_map(|pool| find(snapshot, *pool, *tag, secret))
                });
                Self::Places(places.collect())
            }
        }
    }

    /// What becomes of the request by its tie alone; nothing if it must be drawn.
    pub(crate) fn decide(
        &self,
        snapshot: &Snapshot,
        tables: &ClassTables,
        policy: WhenAllDownPlan,
    ) -> Option<Decision> {
        let table = match (&tables.when_all_down, policy) {
            (None, _) => &tables.main,
            (Some(rest), WhenAllDownPlan::TryAll) => rest,
            (Some(_), WhenAllDownPlan::Respond { .. }) => return None,
        };
        match self {
            Self::Free => None,
            Self::Key(key) => by_key(*key, snapshot, table),
            Self::Places(places) => {
                // Even if its endpoint cannot serve: its pool can.
                let place = places.iter().find(|place| table.share(place.pool) > 0.0)?;
                went_to(table, place.pool)
            }
        }
    }

    /// The endpoint of a pool that the request is tied to, if it can serve and is not excluded.
    pub fn endpoint(&self, view: &PoolView, basis: Basis, excluded: &[usize]) -> Option<usize> {
        match self {
            Self::Free => None,
            Self::Key(key) => view.owner(basis, *key, excluded),
            Self::Places(places) => places
                .iter()
                .filter(|place| place.pool == view.plan.id)
                .map(|place| place.endpoint)
                .find(|at| !excluded.contains(at) && view.serves(basis, *at)),
        }
    }
}

/// The pool that bids most for a key.
fn by_key(key: u64, snapshot: &Snapshot, table: &Table) -> Option<Decision> {
    if table.entries().is_empty() {
        return None;
    }
    let mut best: Option<(f64, Option<PoolId>)> = None;
    let mut offer = |score: f64, whose| {
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, whose));
        }
    };
    for entry in table.entries() {
        let name = &snapshot.pools[entry.pool.index()].plan.name;
        offer(
            score(key, seed(name.as_str().as_bytes()), entry.share),
            Some(entry.pool),
        );
    }
    // Rounding must not refuse anybody.
    if table.refused > 1e-9 {
        offer(score(key, NOBODY, table.refused), None);
    }
    match best?.1 {
        Some(pool) => went_to(table, pool),
        None => Some(Decision::Shed),
    }
}

fn went_to(table: &Table, pool: PoolId) -> Option<Decision> {
    let entry = table.entries().iter().find(|entry| entry.pool == pool)?;
    Some(Decision::Pool {
        pool,
        basis: table.basis,
        why: format!("affinity > {}", entry.why).into(),
    })
}

// === Cookies ===

/// An endpoint's name in cookies: says nothing to those who do not know the [`Secret`], and cannot be
/// made up by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u128);

impl Tag {
    fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != 32 {
            return None;
        }
        let number = text.iter().try_fold(0, |number: u128, byte| {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return None,
            };
            Some(number << 4 | u128::from(digit))
        });
        number.map(Self)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The tags that a request brings along; whatever else its cookies hold is nothing.
fn tags(headers: &Fields, name: &str) -> SmallVec<[Tag; MOST_TAGS]> {
    let mut tags = SmallVec::new();
    for value in cookies(headers, name).take(MOST_COOKIES) {
        let words = value.split(|byte| *byte == BETWEEN).take(MOST_TAGS);
        for tag in words.filter_map(Tag::parse) {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
    }
    tags
}

/// The endpoint of a pool that a tag names.
fn find(snapshot: &Snapshot, pool: PoolId, tag: Tag, secret: &Secret) -> Option<EndpointIndex> {
    let endpoints = &snapshot.pools[pool.index()].endpoints;
    let endpoint = endpoints
        .iter()
        .position(|endpoint| secret.tag(&endpoint.live) == tag)?;
    Some(EndpointIndex { pool, endpoint })
}

/// The value of the cookie that a client is to have from now on, after `served` has answered it;
/// nothing if it has that one already.
pub fn next_cookie(
    snapshot: &Snapshot,
    route: &RoutePlan,
    headers: &Fields,
    tie: &ClientAffinity,
    served: EndpointIndex,
    secret: &Secret,
) -> Option<String> {
    let (Some(AffinityPlan::Cookie(name)), ClientAffinity::Places(places)) = (&route.affinity, tie)
    else {
        return None;
    };
    if places.first() == Some(&served) {
        return None;
    }
    // What other routes made of the same cookie stays; what nobody goes by any more goes.
    let pools_of = |route: &RoutePlan| &snapshot.plan.targets.node(route.target).pools;
    let here = pools_of(route);
    let elsewhere = |tag: &Tag| {
        snapshot
            .plan
            .routes
            .iter()
            .filter(|other| other.affinity == route.affinity)
            .flat_map(pools_of)
            .any(|pool| !here.contains(pool) && find(snapshot, *pool, *tag, secret).is_some())
    };
    let others: SmallVec<[Tag; MOST_TAGS]> =
        tags(headers, name).into_iter().filter(elsewhere).collect();
    let live = &snapshot.pools[served.pool.index()].endpoints[served.endpoint].live;
    let mut value = String::new();
    for tag in &others[others.len().saturating_sub(MOST_TAGS - 1)..] {
        value.push_str(&tag.to_string());
        value.push(BETWEEN.into());
    }
    value.push_str(&secret.tag(live).to_string());
    Some(value)
}

// === The secret ===

/// What tags are made with.
pub struct Secret(hmac::Key);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The length of a secret, in bytes.
const SECRET_BYTES: usize = 32;

impl Secret {
    /// A secret of these bytes.
    pub fn new(bytes: &[u8; SECRET_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// An endpoint's tag: made once in its life.
    pub fn tag(&self, endpoint: &Endpoint) -> Tag {
        Tag(*endpoint.tag.get_or_init(|| self.number(&endpoint.key)))
    }

    fn number(&self, key: &EndpointKey) -> u128 {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"portolan endpoint\0");
        // No name contains it, so that no two endpoints say the same.
        context.update(key.pool.as_str().as_bytes());
        context.update(b"\0");
        context.update(key.address.to_string().as_bytes());
        let signed = context.sign();
        signed
            .as_ref()
            .iter()
            .take(16)
            .fold(0, |number, byte| number << 8 | u128::from(*byte))
    }
}

/// Keeps the secret in `state_dir`, so that cookies outlive the process. It is made when it is first
/// needed; instances that clients may change between are given the same file.
#[derive(Debug)]
pub struct AffinitySecret {
    folder: PathBuf,
    secret: OnceLock<Secret>,
}

const FILE: &str = "affinity.key";

impl AffinitySecret {
    /// A keeper that looks into this folder once it is asked.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            secret: OnceLock::new(),
        }
    }

    /// Has the secret before a request needs it, if a route of this plan does. It reads files, and may
    /// write one and wait for the disk: no thread that serves is to wait for that.
    pub fn prepare(&self, plan: &Plan) {
        let needs = |route: &RoutePlan| matches!(route.affinity, Some(AffinityPlan::Cookie(_)));
        if plan.routes.iter().any(needs) {
            self.secret();
        }
    }

    /// The secret.
    pub fn secret(&self) -> &Secret {
        self.secret.get_or_init(|| {
            let bytes = load_or_make(&self.folder).unwrap_or_else(|error| {
                tracing::warn!(
                    "cannot keep the secret of affinity cookies in {}: {error}; \
                     they hold until this process ends",
                    self.folder.join(FILE).display()
                );
                random_bytes()
            });
            Secret::new(&bytes)
        })
    }
}

fn random_bytes() -> [u8; SECRET_BYTES] {
    let mut bytes = [0; SECRET_BYTES];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system has randomness, or TLS would not have started either");
    bytes
}

fn load_or_make(folder: &Path) -> io::Result<[u8; SECRET_BYTES]> {
    let path = folder.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => return parse_secret(&text),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let bytes = random_bytes();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if state_file::create(&path, format!("{text}\n").as_bytes())? {
        return Ok(bytes);
    }
    // Another process was faster: its secret is everybody's.
    parse_secret(&std::fs::read_to_string(&path)?)
}

fn parse_secret(text: &str) -> io::Result<[u8; SECRET_BYTES]> {
    let text = text.trim().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = [0; SECRET_BYTES];
    let whole = text.len() == 2 * SECRET_BYTES
        && bytes.iter_mut().zip(text.chunks(2)).all(|(byte, pair)| {
            let number = digit(pair[0]).zip(digit(pair[1]));
            number.is_some_and(|(high, low)| {
                *byte = (high << 4 | low) as u8;
                true
            })
        });
    if whole {
        Ok(bytes)
    } else {
        Err(io::Error::other("it is not 64 hexadecimal digits"))
    }
}

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod tests;
