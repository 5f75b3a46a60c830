//! Where clients are: databases in MaxMind's format.
//!
//! Two schemas are read. MaxMind's own is nested (`country.iso_code`, `location.latitude`), that of
//! the freely redistributable databases is flat (`country_code`, `latitude`); which one a file has
//! is found out when it is opened. Files are read into memory as a whole, because a mapped file that
//! somebody truncates takes the process down with it, and are verified before they are used.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions, path};
use portolan_config::diagnostic::{Code, Diagnostic};
use portolan_config::geography::{Coordinates, Geography};
use portolan_config::plan::{ClientFacts, GeoIpPlan, LocationId, LocationTable};
use portolan_config::source::At;
use serde::de::IgnoredAny;

/// The compiled-in country database. `data/README.md` says whose it is. It is used as it lies in the
/// program's file, of which the system reads the parts that are looked at.
static BUILT_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/country.mmdb"));

/// A database's bytes: compiled in, or read from a file.
type Bytes = Cow<'static, [u8]>;

/// Larger files are not databases of places.
const LARGEST_FILE: u64 = 4 << 30;

/// A database older than this is worth a warning.
const OLD: Duration = Duration::from_secs(365 * 86_400);

/// Addresses whose country every database should know.
const WELL_KNOWN: [IpAddr; 4] = [
    IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(std::net::Ipv4Addr::new(85, 214, 132, 117)),
    IpAddr::V4(std::net::Ipv4Addr::new(133, 11, 0, 1)),
    IpAddr::V6(std::net::Ipv6Addr::new(
        0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888,
    )),
];

/// Where a client is, as far as anybody asked and anybody knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whereabouts {
    /// Its place.
    pub place: LocationId,
    /// Its coordinates, if the database has them.
    pub coordinates: Option<Coordinates>,
    /// Its autonomous system.
    pub system: Option<u32>,
}

impl Whereabouts {
    /// Nobody asked, or nobody knows.
    pub const UNKNOWN: Self = Self {
        place: LocationId::UNKNOWN,
        coordinates: None,
        system: None,
    };
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// It is not a database, or it is damaged.
    #[error("`{path}` is not a sound geo database: {error}")]
    Damaged {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
}

/// How a database names its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Schema {
    /// MaxMind's: `country.iso_code`.
    Nested,
    /// ip-location-db's: `country_code`.
    Flat,
}

/// An open database.
pub struct Database {
    reader: Reader<Bytes>,
    schema: Schema,
    /// What users see: its path, or `built in`.
    pub name: String,
    /// What kind of database it says it is.
    pub kind: String,
    /// When it was built, in time since 1970.
    pub built: Duration,
    /// A hash of its bytes.
    content: u64,
    /// Whether well-known addresses have a country (or a system) in it.
    pub knows_anything: bool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("name", &self.name)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// Opens and verifies a file.
    ///
    /// # Errors
    /// When it cannot be read, is not a database, or is damaged anywhere.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let name = path.display().to_string();
        let unreadable = |error| DatabaseError::Unreadable {
            path: name.clone(),
            error,
        };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > LARGEST_FILE {
            return Err(unreadable(std::io::Error::other("larger than 4 GiB")));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        Self::from_bytes(bytes, name)
    }

    /// The one that is compiled in, opened once and then shared.
    ///
    /// # Errors
    /// None in a program that was built from a sound file, which the tests see to.
    pub fn built_in() -> Result<Arc<Self>, DatabaseError> {
        static OPEN: OnceLock<Arc<Database>> = OnceLock::new();
        if let Some(database) = OPEN.get() {
            return Ok(database.clone());
        }
        let name = "built in".to_owned();
        let reader = Reader::from_source(Cow::Borrowed(BUILT_IN)).map_err(|error| {
            DatabaseError::Damaged {
                path: name.clone(),
                error: error.to_string(),
            }
        })?;
        let open = || Arc::new(Self::describe(reader, name, 0));
        Ok(OPEN.get_or_init(open).clone())
    }

    /// Verifies the bytes of a database.
    ///
    /// # Errors
    /// When they are not one, or are damaged anywhere.
    pub fn from_bytes(bytes: Vec<u8>, name: String) -> Result<Self, DatabaseError> {
        let content = hash(&bytes);
        let walked = Reader::from_source(Cow::Owned(bytes)).and_then(|reader| {
            walk(&reader)?;
            Ok(reader)
        });
        match walked {
            Ok(reader) => Ok(Self::describe(reader, name, content)),
            Err(error) => Err(DatabaseError::Damaged {
                path: name,
                error: error.to_string(),
            }),
        }
    }

