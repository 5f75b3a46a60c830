//! The world as Portolan knows it: countries, parts of countries, cloud regions, distances.
//!
//! Compiled in from `config/data/` (see its README for where every fact comes from). Clients are
//! found by country or better; clouds stand in the region table.

use std::collections::HashMap;
use std::sync::OnceLock;

/// Every continent code.
pub const CONTINENTS: [&str; 7] = ["AF", "AN", "AS", "EU", "NA", "OC", "SA"];

/// Every region of Cloudflare's load balancer.
pub const CLOUDFLARE_REGIONS: [&str; 13] = [
    "WNAM", "ENAM", "WEU", "EEU", "NSAM", "SSAM", "OC", "ME", "NAF", "SAF", "SAS", "SEAS", "NEAS",
];

/// A country, as an index into [`Geography::countries`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CountryId(u8);

impl CountryId {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What is known of a country.
#[derive(Clone, Debug)]
pub struct Country {
    /// ISO 3166-1 alpha-2, or `XK`, which that leaves to its users and all use for Kosovo.
    pub code: &'static str,
    /// Its English name.
    pub name: &'static str,
    /// Its continent (GeoNames).
    pub continent: &'static str,
    /// Where its people are, on average.
    pub centre: Coordinates,
    /// Its region in Cloudflare's load balancer, where one is known or estimated.
    pub cloudflare_region: Option<&'static str>,
    /// Whether it is territory of the European Union.
    pub in_eu: bool,
}

/// A region of a cloud.
#[derive(Clone, Debug)]
pub struct CloudRegion {
    /// The cloud: `aws`.
    pub cloud: &'static str,
    /// The region's own code: `us-east-1`.
    pub code: &'static str,
    /// What the provider calls it.
    pub name: &'static str,
    /// The country it stands in, by its two letters.
    pub country: &'static str,
    /// Where it stands.
    pub place: Coordinates,
}

/// A point on the globe, in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coordinates {
    /// North is positive: -90 to 90.
    pub latitude: f64,
    /// East is positive: -180 to 180.
    pub longitude: f64,
}

/// The mean radius of the earth in kilometres (IUGG).
const EARTH_RADIUS_KM: f64 = 6371.0088;

impl Coordinates {
    /// The great-circle distance in kilometres (haversine formula).
    pub fn distance_km(self, other: Self) -> f64 {
        let (lat1, lat2) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half_dlat = (lat2 - lat1) / 2.0;
        let half_dlon = (other.longitude - self.longitude).to_radians() / 2.0;
        let h = half_dlat.sin().powi(2) + lat1.cos() * lat2.cos() * half_dlon.sin().powi(2);
        2.0 * EARTH_RADIUS_KM * h.sqrt().min(1.0).asin()
    }

    /// The same point always has the same bits, so that it can be looked up.
    pub(crate) fn bits(self) -> [u64; 2] {
        [self.latitude.to_bits(), self.longitude.to_bits()]
    }
}

/// All of it.
#[derive(Debug)]
pub struct Geography {
    countries: Vec<Country>,
    by_code: HashMap<&'static str, CountryId>,
    /// ISO 3166-2 code → region, where a country is split between regions.
    cloudflare_subdivisions: Vec<(&'static str, &'static str)>,
    regions: Vec<CloudRegion>,
    by_region: HashMap<(&'static str, &'static str), usize>,
}

