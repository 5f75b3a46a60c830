//! Where clients are: databases of both schemas and the built-in one, exchanged while they serve,
//! and whose word about a client's address counts.

mod sources;

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::config::{LISTENER, PROBES, TRUSTING, pools};
use crate::harness::geo::database;
use crate::harness::portolan::replace;
use crate::harness::{Ask, Origin, Portolan, eventually};

/// Which pool serves a client.
async fn pool_of(address: SocketAddr, client: &str) -> String {
    let ask = Ask::get("/").header("x-forwarded-for", client);
    let answer = ask.to(address).await.unwrap();
    assert_eq!(answer.status, 200, "{client}: {}", answer.text());
    answer.header("x-portolan-pool").to_owned()
}

/// Two pools, told apart by a rule about clients.
async fn config(clients: &str, more: &str) -> (String, [Origin; 2]) {
    let origins = [Origin::start("them").await, Origin::start("rest").await];
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        more,
        &pools(&[("them", &[&origins[0]], ""), ("rest", &[&origins[1]], "")]),
        &format!("routes: [ {{ expose: true, to: {{ geo: [ {{ clients: {clients}, to: them }}, {{ to: rest }} ] }} }} ]\n"),
    ]
    .concat();
    (config, origins)
}

const CITY: &str = "geoip: { database: geo.mmdb }\n";
const SYSTEMS: &str = "geoip: { asn_database: asn.mmdb }\n";

fn nested() -> Vec<u8> {
    let place = |country: &str, continent: &str, in_eu: bool, subdivision: &str| {
        json!({
            "continent": { "code": continent },
            "country": { "iso_code": country, "is_in_european_union": in_eu },
            "subdivisions": [ { "iso_code": subdivision } ],
        })
    };
    database(
        "GeoIP2-City",
        &[
            ("23.0.2.0/25", place("US", "NA", false, "CA")),
            ("23.0.2.128/25", place("US", "NA", false, "NY")),
            ("91.51.100.0/24", place("FR", "EU", true, "IDF")),
            ("81.0.113.0/24", place("GB", "EU", false, "ENG")),
            ("2400:db8::/32", place("JP", "AS", false, "13")),
        ],
    )
}

fn flat() -> Vec<u8> {
    let place = |country: &str| json!({ "country_code": country });
    database(
        "country ipvAll",
        &[
            ("23.0.2.0/24", place("US")),
            ("91.51.100.0/24", place("FR")),
            ("81.0.113.0/24", place("GB")),
            ("2400:db8::/32", place("JP")),
        ],
    )
}

/// Checks a rule against clients of whom it is known whether they match.
async fn check(clients: &str, file: &[u8], cases: &[(&str, bool)]) {
    let (config, _origins) = config(clients, CITY).await;
    let portolan = Portolan::with(&config).file("geo.mmdb", file).start().await;
    let address = portolan.address().await;
    for (client, matches) in cases {
        let expected = if *matches { "them" } else { "rest" };
        assert_eq!(
            pool_of(address, client).await,
            expected,
            "{clients} {client}"
        );
    }
}