    fn describe(reader: Reader<Bytes>, name: String, content: u64) -> Self {
        let metadata = reader.metadata();
        let mut database = Self {
            schema: Schema::Nested,
            kind: metadata.database_type.clone(),
            built: Duration::from_secs(metadata.build_epoch),
            knows_anything: false,
            content,
            name,
            reader,
        };
        for schema in [Schema::Nested, Schema::Flat] {
            database.schema = schema;
            database.knows_anything = WELL_KNOWN.iter().any(|address| {
                database.country(*address).is_some() || database.system(*address).is_some()
            });
            if database.knows_anything {
                return database;
            }
        }
        // A small or private database need not know those addresses: look at what it holds.
        database.schema = database.schema_of_contents();
        database
    }

    /// The schema of the first records that have a country.
    fn schema_of_contents(&self) -> Schema {
        const ENOUGH: usize = 1_000;
        let Ok(networks) = self.reader.networks(WithinOptions::default()) else {
            return Schema::Nested;
        };
        for record in networks.take(ENOUGH).flatten() {
            if text(&record, &path!["country_code"]).is_some() {
                return Schema::Flat;
            }
            if text(&record, &path!["country", "iso_code"]).is_some() {
                return Schema::Nested;
            }
        }
        Schema::Nested
    }

    /// Whether both say the same about everybody.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.name == other.name && self.content == other.content
    }

    fn country(&self, address: IpAddr) -> Option<&str> {
        let record = self.reader.lookup(address).ok()?;
        self.country_of(&record)
    }

    fn country_of<'a>(&'a self, record: &LookupResult<'a, Bytes>) -> Option<&'a str> {
        match self.schema {
            // A network without a location (an anycast one, say) still has an owner.
            Schema::Nested => text(record, &path!["country", "iso_code"])
                .or_else(|| text(record, &path!["registered_country", "iso_code"])),
            Schema::Flat => text(record, &path!["country_code"]),
        }
    }

    fn subdivision_of<'a>(&'a self, record: &LookupResult<'a, Bytes>) -> Option<&'a str> {
        match self.schema {
            Schema::Nested => text(record, &path!["subdivisions", 0, "iso_code"]),
            Schema::Flat => text(record, &path!["subdivision_code"])
                .or_else(|| text(record, &path!["state_code"])),
        }
    }

    fn coordinates_of(&self, record: &LookupResult<'_, Bytes>) -> Option<Coordinates> {
        let (latitude, longitude) = match self.schema {
            Schema::Nested => (
                number(record, &path!["location", "latitude"])?,
                number(record, &path!["location", "longitude"])?,
            ),
            Schema::Flat => (
                number(record, &path!["latitude"])?,
                number(record, &path!["longitude"])?,
            ),
        };
        Some(Coordinates {
            latitude,
            longitude,
        })
    }

    fn system(&self, address: IpAddr) -> Option<u32> {
        let record = self.reader.lookup(address).ok()?;
        let number = record.decode_path::<u64>(&path!["autonomous_system_number"]);
        if let Ok(Some(number)) = number {
            return u32::try_from(number).ok();
        }
        let asn = text(&record, &path!["asn"])?;
        asn.strip_prefix("AS").unwrap_or(asn).parse().ok()
    }
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Goes to every network and reads every record once, as requests would. The crate's own `verify`
/// also refuses what harms nobody, like the empty description of every freely redistributable
/// database.
fn walk(reader: &Reader<Bytes>) -> Result<(), MaxMindDbError> {
    let mut seen = HashSet::new();
    for network in reader.networks(WithinOptions::default())? {
        let network = network?;
        if let Some(offset) = network.offset()
            && seen.insert(offset)
        {
            network.decode::<IgnoredAny>()?;
        }
    }
    Ok(())
}

fn text<'a>(record: &LookupResult<'a, Bytes>, path: &[PathElement<'_>]) -> Option<&'a str> {
    record.decode_path(path).ok().flatten()
}

/// A number, whether it is stored as a double or (in flat databases) as a single.
fn number(record: &LookupResult<'_, Bytes>, path: &[PathElement<'_>]) -> Option<f64> {
    if let Ok(found) = record.decode_path::<f64>(path) {
        return found;
    }
    let single = record.decode_path::<f32>(path).ok().flatten()?;
    Some(f64::from(single))
}

/// The databases of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Locator {
    places: Option<Arc<Database>>,
    systems: Option<Arc<Database>>,
}

impl Locator {
    /// Opens what a plan names. Without a database of its own, the built-in one is used, but only
    /// if anything `needs` to know where clients are.
    ///
    /// # Errors
    /// One diagnostic for every database that cannot be used.
    pub fn load(plan: &GeoIpPlan, needs: ClientFacts) -> Result<Self, Vec<Diagnostic>> {
        let mut found = Vec::new();
        let mut open = |file: &At<PathBuf>| match Database::open(&file.value) {
            Ok(database) => Some(Arc::new(database)),
            Err(error) => {
                found.push(Diagnostic::error(
                    Code::GeoDatabase,
                    file.origin,
                    error.to_string(),
                ));
                None
            }
        };
        let own = plan.database.as_ref().and_then(&mut open);
        let systems = plan.asn_database.as_ref().and_then(&mut open);
        if !found.is_empty() {
            return Err(found);
        }
        let places = match own {
            None if needs.place => Some(Database::built_in().map_err(|error| {
                vec![Diagnostic::error(
                    Code::GeoDatabase,
                    portolan_config::source::Origin::Default,
                    error.to_string(),
                )]
            })?),
            own => own,
        };
        Ok(Self { places, systems })
    }

