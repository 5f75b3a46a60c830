//! The places that rules distinguish, and sets of clients made of them.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use crate::document::Clients;
use crate::geography::{Coordinates, CountryId, Geography};

/// A place: unknown, a country, or a part of a country that matters to some rule.
/// The default is the unknown place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocationId(u16);

impl LocationId {
    /// Nobody knows.
    pub const UNKNOWN: Self = Self(0);

    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Every place that this configuration distinguishes: unknown first, then every country, then the
/// subdivisions that some rule names (or that decide between Cloudflare regions).
#[derive(Clone, Debug)]
pub struct LocationTable {
    places: Vec<LocationEntry>,
    /// Country → part (`CA`) → place.
    parts: HashMap<CountryId, HashMap<String, LocationId>>,
}

#[derive(Clone, Debug)]
struct LocationEntry {
    country: Option<CountryId>,
    subdivision: Option<String>,
}

impl LocationTable {
    /// A table that knows these subdivisions (`US-CA`) besides every country.
    pub(crate) fn new<'a>(subdivisions: impl IntoIterator<Item = (&'a str, CountryId)>) -> Self {
        let mut places = vec![LocationEntry {
            country: None,
            subdivision: None,
        }];
        places.extend(Geography::get().countries().map(|(id, _)| LocationEntry {
            country: Some(id),
            subdivision: None,
        }));
        let mut parts: HashMap<CountryId, HashMap<String, LocationId>> = HashMap::new();
        for (code, country) in subdivisions {
            let part = part_of(code).to_owned();
            parts
                .entry(country)
                .or_default()
                .entry(part)
                .or_insert_with(|| {
                    places.push(LocationEntry {
                        country: Some(country),
                        subdivision: Some(code.to_owned()),
                    });
                    LocationId((places.len() - 1) as u16)
                });
        }
        Self { places, parts }
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Never: the unknown place is always there.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Every place.
    pub fn ids(&self) -> impl Iterator<Item = LocationId> + use<> {
        (0..self.places.len()).map(|at| LocationId(at as u16))
    }

    /// The place of a client whose country is known.
    pub fn country(&self, country: CountryId) -> LocationId {
        LocationId(country.index() as u16 + 1)
    }

    /// The place of a client in this part (`CA`, or `US-CA`) of a country: the part if rules
    /// distinguish it, else the country.
    pub fn subdivision(&self, country: CountryId, part: &str) -> LocationId {
        self.parts
            .get(&country)
            .and_then(|parts| parts.get(part_of(part)))
            .copied()
            .unwrap_or_else(|| self.country(country))
    }

    /// The country of a place.
    pub fn country_of(&self, id: LocationId) -> Option<CountryId> {
        self.places[id.index()].country
    }

    /// Where clients of this place are, on average.
    pub fn centre(&self, id: LocationId) -> Option<Coordinates> {
        let country = self.country_of(id)?;
        Some(Geography::get().country_info(country).centre)
    }

    /// `DE`, `US-CA`, or `-`.
    pub fn label(&self, id: LocationId) -> &str {
        let place = &self.places[id.index()];
        match (&place.subdivision, place.country) {
            (Some(subdivision), _) => subdivision,
            (None, Some(country)) => Geography::get().country_info(country).code,
            (None, None) => "-",
        }
    }

    /// The two letters of the place's country, or `-`.
    pub fn country_label(&self, id: LocationId) -> &'static str {
        self.country_of(id)
            .map_or("-", |country| Geography::get().country_info(country).code)
    }
}

/// Networks whose country the operator knows better than any database.
#[derive(Clone, Debug, Default)]
pub struct PlacePatch {
    entries: Vec<(IpNet, CountryId)>,
    v4: PrefixMap<Ipv4Net, CountryId>,
    v6: PrefixMap<Ipv6Net, CountryId>,
}

/// The order in which they were written says nothing.
impl PartialEq for PlacePatch {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl PlacePatch {
    /// The patch of these networks.
    pub fn new(entries: impl IntoIterator<Item = (IpNet, CountryId)>) -> Self {
        let mut patch = Self::default();
        patch.entries.extend(entries);
        patch.entries.sort_unstable();
        for (net, country) in &patch.entries {
            match net {
                IpNet::V4(net) => patch.v4.insert(*net, *country),
                IpNet::V6(net) => patch.v6.insert(*net, *country),
            };
        }
        patch
    }