const CALIFORNIA: &str = "23.0.2.1";
const NEW_YORK: &str = "23.0.2.200";
const FRANCE: &str = "91.51.100.7";
const BRITAIN: &str = "81.0.113.7";
const JAPAN: &str = "2400:db8::7";
const NOWHERE: &str = "10.9.8.7";

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_apart_by_every_property_a_nested_database_has() {
    let file = nested();
    let case = async |clients: &str, matching: &[&str]| {
        let everybody = [CALIFORNIA, NEW_YORK, FRANCE, BRITAIN, JAPAN, NOWHERE];
        let cases: Vec<(&str, bool)> = everybody
            .iter()
            .map(|client| (*client, matching.contains(client)))
            .collect();
        check(clients, &file, &cases).await;
    };
    case("{ countries: [ US, JP ] }", &[CALIFORNIA, NEW_YORK, JAPAN]).await;
    case("{ continents: [ EU ] }", &[FRANCE, BRITAIN]).await;
    case("{ subdivisions: [ US-CA ] }", &[CALIFORNIA]).await;
    case("{ in_eu: true }", &[FRANCE]).await;
    case("{ cloudflare_regions: [ WEU ] }", &[FRANCE, BRITAIN]).await;
    case(
        "{ cidrs: [ 23.0.2.0/26, \"2400:db8::/48\" ] }",
        &[CALIFORNIA, JAPAN],
    )
    .await;
    case(
        "{ subdivisions: [ US-NY ], countries: [ FR ] }",
        &[NEW_YORK, FRANCE],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flat_database_serves_as_well() {
    let file = flat();
    check(
        "{ continents: [ EU ] }",
        &file,
        &[
            (FRANCE, true),
            (BRITAIN, true),
            (CALIFORNIA, false),
            (JAPAN, false),
        ],
    )
    .await;
    check(
        "{ in_eu: true }",
        &file,
        &[(FRANCE, true), (BRITAIN, false)],
    )
    .await;
    check(
        "{ countries: [ JP ] }",
        &file,
        &[(JAPAN, true), (NOWHERE, false)],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn autonomous_systems_have_a_database_of_their_own() {
    for record in [
        json!({ "autonomous_system_number": 64_500 }),
        json!({ "asn": "64500" }),
    ] {
        let file = database("ASN", &[("23.0.2.0/24", record)]);
        let (config, _origins) = config("{ asns: [ 64500 ] }", SYSTEMS).await;
        let portolan = Portolan::with(&config).file("asn.mmdb", file).start().await;
        let address = portolan.address().await;
        assert_eq!(pool_of(address, CALIFORNIA).await, "them");
        assert_eq!(pool_of(address, FRANCE).await, "rest");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_database_works_out_of_the_box() {
    let (config, _origins) = config("{ countries: [ DE, JP ] }", "").await;
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    assert_eq!(pool_of(address, "85.214.132.117").await, "them", "Germany");
    assert_eq!(pool_of(address, "133.11.0.1").await, "them", "Japan");
    assert_eq!(pool_of(address, "2001:240::1").await, "them", "Japan");
    assert_eq!(pool_of(address, "8.8.8.8").await, "rest");
    assert_eq!(pool_of(address, "81.2.69.142").await, "rest");
    let status = portolan.api("/status").await;
    assert_eq!(status["geo"][0]["name"], "built in", "{status}");
    assert!(status["geo"][0]["built"].as_u64().unwrap() > 1_780_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_database_is_used_at_once_and_a_corrupt_one_never() {
    let (config, _origins) = config("{ countries: [ US ] }", CITY).await;
    let portolan = Portolan::with(&config)
        .file("geo.mmdb", nested())
        .start()
        .await;
    let address = portolan.address().await;
    assert_eq!(pool_of(address, CALIFORNIA).await, "them");
    let path = portolan.folder().join("geo.mmdb");
    let new = portolan.folder().join("geo.new");

    // The same networks, now in France.
    let moved: Value = json!({ "country": { "iso_code": "FR" } });
    std::fs::write(&new, database("GeoIP2-City", &[("23.0.2.0/24", moved)])).unwrap();
    std::fs::rename(&new, &path).unwrap();
    eventually("the new database is used", async || {
        (pool_of(address, CALIFORNIA).await == "rest").then_some(())
    })
    .await;
    let status = portolan.api("/status").await;
    assert_eq!(
        status["config"]["generation"], 1,
        "the configuration is the same"
    );

    // Cut off, and then something else entirely.
    for corrupt in [&nested()[..200], b"not a database at all"] {
        let refused = portolan
            .metric("portolan_config_reloads_total", &["refused"])
            .await;
        std::fs::write(&new, corrupt).unwrap();
        std::fs::rename(&new, &path).unwrap();
        eventually("the corrupt file is refused", async || {
            let now = portolan
                .metric("portolan_config_reloads_total", &["refused"])
                .await;
            (now > refused).then_some(())
        })
        .await;
        assert_eq!(
            pool_of(address, CALIFORNIA).await,
            "rest",
            "the good one serves"
        );
    }
    let status = portolan.api("/status").await;
    let error = status["config"]["last_reload"]["error"].as_str().unwrap();
    assert!(error.contains("geo.mmdb"), "{error}");

    // And mended.
    std::fs::write(&new, nested()).unwrap();
    std::fs::rename(&new, &path).unwrap();
    eventually("the mended database is used", async || {
        (pool_of(address, CALIFORNIA).await == "them").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_corrupt_database_is_an_error_at_the_start() {
    let (config, _origins) = config("{ countries: [ US ] }", CITY).await;
    let (status, said) = Portolan::with(&config).run_to_end().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("geo.mmdb") && said.contains("portolan.yaml:"),
        "{said}"
    );
    let corrupt = Portolan::with(&config).file("geo.mmdb", &flat()[..100]);
    let (status, said) = corrupt.run_to_end().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("geo.mmdb"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_knows_nobody_is_a_warning() {
    let (config, _origins) = config("{ countries: [ US ] }", CITY).await;
    let place = json!({ "country": { "iso_code": "US" } });
    let file = database("Here", &[("23.0.2.0/24", place)]);
    let portolan = Portolan::with(&config).file("geo.mmdb", file).start().await;
    let status = portolan.api("/status").await;
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("says nothing about"), "{warnings}");
    portolan.wait_for_log("says nothing about").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_trusted_peers_say_who_the_client_is() {
    let rule = "{ cidrs: [ 192.0.2.0/24 ] }";
    let (config, _origins) = config(rule, "").await;
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    // The right-most address that is not trusted counts, whatever stands before it.
    for (header, pool) in [
        ("192.0.2.1", "them"),
        ("192.0.2.1, 127.0.0.9", "them"),
        ("192.0.2.1, 198.51.100.1", "rest"),
        ("198.51.100.1, 192.0.2.1", "them"),
        ("192.0.2.1:8080", "them"),
        ("[::ffff:192.0.2.1]:99", "them"),
        ("::ffff:192.0.2.1", "them"),
        ("garbage", "rest"),
        ("192.0.2.1, garbage", "rest"),
        ("", "rest"),
    ] {
        assert_eq!(pool_of(address, header).await, pool, "{header:?}");
    }
    // Nobody is trusted: the header says nothing.
    let nobody = config.replace("trusted: [ 127.0.0.0/8 ]", "trusted: []");
    portolan.change(&nobody).await;
    assert_eq!(pool_of(address, "192.0.2.1").await, "rest");
    // A header with a single address, as some networks in front send.
    let single = config.replace("X-Forwarded-For", "CF-Connecting-IP");
    portolan.change(&single).await;
    let ask = Ask::get("/").header("cf-connecting-ip", "192.0.2.1");
    let answer = ask.to(address).await.unwrap();
    assert_eq!(answer.header("x-portolan-pool"), "them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_swapped_like_kubernetes_swaps_it_is_seen() {
    let (config, _origins) = config(
        "{ countries: [ US ] }",
        "geoip: { database: mounted/geo.mmdb }\n",
    )
    .await;
    let builder = Portolan::with(&config)
        .file("..v1/geo.mmdb", nested())
        .file(
            "..v2/geo.mmdb",
            database(
                "Empty",
                &[("8.8.8.0/24", json!({ "country": { "iso_code": "US" } }))],
            ),
        );
    let folder = builder.folder().to_owned();
    std::os::unix::fs::symlink("..v1", folder.join("mounted")).unwrap();
    let portolan = builder.start().await;
    let address = portolan.address().await;
    assert_eq!(pool_of(address, CALIFORNIA).await, "them");
    std::os::unix::fs::symlink("..v2", folder.join("next")).unwrap();
    std::fs::rename(folder.join("next"), folder.join("mounted")).unwrap();
    eventually("the other folder is used", async || {
        (pool_of(address, CALIFORNIA).await == "rest").then_some(())
    })
    .await;
    // The configuration is untouched by all this.
    replace(
        &portolan.config_path(),
        &std::fs::read_to_string(portolan.config_path()).unwrap(),
    );
    assert_eq!(portolan.generation().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_in_no_country_unless_the_operator_says_so() {
    let origins = [
        Origin::start("frankfurt").await,
        Origin::start("sydney").await,
    ];
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        &pools(&[
            ("frankfurt", &[&origins[0]], ", latitude: 50.11, longitude: 8.68"),
            ("sydney", &[&origins[1]], ", latitude: -33.87, longitude: 151.21"),
        ]),
        "routes:
  - { path: /allow, to: frankfurt, allow: { countries: [ AU, JP, US ] } }
  - { path: /deny, to: frankfurt, deny: { continents: [ AF, AN, AS, EU, NA, OC, SA ] } }
  - { path: /geo, expose: true, to: { geo: [ { clients: { countries: [ AU, JP, US ] }, to: sydney }, { to: frankfurt } ] } }
  - { path: /near, expose: true, to: { nearest: [ frankfurt, sydney ] } }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    let seen = async |client: &str| {
        let ask = async |path: &str| {
            let ask = Ask::get(path).header("x-forwarded-for", client);
            ask.to(address).await.unwrap()
        };
        (
            ask("/allow").await.status,
            ask("/deny").await.status,
            ask("/geo").await.header("x-portolan-pool").to_owned(),
            ask("/near").await.header("x-portolan-pool").to_owned(),
        )
    };
    let nowhere = (403, 200, "frankfurt".to_owned(), "frankfurt".to_owned());
    let australia = (200, 403, "sydney".to_owned(), "sydney".to_owned());
    for client in [
        "10.0.0.1",
        "172.17.0.2",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.1.1",
        "198.51.100.7",
        "203.0.113.7",
        "fd00::1",
        "fe80::1",
        "2001:db8::1",
        "::ffff:172.17.0.2",
        "::ffff:ac11:2",
    ] {
        assert_eq!(seen(client).await, nowhere, "{client}");
    }
    assert_eq!(seen("1.128.0.1").await, australia, "Telstra");
    let patched = format!(
        "{config}geoip: {{ patch: {{ 172.16.0.0/12: AU, 172.17.9.0/24: DE, 1.128.0.0/16: XK }} }}\n"
    );
    portolan.change(&patched).await;
    assert_eq!(seen("172.17.0.2").await, australia);
    assert_eq!(seen("::ffff:172.17.0.2").await, australia);
    assert_eq!(seen("192.168.1.1").await, nowhere);
    let europe = (403, 403, "frankfurt".to_owned(), "frankfurt".to_owned());
    assert_eq!(
        seen("172.17.9.1").await,
        europe,
        "the longest network counts"
    );
    assert_eq!(seen("1.128.0.1").await, europe, "before any database");
    portolan.change(&config).await;
    assert_eq!(seen("172.17.0.2").await, nowhere);
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_ipv4_written_in_ipv6_are_networks_of_ipv4() {
    let origin = Origin::start("a").await;
    let config = [
        LISTENER,
        PROBES,
        "client_ip: { header: X-Forwarded-For, trusted: [ '::ffff:127.0.0.0/104' ] }\n",
        &pools(&[("a", &[&origin], "")]),
        "routes:
  - { path: /deny, to: a, deny: { cidrs: [ '::ffff:192.0.2.0/120', '::ffff:198.51.100.7' ] } }
  - { path: /allow, to: a, allow: { cidrs: [ '::ffff:c000:200/120' ] } }
  - { path: /six, to: a, allow: { cidrs: [ '::/0' ] } }
",
    ]
    .concat();
    let portolan = Portolan::start(&config).await;
    let address = portolan.address().await;
    for (path, client, status) in [
        ("/deny", "192.0.2.7", 403),
        ("/deny", "::ffff:192.0.2.7", 403),
        ("/deny", "::FFFF:c000:207", 403),
        ("/deny", "198.51.100.7", 403),
        ("/deny", "198.51.100.8", 200),
        ("/deny", "127.0.0.1", 200),
        ("/allow", "192.0.2.7", 200),
        ("/allow", "198.51.100.8", 403),
        // Everything of IPv6 is nothing of IPv4.
        ("/six", "2001:db8::1", 200),
        ("/six", "192.0.2.7", 403),
        ("/six", "::ffff:192.0.2.7", 403),
    ] {
        let ask = Ask::get(path).header("x-forwarded-for", client);
        let answer = ask.to(address).await.unwrap();
        assert_eq!(answer.status, status, "{path} {client}");
    }
}
