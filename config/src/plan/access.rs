//! Who may come, and how often.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::classes::Networks;
use super::location::{ClientSet, LocationId, LocationTable};

/// Who may come.
#[derive(Clone, Debug)]
pub struct AccessPlan {
    /// Everybody else is refused; without it, nobody is for that.
    pub allow: Option<ClientMatcher>,
    /// These are refused.
    pub deny: Option<ClientMatcher>,
    /// What must be known about a client.
    pub needs: ClientFacts,
    /// The places that the sets are made of.
    pub locations: Arc<LocationTable>,
}

/// The places are those of the configuration, and say nothing of their own.
impl PartialEq for AccessPlan {
    fn eq(&self, other: &Self) -> bool {
        self.allow == other.allow && self.deny == other.deny
    }
}

/// Why somebody may not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied<'a> {
    /// `deny` names them, in these words.
    Named(&'a str),
    /// `allow` does not name them; it names these.
    NotNamed(&'a str),
}

impl AccessPlan {
    /// The rules of these sets, if there are any.
    pub(crate) fn new(
        allow: Option<ClientSet>,
        deny: Option<ClientSet>,
        locations: &Arc<LocationTable>,
    ) -> Option<Self> {
        if allow.is_none() && deny.is_none() {
            return None;
        }
        let mut needs = ClientFacts::default();
        for set in allow.iter().chain(&deny) {
            needs.place |= !set.locations.is_empty();
            needs.system |= !set.systems.is_empty();
        }
        Some(Self {
            allow: allow.map(ClientMatcher::new),
            deny: deny.map(ClientMatcher::new),
            needs,
            locations: locations.clone(),
        })
    }

    /// Whether somebody may come, of whom this is known. What is not known is in no set.
    ///
    /// # Errors
    /// Why not.
    pub fn check(
        &self,
        address: Option<IpAddr>,
        place: LocationId,
        system: Option<u32>,
    ) -> Result<(), Denied<'_>> {
        let is_in = |set: &ClientMatcher| set.contains(address, place, system);
        if let Some(deny) = self.deny.as_ref().filter(|set| is_in(set)) {
            return Err(Denied::Named(&deny.set.words));
        }
        match &self.allow {
            Some(allow) if !is_in(allow) => Err(Denied::NotNamed(&allow.set.words)),
            _ => Ok(()),
        }
    }
}

/// A set of clients, prepared for single questions: lists of a hundred thousand networks cost no
/// more than one.
#[derive(Clone, Debug)]
pub struct ClientMatcher {
    set: ClientSet,
    networks: Networks,
}

impl PartialEq for ClientMatcher {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
    }
}

impl ClientMatcher {
    fn new(set: ClientSet) -> Self {
        let networks = Networks::new(set.networks.iter().map(|net| (*net, 1)));
        Self { set, networks }
    }

    /// Whether a client is in it.
    pub fn contains(
        &self,
        address: Option<IpAddr>,
        place: LocationId,
        system: Option<u32>,
    ) -> bool {
        address.is_some_and(|address| self.networks.group(address) != 0)
            || self.set.locations.contains(place.index())
            || system.is_some_and(|asn| self.set.systems.binary_search(&asn).is_ok())
    }
}

/// How often one client may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitPlan {
    /// What it is called: its identity within its route, across plans.
    pub name: Arc<str>,
    /// Tokens that come back within [`Self::per`].
    pub requests: u32,
    /// The time in which they come back.
    pub per: Duration,
    /// Tokens in a full bucket.
    pub burst: u32,
    /// What tells clients apart.
    pub on: LimitKeyPlan,
    /// Tell clients in every answer.
    pub headers: bool,
    /// How many clients are kept apart at the same time.
    pub clients: usize,
}

/// What tells the clients of a limit apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKeyPlan {
    /// The address; IPv6 by /64.
    ClientIp,
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(Arc<str>),
    /// A claim of the token that was believed.
    JwtClaim(Arc<str>),
}

impl LimitKeyPlan {
    /// Whether it can only be known when somebody has proved who they are.
    pub fn needs_proof(&self) -> bool {
        matches!(self, Self::JwtClaim(_))
    }
}

/// What must be known about a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// Its place.
    pub place: bool,
    /// Its autonomous system.
    pub system: bool,
    /// Its coordinates.
    pub coordinates: bool,
}