    /// Whether the files that a plan names hold what was read of them.
    pub(crate) fn is_as_in_files(&self, plan: &GeoIpPlan) -> bool {
        let files = [
            (&plan.database, &self.places),
            (&plan.asn_database, &self.systems),
        ];
        files.into_iter().all(|(file, database)| {
            let Some(file) = file else {
                return true;
            };
            let read = database.as_ref().map(|database| database.content);
            read.is_some() && std::fs::read(&file.value).ok().map(|bytes| hash(&bytes)) == read
        })
    }

    /// Where a client is, as far as `needs` asks.
    pub fn locate(
        &self,
        address: IpAddr,
        needs: ClientFacts,
        locations: &LocationTable,
    ) -> Whereabouts {
        let address = address.to_canonical();
        let mut found = Whereabouts::UNKNOWN;
        if needs.place
            && let Some(database) = &self.places
            && let Ok(record) = database.reader.lookup(address)
        {
            let country = database
                .country_of(&record)
                .and_then(|code| Geography::get().country(code));
            if let Some(country) = country {
                found.place = match database.subdivision_of(&record) {
                    Some(part) => locations.subdivision(country, part),
                    None => locations.country(country),
                };
            }
            if needs.coordinates {
                found.coordinates = database.coordinates_of(&record);
            }
        }
        if needs.system
            && let Some(database) = &self.systems
        {
            found.system = database.system(address);
        }
        found
    }

