//! Where clients are: what the operator says of networks, then what an address is by its purpose, then
//! databases in MaxMind's format.
//!
//! Two schemas are read. MaxMind's own is nested (`country.iso_code`, `location.latitude`), that of
//! the freely redistributable databases is flat (`country_code`, `latitude`); which one a file has
//! is found out when it is opened. Files are read into memory as a whole, because a mapped file that
//! somebody truncates takes the process down with it, and are verified before they are used.

mod number;
mod special;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ipnet::IpNet;
use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions, path};
use portolan_config::diagnostic::{Code, Diagnostic};
use portolan_config::geography::{Coordinates, CountryId, Geography};
use portolan_config::plan::{ClientFacts, GeoIpPlan, LocationId, LocationTable, PlacePatch};
use portolan_config::read_bytes;
use portolan_config::source::{At, Origin};
use serde::de::IgnoredAny;

use self::number::Number;
use self::special::{meant, purpose};

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
    /// What it says of anybody at all.
    knows: Knows,
}

/// What a database says of anybody at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Knows {
    countries: bool,
    subdivisions: bool,
    systems: bool,
}

impl Knows {
    /// What is said of places in this record, too.
    fn learn(&mut self, record: &LookupResult<'_, Bytes>) {
        let both = [Schema::Nested, Schema::Flat];
        self.countries |= both.iter().any(|it| it.country(record).is_some());
        self.subdivisions |= both.iter().any(|it| it.subdivision(record).is_some());
        self.systems |= system(record).is_some();
    }
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
        let bytes = read_bytes(path, LARGEST_FILE).map_err(unreadable)?;
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
        let knows = Knows {
            countries: true,
            ..Knows::default()
        };
        let open = || Arc::new(Self::describe(reader, name, 0, knows));
        Ok(OPEN.get_or_init(open).clone())
    }

    /// Verifies the bytes of a database.
    ///
    /// # Errors
    /// When they are not one, or are damaged anywhere.
    pub fn from_bytes(bytes: Vec<u8>, name: String) -> Result<Self, DatabaseError> {
        let content = hash(&bytes);
        let walked = Reader::from_source(Cow::Owned(bytes)).and_then(|reader| {
            let knows = walk(&reader)?;
            Ok((reader, knows))
        });
        match walked {
            Ok((reader, knows)) => Ok(Self::describe(reader, name, content, knows)),
            Err(error) => Err(DatabaseError::Damaged {
                path: name,
                error: error.to_string(),
            }),
        }
    }

    fn describe(reader: Reader<Bytes>, name: String, content: u64, knows: Knows) -> Self {
        let metadata = reader.metadata();
        let mut database = Self {
            schema: Schema::Nested,
            kind: metadata.database_type.clone(),
            built: Duration::from_secs(metadata.build_epoch),
            knows_anything: false,
            knows,
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
        self.schema.country(record)
    }

    fn subdivision_of<'a>(&'a self, record: &LookupResult<'a, Bytes>) -> Option<&'a str> {
        self.schema.subdivision(record)
    }

    fn coordinates_of(&self, record: &LookupResult<'_, Bytes>) -> Option<Coordinates> {
        let (latitude, longitude) = match self.schema {
            Schema::Nested => (
                real(record, &path!["location", "latitude"])?,
                real(record, &path!["location", "longitude"])?,
            ),
            Schema::Flat => (
                real(record, &path!["latitude"])?,
                real(record, &path!["longitude"])?,
            ),
        };
        Some(Coordinates {
            latitude,
            longitude,
        })
    }

    fn system(&self, address: IpAddr) -> Option<u32> {
        system(&self.reader.lookup(address).ok()?)
    }
}

impl Schema {
    fn country<'a>(self, record: &LookupResult<'a, Bytes>) -> Option<&'a str> {
        match self {
            // A network without a location (an anycast one, say) still has an owner.
            Self::Nested => text(record, &path!["country", "iso_code"])
                .or_else(|| text(record, &path!["registered_country", "iso_code"])),
            Self::Flat => text(record, &path!["country_code"]),
        }
    }

    fn subdivision<'a>(self, record: &LookupResult<'a, Bytes>) -> Option<&'a str> {
        match self {
            Self::Nested => text(record, &path!["subdivisions", 0, "iso_code"]),
            Self::Flat => text(record, &path!["subdivision_code"])
                .or_else(|| text(record, &path!["state_code"])),
        }
    }
}