    /// The longest network that contains an address, and its country.
    pub fn find(&self, address: IpAddr) -> Option<(IpNet, CountryId)> {
        if self.entries.is_empty() {
            return None;
        }
        match IpNet::from(address.to_canonical()) {
            IpNet::V4(one) => {
                let (net, country) = self.v4.get_lpm(&one)?;
                Some((IpNet::V4(net), *country))
            }
            IpNet::V6(one) => {
                let (net, country) = self.v6.get_lpm(&one)?;
                Some((IpNet::V6(net), *country))
            }
        }
    }
}

/// `US-CA` → `CA`; a part alone stays as it is.
fn part_of(code: &str) -> &str {
    code.split_once('-').map_or(code, |(_, part)| part)
}

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BitSet(Vec<u64>);

impl BitSet {
    /// Whether the number is in the set.
    pub fn contains(&self, at: usize) -> bool {
        self.0
            .get(at / 64)
            .is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Adds a number.
    pub fn insert(&mut self, at: usize) {
        if self.0.len() <= at / 64 {
            self.0.resize(at / 64 + 1, 0);
        }
        self.0[at / 64] |= 1 << (at % 64);
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// A set of clients: those in one of the places, networks or systems.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientSet {
    /// Places.
    pub locations: BitSet,
    /// Networks.
    pub networks: Vec<IpNet>,
    /// Autonomous systems, ascending.
    pub systems: Vec<u32>,
    /// The rule in the user's words, for explanations: `EU, DE, 10.0.0.0/8`.
    pub words: String,
}

impl ClientSet {
    /// The set that these lists describe.
    pub(crate) fn new(clients: &Clients, table: &LocationTable) -> Self {
        let geography = Geography::get();
        let mut locations = BitSet::default();
        for id in table.ids() {
            let Some(country) = table.country_of(id) else {
                continue;
            };
            let info = geography.country_info(country);
            let part = table.places[id.index()]
                .subdivision
                .as_deref()
                .unwrap_or("");
            let region = geography.cloudflare_region(country, part);
            let inside = clients
                .continents
                .iter()
                .any(|c| c.value.as_str() == info.continent)
                || clients.countries.iter().any(|c| c.value.id() == country)
                || clients.subdivisions.iter().any(|s| s.value.code() == part)
                || clients
                    .cloudflare_regions
                    .iter()
                    .any(|wanted| region == Some(wanted.value.as_str()))
                || clients
                    .in_eu
                    .as_ref()
                    .is_some_and(|wanted| wanted.value == info.in_eu);
            if inside {
                locations.insert(id.index());
            }
        }
        let mut systems: Vec<u32> = clients.asns.iter().map(|asn| asn.value.number()).collect();
        systems.sort_unstable();
        systems.dedup();
        Self {
            locations,
            networks: clients.cidrs.iter().map(|net| net.value).collect(),
            systems,
            words: words(clients),
        }
    }
}

fn words(clients: &Clients) -> String {
    use crate::scalar::FromScalar as _;
    let mut words: Vec<String> = Vec::new();
    words.extend(clients.continents.iter().map(|c| c.value.show()));
    words.extend(clients.countries.iter().map(|c| c.value.show()));
    words.extend(clients.subdivisions.iter().map(|s| s.value.show()));
    words.extend(clients.cloudflare_regions.iter().map(|r| r.value.show()));
    if let Some(in_eu) = &clients.in_eu {
        words.push(
            if in_eu.value {
                "in the EU"
            } else {
                "outside the EU"
            }
            .to_owned(),
        );
    }
    words.extend(clients.cidrs.iter().map(|net| net.value.to_string()));
    words.extend(
        clients
            .asns
            .iter()
            .map(|asn| format!("AS{}", asn.value.number())),
    );
    // Long lists are cut: an explanation is one line.
    const LONGEST: usize = 6;
    if words.len() > LONGEST {
        let more = words.len() - LONGEST;
        words.truncate(LONGEST);
        words.push(format!("and {more} more"));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::reader::Decode;
    use crate::decode::reader::Reader;
    use crate::source::Sources;

    fn clients(text: &str) -> Clients {
        let mut sources = Sources::default();
        let id = sources.add("x", "", text.to_owned());
        let mut diagnostics = Vec::new();
        let node = crate::parse::parse(&sources, id, &mut diagnostics).unwrap();
        Clients::decode(&node, &mut Reader::default()).unwrap()
    }

    #[test]
    fn places_are_unions_and_unknown_is_in_none() {
        let us = Geography::get().country("US").unwrap();
        let ca = Geography::get().country("CA").unwrap();
        let table = LocationTable::new([("US-CA", us), ("US-NY", us)]);
        let de = table.country(Geography::get().country("DE").unwrap());
        let set = ClientSet::new(
            &clients("{ continents: [EU], subdivisions: [US-CA] }"),
            &table,
        );
        assert!(set.locations.contains(de.index()));
        assert!(set.locations.contains(table.subdivision(us, "CA").index()));
        assert!(!set.locations.contains(table.subdivision(us, "NY").index()));
        assert!(!set.locations.contains(table.country(us).index()));
        assert!(!set.locations.contains(LocationId::UNKNOWN.index()));
        assert_eq!(table.subdivision(ca, "QC"), table.country(ca));
        assert_eq!(table.subdivision(us, "US-NY"), table.subdivision(us, "NY"));
        assert_eq!(table.label(table.subdivision(us, "CA")), "US-CA");
    }

    #[test]
    fn the_longest_network_of_a_patch_counts() {
        let country = |code| Geography::get().country(code).unwrap();
        let patch = PlacePatch::new([
            ("10.0.0.0/8".parse().unwrap(), country("DE")),
            ("10.1.0.0/16".parse().unwrap(), country("XK")),
            ("fd00::/8".parse().unwrap(), country("FR")),
        ]);
        let found = |address: &str| {
            let (net, country) = patch.find(address.parse().unwrap())?;
            let code = Geography::get().country_info(country).code;
            Some(format!("{net} {code}"))
        };
        assert_eq!(found("10.2.0.1").as_deref(), Some("10.0.0.0/8 DE"));
        assert_eq!(found("10.1.0.1").as_deref(), Some("10.1.0.0/16 XK"));
        assert_eq!(found("::ffff:10.1.0.1").as_deref(), Some("10.1.0.0/16 XK"));
        assert_eq!(found("fd12::1").as_deref(), Some("fd00::/8 FR"));
        assert_eq!(found("11.0.0.1"), None);
        assert_eq!(found("2001:db8::1"), None);
    }

    #[test]
    fn outside_the_eu_needs_a_known_place() {
        let table = LocationTable::new([]);
        let set = ClientSet::new(&clients("{ in_eu: false }"), &table);
        let place = |code| {
            table
                .country(Geography::get().country(code).unwrap())
                .index()
        };
        assert!(set.locations.contains(place("US")) && !set.locations.contains(place("FR")));
        assert!(!set.locations.contains(LocationId::UNKNOWN.index()));
    }
}
