//! Who clients are: whose address counts, and sets of places and networks.

use std::fmt;

use http::HeaderName;
use ipnet::IpNet;
use schemars::{Schema, json_schema};

use crate::decode::document;
use crate::geography;
use crate::scalar::{FromScalar, LeafError};
use crate::source::At;

document! {
    /// Whose address counts as the client's. Proxies in front of Portolan write the address they
    /// saw into a header; such a header is believed only from `trusted` peers, and of several
    /// addresses the right-most untrusted one counts. Whatever is not an address leaves the
    /// address of the peer.
    pub struct ClientIp as "`client_ip`" {
        /// `X-Forwarded-For`, or any header with one address, like `CF-Connecting-IP`.
        pub header: At<HeaderName> = "x-forwarded-for",
        /// The peers that are believed, as addresses or networks. Nobody by default.
        pub trusted: Vec<At<IpNet>>,
    }
}

document! {
    /// A set of clients: everybody whom one of the lists names. For those who are in two sets at
    /// once, nest one `geo` in another.
    pub struct Clients as "`clients`" {
        /// Continents: AF, AN, AS, EU, NA, OC, SA.
        pub continents: Vec<At<Continent>>,
        /// Countries, by their two letters (ISO 3166-1, and XK for Kosovo): DE, BR, JP.
        pub countries: Vec<At<CountryCode>>,
        /// Parts of countries (ISO 3166-2): US-CA, DE-BY. Needs a database that knows them.
        pub subdivisions: Vec<At<Subdivision>>,
        /// The regions of Cloudflare's load balancer, for moving over from there: WNAM, ENAM, WEU,
        /// EEU, NSAM, SSAM, OC, ME, NAF, SAF, SAS, SEAS, NEAS. Only a few members of each are
        /// published; the rest are Portolan's estimate (`docs/regions.md`).
        pub cloudflare_regions: Vec<At<CloudflareRegion>>,
        /// Clients in the territory of the European Union (`true`), or known to be elsewhere
        /// (`false`).
        pub in_eu: Option<At<bool>>,
        /// Addresses and networks.
        pub cidrs: Vec<At<IpNet>>,
        /// Autonomous systems, by number. Needs `geoip.asn_database`.
        pub asns: Vec<At<AutonomousSystem>>,
    }
}

/// Declares a code out of a fixed list, kept in upper case.
macro_rules! place_code {
    ($(#[doc = $doc:literal])+ $name:ident, $words:expr, $what:literal) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// As text, in upper case.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromScalar for $name {
            fn parse(text: &str) -> Result<Self, LeafError> {
                let upper = text.to_ascii_uppercase();
                if $words.iter().any(|word| *word == upper) {
                    return Ok(Self(upper));
                }
                Err(LeafError::bad(concat!("is not ", $what)))
            }

            fn show(&self) -> String {
                self.0.clone()
            }

            fn schema() -> Schema {
                json_schema!({ "type": "string", "enum": $words })
            }
        }
    };
}

place_code! {
    /// A continent by its two letters.
    Continent, geography::CONTINENTS, "a continent: AF, AN, AS, EU, NA, OC or SA"
}

place_code! {
    /// One of Cloudflare's thirteen load balancing regions.
    CloudflareRegion, geography::CLOUDFLARE_REGIONS,
    "a Cloudflare region: WNAM, ENAM, WEU, EEU, NSAM, SSAM, OC, ME, NAF, SAF, SAS, SEAS or NEAS"
}

/// A country by its two letters (ISO 3166-1 alpha-2), or `XK` for Kosovo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CountryCode(geography::CountryId);

impl CountryCode {
    /// The country.
    pub fn id(self) -> geography::CountryId {
        self.0
    }
}