/// The autonomous system of a record, whatever kind of number it is stored as: MaxMind's have 32 bits.
fn system(record: &LookupResult<'_, Bytes>) -> Option<u32> {
    number(record, &path!["autonomous_system_number"])
        .or_else(|| number(record, &path!["traits", "autonomous_system_number"]))
        .or_else(|| number(record, &path!["asn"]))
        .and_then(Number::system)
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Goes to every network, reads every record once, as requests would, and says what there is. The crate's own `verify`
/// also refuses what harms nobody, like the empty description of every freely redistributable
/// database.
fn walk(reader: &Reader<Bytes>) -> Result<Knows, MaxMindDbError> {
    let mut knows = Knows::default();
    let mut seen = HashSet::new();
    for network in reader.networks(WithinOptions::default())? {
        let network = network?;
        if let Some(offset) = network.offset()
            && seen.insert(offset)
        {
            network.decode::<IgnoredAny>()?;
            knows.learn(&network);
        }
    }
    Ok(knows)
}

fn text<'a>(record: &LookupResult<'a, Bytes>, path: &[PathElement<'_>]) -> Option<&'a str> {
    record.decode_path(path).ok().flatten()
}

fn number(record: &LookupResult<'_, Bytes>, path: &[PathElement<'_>]) -> Option<Number> {
    record.decode_path(path).ok().flatten()
}

fn real(record: &LookupResult<'_, Bytes>, path: &[PathElement<'_>]) -> Option<f64> {
    number(record, path).and_then(Number::real)
}

/// The databases of a configuration.
#[derive(Clone, Debug, Default)]
pub struct Locator {
    places: Option<Arc<Database>>,
    systems: Option<Arc<Database>>,
    patch: Arc<PlacePatch>,
    /// What the databases cannot say although rules ask for it.
    doubts: Vec<Diagnostic>,
}

/// Who says where an address is.
enum Said {
    /// The operator: this network is in that country.
    Patch(IpNet, CountryId),
    /// Nobody: it is nowhere by its purpose.
    Nowhere(&'static str),
    /// Whatever a database says of this address.
    Database(IpAddr),
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
                    Origin::Default,
                    error.to_string(),
                )]
            })?),
            own => own,
        };
        let (wrong, doubts) = gaps(plan, needs, places.as_deref(), systems.as_deref());
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self {
            places,
            systems,
            patch: plan.patch.clone(),
            doubts,
        })
    }

    /// What the databases cannot say although rules ask for it, and which does not keep them from being
    /// used.
    pub fn doubts(&self) -> &[Diagnostic] {
        &self.doubts
    }

    /// Who says where an address is.
    fn said(&self, address: IpAddr) -> Said {
        let known = |address| {
            let (net, country) = self.patch.find(address)?;
            Some(Said::Patch(net, country))
        };
        let asked = meant(address);
        // Whoever knows better may know better of private addresses, above all.
        known(address)
            .or_else(|| known(asked))
            .or_else(|| purpose(asked).map(Said::Nowhere))
            .unwrap_or(Said::Database(asked))
    }

    /// By what it is known where an address is, in words.
    pub fn source_of(&self, address: IpAddr) -> String {
        match self.said(address) {
            Said::Patch(net, _) => format!("geoip.patch {net}"),
            Said::Nowhere(what) => format!("the address is {what}: in no country"),
            Said::Database(asked) => {
                let name = self.places.as_ref().map_or("none", |it| &it.name);
                if asked == address.to_canonical() {
                    format!("database: {name}")
                } else {
                    format!("database: {name}, for {asked}")
                }
            }
        }
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
            let there = read_bytes(&file.value, LARGEST_FILE).ok();
            read.is_some() && there.map(|bytes| hash(&bytes)) == read
        })
    }

    /// Where a client is, as far as `needs` asks.
    pub fn locate(
        &self,
        address: IpAddr,
        needs: ClientFacts,
        locations: &LocationTable,
    ) -> Whereabouts {
        let mut found = Whereabouts::UNKNOWN;
        if needs.place {
            match self.said(address) {
                Said::Patch(_, country) => found.place = locations.country(country),
                Said::Nowhere(_) => {}
                Said::Database(asked) => self.look_up(asked, needs, locations, &mut found),
            }
        }
        if needs.system
            && let Some(database) = &self.systems
            && let asked = meant(address)
            && purpose(asked).is_none()
        {
            found.system = database.system(asked);
        }
        found
    }

    /// What the database of places says of an address.
    fn look_up(
        &self,
        address: IpAddr,
        needs: ClientFacts,
        locations: &LocationTable,
        found: &mut Whereabouts,
    ) {
        let Some(database) = &self.places else {
            return;
        };
        let Ok(record) = database.reader.lookup(address) else {
            return;
        };
        let country = database
            .country_of(&record)
            .and_then(|code| Geography::get().in_database(code));
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

    /// Whether both were read from the same files with the same content.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Database>>, b: &Option<Arc<Database>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.same_content(b),
            _ => false,
        };
        same(&self.places, &other.places)
            && same(&self.systems, &other.systems)
            && self.patch == other.patch
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

