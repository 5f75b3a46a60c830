//! Tests that a configuration brings along.

use std::net::IpAddr;

use http::{HeaderName, Method};

use super::clients::{AutonomousSystem, CountryCode, Subdivision};
use crate::decode::collections::Entries;
use crate::decode::document;
use crate::source::At;
use crate::units::Percent;

document! {
    /// A request and where it must go, decided by the same code that serves. Run by `portolan
    /// check` and before every reload: a change that breaks a test is refused.
    pub struct Test as "a test" {
        /// What it shows.
        pub name: At<String>,
        /// Where the client is.
        pub client: TestClient = "{}",
        /// What it asks for.
        pub request: TestRequest = "{}",
        /// Pools, or endpoints as `pool/address`, that are unhealthy. All others are healthy.
        pub down: Vec<At<String>>,
        /// What must come of it.
        pub expect: TestExpect,
    }
}

document! {
    /// Where a test's client is. With `ip` alone, the geo database says the rest.
    pub struct TestClient as "`client`" {
        /// Its address.
        pub ip: Option<At<IpAddr>>,
        /// Its country.
        pub country: Option<At<CountryCode>>,
        /// Its part of the country.
        pub subdivision: Option<At<Subdivision>>,
        /// Its autonomous system.
        pub asn: Option<At<AutonomousSystem>>,
    }
}

document! {
    /// What a test's client asks for.
    pub struct TestRequest as "`request`" {
        /// The host.
        pub host: At<String> = "localhost",
        /// The path.
        pub path: At<String> = "/",
        /// The method.
        pub method: At<Method> = "GET",
        /// Headers.
        pub headers: Entries<HeaderName, At<String>>,
    }
}

document! {
    /// What must come of a test's request. Everything given must hold.
    pub struct TestExpect as "`expect`" {
        /// Exactly these pools have a share above 0.
        pub only: Vec<At<String>>,
        /// The share of each of these pools, in percent, to half a percent.
        pub share: Entries<String, At<ShareNumber>>,
        /// The status that Portolan answers with itself: 404 without a route, 503 when nobody can
        /// serve.
        pub status: Option<At<u32>>,
        /// The route that is taken, by its name.
        pub route: Option<At<String>>,
    }
}

/// A share in percent, with or without the sign: `70` or `70%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShareNumber(Percent);

impl ShareNumber {
    /// As a fraction from 0 to 1.
    pub fn fraction(self) -> f64 {
        self.0.fraction()
    }
}

impl crate::scalar::FromScalar for ShareNumber {
    fn parse(text: &str) -> Result<Self, crate::scalar::LeafError> {
        let signed = format!("{}%", text.trim_end_matches('%'));
        crate::scalar::FromScalar::parse(&signed).map(Self)
    }

    fn show(&self) -> String {
        crate::scalar::FromScalar::show(&self.0)
            .trim_end_matches('%')
            .to_owned()
    }

    fn schema() -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            { "type": "number", "minimum": 0, "maximum": 100 },
            { "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?%$" },
        ] })
    }
}