impl FromScalar for CountryCode {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let geography = geography::Geography::get();
        if let Some(id) = geography.country(&text.to_ascii_uppercase()) {
            return Ok(Self(id));
        }
        let error = LeafError::bad("is not a country of ISO 3166-1");
        Err(match text.to_ascii_uppercase().as_str() {
            "AN" => error.help("the Netherlands Antilles are `BQ`, `CW` and `SX` now; Antarctica is `continents: [AN]`"),
            "YU" | "CS" => error.help("what was Yugoslavia has a code for each country: `RS`, `ME`, …"),
            "SU" => error.help("what was the Soviet Union has a code for each country: `RU`, `UA`, …"),
            "AP" => error.help("databases say `AP` for networks of no one country of Asia"),
            "A1" | "A2" | "T1" => error.help("that is no place: name networks in `cidrs`"),
            upper if geography.in_database(upper).is_some() => {
                let today = geography.in_database(upper).map(Self);
                error.help(format!("did you mean `{}`?", today.map_or_else(String::new, |it| it.show())))
            }
            upper if geography::CONTINENTS.contains(&upper) => {
                error.help(format!("did you mean `continents: [{upper}]`?"))
            }
            _ => match geography.country_named(text) {
                Some(code) => error.help(format!("did you mean `{code}`?")),
                None => error,
            },
        })
    }

    fn show(&self) -> String {
        geography::Geography::get()
            .country_info(self.0)
            .code
            .to_owned()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Z]{2}$", "examples": ["DE"] })
    }
}

/// A part of a country (ISO 3166-2), like `US-CA`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subdivision {
    country: geography::CountryId,
    code: String,
}

impl Subdivision {
    /// The country it is a part of.
    pub fn country(&self) -> geography::CountryId {
        self.country
    }

    /// The whole code: `US-CA`.
    pub fn code(&self) -> &str {
        &self.code
    }
}

impl FromScalar for Subdivision {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let upper = text.to_ascii_uppercase();
        let bad = || {
            LeafError::bad("is not a subdivision")
                .help("write the country, a dash and the part: `US-CA` (ISO 3166-2)")
        };
        let (country, part) = upper.split_once('-').ok_or_else(bad)?;
        if !(1..=3).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(bad());
        }
        let country = geography::Geography::get()
            .country(country)
            .ok_or_else(|| LeafError::bad(format!("begins with no country: `{country}`")))?;
        Ok(Self {
            country,
            code: upper,
        })
    }

    fn show(&self) -> String {
        self.code.clone()
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Z]{2}-[A-Z0-9]{1,3}$", "examples": ["US-CA"] })
    }
}

/// The number of an autonomous system: `64500` or `AS64500`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AutonomousSystem(u32);

impl AutonomousSystem {
    /// The number.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl FromScalar for AutonomousSystem {
    fn parse(text: &str) -> Result<Self, LeafError> {
        let digits = text
            .strip_prefix("AS")
            .or_else(|| text.strip_prefix("as"))
            .unwrap_or(text);
        digits
            .parse()
            .ok()
            .filter(|number| *number > 0)
            .map(Self)
            .ok_or_else(|| {
                LeafError::bad("is not the number of an autonomous system").help("like `64500`")
            })
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> Schema {
        json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": u32::MAX },
            { "type": "string", "pattern": "^[Aa][Ss][0-9]+$" },
        ] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help<T: FromScalar + fmt::Debug>(text: &str) -> String {
        T::parse(text).unwrap_err().help.unwrap_or_default()
    }

    #[test]
    fn countries_know_the_usual_mistakes() {
        assert_eq!(CountryCode::parse("no").unwrap().show(), "NO");
        assert_eq!(help::<CountryCode>("UK"), "did you mean `GB`?");
        assert_eq!(help::<CountryCode>("EL"), "did you mean `GR`?");
        assert_eq!(help::<CountryCode>("TP"), "did you mean `TL`?");
        assert_eq!(help::<CountryCode>("Germany"), "did you mean `DE`?");
        assert_eq!(help::<CountryCode>("Kosovo"), "did you mean `XK`?");
        assert_eq!(CountryCode::parse("XK").unwrap().show(), "XK");
        for gone in ["AN", "SU", "YU", "CS", "AP", "A1", "A2", "T1"] {
            assert_ne!(help::<CountryCode>(gone), "", "{gone}");
        }
        assert_eq!(
            help::<CountryCode>("EU"),
            "did you mean `continents: [EU]`?"
        );
        assert!(CountryCode::parse("ZZ").is_err());
    }

    #[test]
    fn subdivisions_and_systems() {
        assert_eq!(Subdivision::parse("us-ca").unwrap().show(), "US-CA");
        assert!(Subdivision::parse("California").is_err());
        assert!(Subdivision::parse("ZZ-1").is_err());
        assert_eq!(AutonomousSystem::parse("AS64500").unwrap().number(), 64_500);
        assert!(AutonomousSystem::parse("0").is_err());
        assert!(Continent::parse("XX").is_err());
        assert_eq!(CloudflareRegion::parse("weu").unwrap().as_str(), "WEU");
    }
}