impl Geography {
    /// The one that is compiled in.
    pub fn get() -> &'static Self {
        static GEOGRAPHY: OnceLock<Geography> = OnceLock::new();
        GEOGRAPHY.get_or_init(|| {
            Self::read(
                include_str!("../data/countries.csv"),
                include_str!("../data/cloudflare_subdivisions.csv"),
                include_str!("../data/cloud_regions.csv"),
            )
        })
    }

    fn read(countries: &'static str, subdivisions: &'static str, regions: &'static str) -> Self {
        let countries: Vec<Country> = rows(countries)
            .map(|row| Country {
                code: row.text("country"),
                name: row.text("name"),
                continent: row.text("continent"),
                centre: row.coordinates(),
                cloudflare_region: Some(row.text("cloudflare_region"))
                    .filter(|region| *region != "unknown"),
                in_eu: row.text("in_eu") == "true",
            })
            .collect();
        assert!(countries.len() < 256, "a CountryId is one byte");
        let regions: Vec<CloudRegion> = rows(regions)
            .map(|row| CloudRegion {
                cloud: row.text("provider"),
                code: row.text("region"),
                name: row.text("name"),
                country: row.text("country"),
                place: row.coordinates(),
            })
            .collect();
        Self {
            by_code: countries
                .iter()
                .enumerate()
                .map(|(at, country)| (country.code, CountryId(at as u8)))
                .collect(),
            countries,
            cloudflare_subdivisions: rows(subdivisions)
                .map(|row| (row.text("subdivision"), row.text("suggested_region")))
                .collect(),
            by_region: regions
                .iter()
                .enumerate()
                .map(|(at, region)| ((region.cloud, region.code), at))
                .collect(),
            regions,
        }
    }

    /// Every country, in the order of its id.
    pub fn countries(&self) -> impl Iterator<Item = (CountryId, &Country)> {
        self.countries
            .iter()
            .enumerate()
            .map(|(at, country)| (CountryId(at as u8), country))
    }

    /// The country with this code (two letters, upper case).
    pub fn country(&self, code: &str) -> Option<CountryId> {
        self.by_code.get(code).copied()
    }

    /// The country that a database means by a code: also by one that others use for it, or that it had
    /// before. Codes of no one country (`EU`, `AP`, `AN`) or of no place (`A1`, `T1`) are none.
    pub fn in_database(&self, code: &str) -> Option<CountryId> {
        if let Some(id) = self.country(code) {
            return Some(id);
        }
        let today = match code {
            "UK" => "GB",
            "EL" => "GR",
            "FX" => "FR",
            "TP" => "TL",
            "ZR" => "CD",
            "BU" => "MM",
            _ => return None,
        };
        self.country(today)
    }

    /// What is known of a country.
    pub fn country_info(&self, id: CountryId) -> &Country {
        &self.countries[id.index()]
    }

    /// The code of the country with this English name.
    pub fn country_named(&self, name: &str) -> Option<&'static str> {
        self.countries
            .iter()
            .find(|country| country.name.eq_ignore_ascii_case(name))
            .map(|country| country.code)
    }

    /// The subdivisions that decide between Cloudflare regions (US and CA), with their region.
    pub fn cloudflare_subdivisions(&self) -> &[(&'static str, &'static str)] {
        &self.cloudflare_subdivisions
    }

    /// The Cloudflare region of a place: its subdivision decides where a country is split.
    pub fn cloudflare_region(&self, country: CountryId, subdivision: &str) -> Option<&'static str> {
        self.cloudflare_subdivisions
            .iter()
            .find(|(code, _)| *code == subdivision)
            .map(|(_, region)| *region)
            .or_else(|| self.country_info(country).cloudflare_region)
    }

    /// Whether regions of this cloud are known.
    pub fn knows_cloud(&self, cloud: &str) -> bool {
        self.regions.iter().any(|region| region.cloud == cloud)
    }

    /// The clouds whose regions are known.
    pub fn clouds(&self) -> Vec<&'static str> {
        let mut clouds: Vec<_> = self.regions.iter().map(|region| region.cloud).collect();
        clouds.dedup();
        clouds
    }

    /// A region of a cloud.
    pub fn region(&self, cloud: &str, code: &str) -> Option<&CloudRegion> {
        // The map's keys live for ever, which a look-up by shorter texts cannot promise.
        self.by_region
            .iter()
            .find(|((c, r), _)| *c == cloud && *r == code)
            .map(|(_, at)| &self.regions[*at])
    }

    /// Every region, or those of one cloud.
    pub fn regions<'a>(&'a self, cloud: Option<&'a str>) -> impl Iterator<Item = &'a CloudRegion> {
        self.regions
            .iter()
            .filter(move |region| cloud.is_none_or(|cloud| region.cloud == cloud))
    }
}