    /// Whether both were read from the same files with the same content.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Database>>, b: &Option<Arc<Database>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.same_content(b),
            _ => false,
        };
        same(&self.places, &other.places) && same(&self.systems, &other.systems)
    }

    /// The open databases, for status: of places, then of systems.
    pub fn databases(&self) -> impl Iterator<Item = &Database> {
        self.places.iter().chain(&self.systems).map(AsRef::as_ref)
    }

    /// What should worry an operator at this time (since 1970): one line each.
    pub fn worries(&self, wall: Duration) -> Vec<String> {
        let mut worries = Vec::new();
        for database in self.databases() {
            let age = wall.saturating_sub(database.built);
            if age > OLD {
                worries.push(format!(
                    "the geo database `{}` is {} days old",
                    database.name,
                    age.as_secs() / 86_400
                ));
            }
            if !database.knows_anything {
                worries.push(format!(
                    "the geo database `{}` ({}) says nothing about well-known addresses: is it the right kind?",
                    database.name, database.kind
                ));
            }
        }
        worries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use maxminddb_writer::paths::IpAddrWithMask;
    use serde_json::{Value, json};

    const EVERYTHING: ClientFacts = ClientFacts {
        place: true,
        system: true,
        coordinates: true,
    };

    /// A database of these networks and records.
    fn database(records: &[(&str, Value)]) -> Vec<u8> {
        let mut database = maxminddb_writer::Database::default();
        database.metadata.ip_version = maxminddb_writer::metadata::IpVersion::V6;
        database.metadata.build_epoch = 1_780_000_000;
        database.metadata.binary_format_major_version = 2;
        database.metadata.database_type = "Test".to_owned();
        for (network, record) in records {
            let data = database.insert_value(record).unwrap();
            // In an IPv6 tree IPv4 networks live below ::/96.
            let network = match network.split_once('/') {
                Some((v4, length)) if v4.contains('.') => {
                    format!("::{v4}/{}", length.parse::<u8>().unwrap() + 96)
                }
                _ => (*network).to_owned(),
            };
            database.insert_node(network.parse::<IpAddrWithMask>().unwrap(), data);
        }
        database.write_to(Vec::new()).unwrap()
    }

    fn locator(places: &[(&str, Value)], systems: &[(&str, Value)]) -> Locator {
        let open = |records: &[(&str, Value)]| {
            let bytes = (!records.is_empty()).then(|| database(records))?;
            let opened = Database::from_bytes(bytes, "test".to_owned()).unwrap();
            Some(Arc::new(opened))
        };
        Locator {
            places: open(places),
            systems: open(systems),
        }
    }

    fn table() -> Arc<LocationTable> {
        let text = "listeners: [ { bind: '127.0.0.1:0' } ]
pools: { a: { endpoints: [ '10.0.0.1:80' ] } }
routes: [ { to: { geo: [ { clients: { subdivisions: [ US-CA ] }, to: a }, { to: a } ] } } ]";
        portolan_config::check_text("t", text.to_owned(), &portolan_config::Machine::default())
            .plan
            .unwrap()
            .locations
            .clone()
    }

    fn label(locator: &Locator, address: &str) -> String {
        let table = table();
        let found = locator.locate(address.parse().unwrap(), EVERYTHING, &table);
        table.label(found.place).to_owned()
    }

    #[test]
    fn the_built_in_database_knows_well_known_addresses_and_is_not_old() {
        let plan = GeoIpPlan {
            database: None,
            asn_database: None,
        };
        let locator = Locator::load(&plan, EVERYTHING).unwrap();
        for (address, country) in [
            ("85.214.132.117", "DE"),
            ("133.11.0.1", "JP"),
            ("81.2.69.142", "GB"),
            ("8.8.8.8", "US"),
            ("2001:240::1", "JP"),
            ("::ffff:8.8.8.8", "US"),
            ("10.0.0.1", "-"),
        ] {
            assert_eq!(label(&locator, address), country, "{address}");
        }
        let database = locator.databases().next().unwrap();
        assert!(database.knows_anything);
        let built_after = Duration::from_secs(1_780_000_000);
        assert!(database.built > built_after, "{:?}", database.built);
        assert!(locator.worries(database.built).is_empty());
        assert_eq!(locator.worries(database.built + OLD * 2).len(), 1);
        let nobody_asks = Locator::load(&plan, ClientFacts::default()).unwrap();
        assert_eq!(nobody_asks.databases().count(), 0, "not even opened");
    }

    #[test]
    fn both_schemas_are_read() {
        let nested = locator(
            &[
                (
                    "192.0.2.0/24",
                    json!({
                        "country": { "iso_code": "US" },
                        "subdivisions": [ { "iso_code": "CA" } ],
                        "location": { "latitude": 37.75, "longitude": -122.5 },
                    }),
                ),
                (
                    "2001:db8::/32",
                    json!({ "registered_country": { "iso_code": "FR" } }),
                ),
            ],
            &[(
                "192.0.2.0/24",
                json!({ "autonomous_system_number": 64_500 }),
            )],
        );
        assert_eq!(label(&nested, "192.0.2.1"), "US-CA");
        assert_eq!(label(&nested, "2001:db8::1"), "FR");
        assert_eq!(label(&nested, "198.51.100.1"), "-");
        let found = nested.locate("192.0.2.1".parse().unwrap(), EVERYTHING, &table());
        assert_eq!(
            found.coordinates,
            Some(Coordinates {
                latitude: 37.75,
                longitude: -122.5
            })
        );
        assert_eq!(found.system, Some(64_500));

        let flat = locator(
            &[(
                "192.0.2.0/24",
                json!({ "country_code": "US", "state1": "California", "latitude": 37.75, "longitude": -122.5 }),
            )],
            &[("192.0.2.0/24", json!({ "asn": "AS64501" }))],
        );
        let found = flat.locate("192.0.2.1".parse().unwrap(), EVERYTHING, &table());
        assert_eq!(table().label(found.place), "US");
        assert_eq!(found.coordinates.map(|c| c.latitude), Some(37.75));
        assert_eq!(found.system, Some(64_501));
    }

    #[test]
    fn only_what_is_asked_for_is_looked_up() {
        let nested = locator(
            &[("192.0.2.0/24", json!({ "country": { "iso_code": "US" } }))],
            &[(
                "192.0.2.0/24",
                json!({ "autonomous_system_number": 64_500 }),
            )],
        );
        let nothing = nested.locate(
            "192.0.2.1".parse().unwrap(),
            ClientFacts::default(),
            &table(),
        );
        assert_eq!(nothing, Whereabouts::UNKNOWN);
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_the_damage_is() {
        let sound = database(&[("192.0.2.0/24", json!({ "country": { "iso_code": "US" } }))]);
        for cut in [0, sound.len() / 2, sound.len() - 20] {
            let opened = Database::from_bytes(sound[..cut].to_vec(), "cut".to_owned());
            assert!(opened.is_err(), "cut to {cut} of {}", sound.len());
        }
        let mut wrong = sound;
        wrong[0..30].fill(0xff);
        assert!(Database::from_bytes(wrong, "overwritten".to_owned()).is_err());
        assert!(Database::open(Path::new("/nowhere.mmdb")).is_err());
    }

    #[test]
    fn a_database_that_says_nothing_is_a_worry() {
        let odd = locator(&[("192.0.2.0/24", json!({ "colour": "blue" }))], &[]);
        let worries = odd.worries(Duration::from_secs(1_780_000_000));
        assert!(
            worries[0].contains("says nothing about well-known addresses"),
            "{worries:?}"
        );
    }
}