/// What rules ask for and the databases cannot say of anybody: what is wrong, and what is only doubtful.
fn gaps(
    plan: &GeoIpPlan,
    needs: ClientFacts,
    places: Option<&Database>,
    systems: Option<&Database>,
) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
    type Make = fn(Code, Origin, String) -> Diagnostic;
    let gap = |make: Make, database: &Database, origin, file: &Option<At<PathBuf>>, what| {
        let file = file.as_ref().map_or(Origin::Default, |file| file.origin);
        let message = format!(
            "the database `{}` ({}) has no {what}: this never matches",
            database.name, database.kind
        );
        let origin = Option::unwrap_or(origin, file);
        let diagnostic = make(Code::NeedsDatabase, origin, message);
        if origin == file {
            diagnostic
        } else {
            diagnostic.related(file, "the database")
        }
    };
    let (mut wrong, mut doubts) = (Vec::new(), Vec::new());
    if let Some(database) = places.filter(|it| needs.place && !it.knows.countries) {
        let found = gap(
            Diagnostic::error,
            database,
            plan.asked.country,
            &plan.database,
            "countries",
        );
        wrong.push(found.help("set `geoip: { database: FILE }` to a city or country database"));
    } else if let Some(database) = places.filter(|it| !it.knows.subdivisions)
        && let (Some(asked), Some(_)) = (plan.asked.subdivision, &plan.database)
    {
        let found = gap(
            Diagnostic::warning,
            database,
            Some(asked),
            &plan.database,
            "parts of countries",
        );
        let found = found.help("set `geoip: { database: FILE }` to a city database");
        doubts.push(found);
    }
    if let Some(database) = systems.filter(|it| needs.system && !it.knows.systems) {
        let found = gap(
            Diagnostic::error,
            database,
            plan.asked.system,
            &plan.asn_database,
            "autonomous systems",
        );
        wrong.push(found.help("set `geoip: { asn_database: FILE }` to a database of them"));
    }
    (wrong, doubts)
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
            ..Locator::default()
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
        let plan = GeoIpPlan::default();
        let locator = Locator::load(&plan, EVERYTHING).unwrap();
        for (address, country) in [
            ("85.214.132.117", "DE"),
            ("133.11.0.1", "JP"),
            ("81.2.69.142", "GB"),
            ("8.8.8.8", "US"),
            ("2001:240::1", "JP"),
            ("::ffff:8.8.8.8", "US"),
            // What the registries' own data said wrong.
            ("2001:268::1", "JP"),
            ("2001:e60::1", "KR"),
            ("2001:da8::1", "CN"),
            ("2001:388::1", "AU"),
            ("154.5.0.1", "CA"),
            ("10.0.0.1", "-"),
            ("172.17.0.2", "-"),
            ("192.168.1.1", "-"),
            ("203.0.113.7", "-"),
            ("2001:db8::1", "-"),
            // IPv4 in IPv6.
            ("64:ff9b::85.214.132.117", "DE"),
            ("2002:55d6:8475::1", "DE"),
            ("2001:0:4136:e378:8000:63bf:aa29:7b8a", "DE"),
            ("64:ff9b::192.168.1.1", "-"),
            ("::8.8.8.8", "-"),
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
                    "23.0.2.0/24",
                    json!({
                        "country": { "iso_code": "US" },
                        "subdivisions": [ { "iso_code": "CA" } ],
                        "location": { "latitude": 37.75, "longitude": -122.5 },
                    }),
                ),
                (
                    "2400:db8::/32",
                    json!({ "registered_country": { "iso_code": "FR" } }),
                ),
            ],
            &[("23.0.2.0/24", json!({ "autonomous_system_number": 64_500 }))],
        );
        assert_eq!(label(&nested, "23.0.2.1"), "US-CA");
        assert_eq!(label(&nested, "2400:db8::1"), "FR");
        assert_eq!(label(&nested, "91.51.100.1"), "-");
        let found = nested.locate("23.0.2.1".parse().unwrap(), EVERYTHING, &table());
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
                "23.0.2.0/24",
                json!({ "country_code": "US", "state1": "California", "latitude": 37.75, "longitude": -122.5 }),
            )],
            &[("23.0.2.0/24", json!({ "asn": "AS64501" }))],
        );
        let found = flat.locate("23.0.2.1".parse().unwrap(), EVERYTHING, &table());
        assert_eq!(table().label(found.place), "US");
        assert_eq!(found.coordinates.map(|c| c.latitude), Some(37.75));
        assert_eq!(found.system, Some(64_501));
    }

    #[test]
    fn special_addresses_are_nowhere_whatever_a_database_says() {
        let everywhere = json!({
            "country": { "iso_code": "US" },
            "autonomous_system_number": 64_500,
            "location": { "latitude": 37.75, "longitude": -122.5 },
        });
        let all = [
            ("0.0.0.0/0", everywhere.clone()),
            ("8000::/1", everywhere.clone()),
            ("2000::/3", everywhere),
        ];
        let locator = locator(&all, &all);
        for nowhere in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "3fff::1",
            "::ffff:10.0.0.1",
            "2002:a00:1::1",
        ] {
            let found = locator.locate(nowhere.parse().unwrap(), EVERYTHING, &table());
            assert_eq!(found, Whereabouts::UNKNOWN, "{nowhere}");
        }
        let found = locator.locate("2600::1".parse().unwrap(), EVERYTHING, &table());
        assert_eq!(found.system, Some(64_500));
    }

    #[test]
    fn the_operator_knows_better_than_everybody() {
        let country = |code| Geography::get().country(code).unwrap();
        let patch = [
            ("10.0.0.0/8", "DE"),
            ("10.1.0.0/16", "FR"),
            ("23.0.2.0/25", "XK"),
            ("fd00::/8", "JP"),
        ];
        let patch = patch.map(|(net, code)| (net.parse().unwrap(), country(code)));
        let mut locator = locator(
            &[(
                "23.0.2.0/24",
                json!({
                    "country": { "iso_code": "US" },
                    "location": { "latitude": 37.75, "longitude": -122.5 },
                }),
            )],
            &[("23.0.2.0/24", json!({ "asn": 64_500 }))],
        );
        let before = locator.clone();
        locator.patch = Arc::new(PlacePatch::new(patch));
        assert!(!locator.says_the_same(&before));
        for (address, place, by) in [
            ("10.2.0.1", "DE", "geoip.patch 10.0.0.0/8"),
            ("10.1.0.1", "FR", "geoip.patch 10.1.0.0/16"),
            ("::ffff:10.1.0.1", "FR", "geoip.patch 10.1.0.0/16"),
            ("64:ff9b::10.1.0.1", "FR", "geoip.patch 10.1.0.0/16"),
            ("fd00::1", "JP", "geoip.patch fd00::/8"),
            ("23.0.2.1", "XK", "geoip.patch 23.0.2.0/25"),
            ("23.0.2.200", "US", "database: test"),
            (
                "64:ff9b::23.0.2.200",
                "US",
                "database: test, for 23.0.2.200",
            ),
            ("192.168.0.1", "-", "the address is private: in no country"),
        ] {
            assert_eq!(label(&locator, address), place, "{address}");
            assert_eq!(locator.source_of(address.parse().unwrap()), by);
        }
        // A network that is elsewhere is not where the database's coordinates are, but its system stays.
        let found = locator.locate("23.0.2.1".parse().unwrap(), EVERYTHING, &table());
        assert_eq!((found.coordinates, found.system), (None, Some(64_500)));
    }

    #[test]
    fn every_kind_of_number_is_the_number_of_a_system() {
        let system = |record: Value| {
            let locator = locator(&[], &[("23.0.2.0/24", record)]);
            locator
                .locate("23.0.2.1".parse().unwrap(), EVERYTHING, &table())
                .system
        };
        for record in [
            json!({ "autonomous_system_number": 64_500 }),
            json!({ "autonomous_system_number": "64500" }),
            json!({ "traits": { "autonomous_system_number": 64_500 } }),
            json!({ "asn": 64_500 }),
            json!({ "asn": "AS64500" }),
            json!({ "asn": "64500" }),
        ] {
            assert_eq!(system(record.clone()), Some(64_500), "{record}");
        }
        for record in [
            json!({ "asn": "" }),
            json!({ "asn": 0 }),
            json!({ "asn": -1 }),
            json!({ "asn": 4_294_967_296_u64 }),
            json!({ "asn": [ 64_500 ] }),
        ] {
            assert_eq!(system(record.clone()), None, "{record}");
        }
        // Each width as MaxMind's format has it, byte by byte: the writer above has one alone.
        let widths: [(&str, &[u8]); 5] = [
            ("16 bits", &[0xa2, 0xfb, 0xf4]),
            ("32 bits", &[0xc2, 0xfb, 0xf4]),
            ("64 bits", &[0x02, 0x02, 0xfb, 0xf4]),
            ("128 bits", &[0x02, 0x03, 0xfb, 0xf4]),
            ("32 bits with a sign", &[0x04, 0x01, 0, 0, 0xfb, 0xf4]),
        ];
        for (width, value) in widths {
            let opened = Database::from_bytes(by_hand(value), width.to_owned()).unwrap();
            assert!(opened.knows.systems && !opened.knows.countries, "{width}");
            let address = "23.0.2.1".parse().unwrap();
            assert_eq!(opened.system(address), Some(64_500), "{width}");
        }
    }

    /// A database in which everybody is in one system, of which the number is stored like this.
    fn by_hand(number: &[u8]) -> Vec<u8> {
        fn text(text: &str) -> Vec<u8> {
            assert!(text.len() < 29);
            [&[2 << 5 | text.len() as u8], text.as_bytes()].concat()
        }
        // One node of 24-bit records, both of which lead to the data behind it.
        let to_data = [0, 0, 17];
        let metadata = [
            vec![7 << 5 | 9],
            text("description"),
            vec![0xe0],
            text("languages"),
            vec![0x00, 0x04],
            text("binary_format_major_version"),
            vec![0xa1, 2],
            text("binary_format_minor_version"),
            vec![0xa0],
            text("build_epoch"),
            vec![0x04, 0x02, 0x6a, 0x18, 0xb7, 0x00],
            text("database_type"),
            text("GeoLite2-ASN"),
            text("ip_version"),
            vec![0xa1, 6],
            text("node_count"),
            vec![0xc1, 1],
            text("record_size"),
            vec![0xa1, 24],
        ];
        [
            &to_data[..],
            &to_data,
            &[0; 16],
            &[7 << 5 | 1],
            &[2 << 5 | 24],
            b"autonomous_system_number",
            number,
            b"\xab\xcd\xefMaxMind.com",
            &metadata.concat(),
        ]
        .concat()
    }

    #[test]
    fn codes_of_databases_mean_countries_or_nothing() {
        for (code, label_) in [
            ("XK", "XK"),
            ("UK", "GB"),
            ("EL", "GR"),
            ("TP", "TL"),
            ("EU", "-"),
            ("AP", "-"),
            ("AN", "-"),
            ("A1", "-"),
            ("T1", "-"),
            ("ZZ", "-"),
            ("", "-"),
            ("None", "-"),
        ] {
            let one = locator(
                &[("23.0.2.0/24", json!({ "country_code": code, "x": 1 }))],
                &[],
            );
            assert_eq!(label(&one, "23.0.2.1"), label_, "{code}");
        }
    }

    #[test]
    fn what_rules_ask_for_and_no_database_says_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, record: Value| {
            std::fs::write(
                folder.path().join(name),
                database(&[("23.0.2.0/24", record)]),
            )
            .unwrap();
        };
        write(
            "city.mmdb",
            json!({
                "country": { "iso_code": "US" }, "subdivisions": [ { "iso_code": "CA" } ],
            }),
        );
        write("country.mmdb", json!({ "country": { "iso_code": "US" } }));
        write("asn.mmdb", json!({ "autonomous_system_number": 64_500 }));
        let said = |database: &str, asn: &str, clients: &str| {
            let text = format!(
                "listeners: [ {{ bind: '127.0.0.1:0' }} ]
pools: {{ a: {{ endpoints: [ '10.0.0.1:80' ] }} }}
geoip: {{ database: {database}, asn_database: {asn} }}
routes: [ {{ to: {{ geo: [ {{ clients: {clients}, to: a }}, {{ to: a }} ] }} }} ]"
            );
            let path = folder.path().join("main.yaml");
            std::fs::write(&path, text).unwrap();
            let checked =
                crate::reload::configuration::check(&path, &portolan_config::Machine::default());
            checked
                .report
                .render(portolan_config::diagnostic::Colours::Off)
        };
        let fine = |database: &str, asn: &str, clients: &str| {
            let said = said(database, asn, clients);
            assert!(!said.contains("never matches"), "{said}");
        };
        fine(
            "city.mmdb",
            "asn.mmdb",
            "{ subdivisions: [ US-CA ], asns: [ 64500 ] }",
        );
        fine("country.mmdb", "asn.mmdb", "{ countries: [ US ] }");
        // Nobody asks for what it has not.
        fine("country.mmdb", "country.mmdb", "{ countries: [ US ] }");
        for (database, asn, clients, kind, what) in [
            (
                "asn.mmdb",
                "asn.mmdb",
                "{ countries: [ US ] }",
                "error",
                "no countries",
            ),
            (
                "asn.mmdb",
                "asn.mmdb",
                "{ in_eu: true }",
                "error",
                "no countries",
            ),
            (
                "city.mmdb",
                "country.mmdb",
                "{ asns: [ 64500 ] }",
                "error",
                "no autonomous systems",
            ),
            (
                "country.mmdb",
                "asn.mmdb",
                "{ subdivisions: [ US-CA ] }",
                "warning",
                "no parts of countries",
            ),
        ] {
            let said = said(database, asn, clients);
            assert!(said.contains(&format!("{kind}[needs-database]")), "{said}");
            assert!(
                said.contains(what) && said.contains("main.yaml:4:"),
                "{said}"
            );
        }
    }

    #[test]
    fn only_what_is_asked_for_is_looked_up() {
        let nested = locator(
            &[("23.0.2.0/24", json!({ "country": { "iso_code": "US" } }))],
            &[("23.0.2.0/24", json!({ "autonomous_system_number": 64_500 }))],
        );
        let nothing = nested.locate(
            "23.0.2.1".parse().unwrap(),
            ClientFacts::default(),
            &table(),
        );
        assert_eq!(nothing, Whereabouts::UNKNOWN);
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_the_damage_is() {
        let sound = database(&[("23.0.2.0/24", json!({ "country": { "iso_code": "US" } }))]);
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
        let odd = locator(&[("23.0.2.0/24", json!({ "colour": "blue" }))], &[]);
        let worries = odd.worries(Duration::from_secs(1_780_000_000));
        assert!(
            worries[0].contains("says nothing about well-known addresses"),
            "{worries:?}"
        );
    }
}