/// One line of a table, by the names of its columns.
struct Row {
    columns: csv::StringRecord,
    values: Vec<&'static str>,
}

/// The lines of a compiled-in table.
fn rows(table: &'static str) -> impl Iterator<Item = Row> {
    let mut reader = csv::Reader::from_reader(table.as_bytes());
    let columns = reader
        .headers()
        .expect("compiled in, and read by every test")
        .clone();
    reader
        .into_records()
        .map(|record| record.expect("compiled in, and read by every test"))
        .map(move |record| Row {
            columns: columns.clone(),
            // Read once for the life of the process, so the few texts with quotes may be leaked.
            values: record
                .iter()
                .map(|text| &*Box::leak(text.to_owned().into_boxed_str()))
                .collect(),
        })
}

impl Row {
    fn text(&self, column: &str) -> &'static str {
        let at = self.columns.iter().position(|name| name == column);
        at.and_then(|at| self.values.get(at))
            .copied()
            .unwrap_or_default()
    }

    fn coordinates(&self) -> Coordinates {
        let number = |column| {
            self.text(column)
                .parse()
                .expect("compiled in, and read by every test")
        };
        Coordinates {
            latitude: number("latitude"),
            longitude: number("longitude"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_in_the_tables_is_known() {
        let geography = Geography::get();
        // ISO 3166-1 has 249; Kosovo's code is not one of them, but everybody's.
        assert_eq!(geography.countries().count(), 250);
        for (_, country) in geography.countries() {
            assert!(CONTINENTS.contains(&country.continent), "{}", country.code);
            if let Some(region) = country.cloudflare_region {
                assert!(CLOUDFLARE_REGIONS.contains(&region), "{}", country.code);
            }
        }
        for region in geography.regions(None) {
            assert!(
                geography.country(region.country).is_some(),
                "{}",
                region.code
            );
            assert!(region.place.latitude.abs() <= 90.0 && region.place.longitude.abs() <= 180.0);
        }
        for (subdivision, region) in geography.cloudflare_subdivisions() {
            assert!(CLOUDFLARE_REGIONS.contains(region), "{subdivision}");
        }
    }

    #[test]
    fn the_european_union_has_its_27_states() {
        let geography = Geography::get();
        let states = geography
            .countries()
            .filter(|(_, c)| c.in_eu && c.continent == "EU")
            .count();
        assert!(states >= 26, "{states}");
        let code = |code| geography.country_info(geography.country(code).unwrap());
        assert!(code("DE").in_eu && !code("GB").in_eu && !code("CH").in_eu);
    }

    #[test]
    fn split_countries_go_by_subdivision() {
        let geography = Geography::get();
        let us = geography.country("US").unwrap();
        assert_eq!(geography.cloudflare_region(us, "US-CA"), Some("WNAM"));
        assert_eq!(geography.cloudflare_region(us, "US-NY"), Some("ENAM"));
        assert_eq!(geography.cloudflare_region(us, ""), Some("ENAM"));
    }

    #[test]
    fn distances_are_those_of_the_globe() {
        let place = |cloud, code| Geography::get().region(cloud, code).unwrap().place;
        let frankfurt = place("aws", "eu-central-1");
        let dublin = place("aws", "eu-west-1");
        let km = frankfurt.distance_km(dublin);
        assert!((1050.0..1130.0).contains(&km), "{km}");
        assert!(frankfurt.distance_km(frankfurt) < 1e-6);
        let (pole, other) = (
            Coordinates {
                latitude: 90.0,
                longitude: 0.0,
            },
            Coordinates {
                latitude: -90.0,
                longitude: 77.0,
            },
        );
        assert!((pole.distance_km(other) - 20015.1).abs() < 1.0);
    }
}
