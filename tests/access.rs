//! Who may come: by network, country and autonomous system, at a listener and at a route.

use serde_json::{Value, json};

use crate::harness::client::Answer;
use crate::harness::config::{PROBES, TRUSTING, pools};
use crate::harness::geo::database;
use crate::harness::portolan::{command_in, stdout};
use crate::harness::{Ask, Origin, Portolan, eventually};

const LISTENER: &str = "listeners: [ { bind: \"127.0.0.1:0\", deny: { cidrs: [ 192.0.2.66, \"2001:db8:bad::/48\" ] } } ]\n";

const ROUTES: &str = "access_log: { to: access.log }
geoip: { database: geo.mmdb, asn_database: asn.mmdb }
routes:
  - { name: open, path: /, to: a }
  - { name: german, path: /german, to: a, allow: { countries: [ DE ] } }
  - { name: inside, path: /inside, to: a, allow: { cidrs: [ 10.0.0.0/8, \"2001:db8::/32\" ] }, deny: { cidrs: [ 10.6.6.0/24 ] } }
  - { name: no-robots, path: /no-robots, to: a, deny: { asns: [ 64500 ] } }
";

const GERMAN: &str = "91.51.100.7";
const FRENCH: &str = "81.0.113.7";
const ROBOT: &str = "81.0.113.200";
const NOWHERE: &str = "10.9.8.7";

async fn start(origin: &Origin) -> Portolan {
    let config = [
        LISTENER,
        PROBES,
        TRUSTING,
        ROUTES,
        &pools(&[("a", &[origin], "")]),
    ]
    .concat();
    let country = |code: &str| json!({ "country": { "iso_code": code } });
    let places = database(
        "GeoLite2-Country",
        &[
            ("91.51.100.0/24", country("DE")),
            ("81.0.113.0/24", country("FR")),
        ],
    );
    let systems = database(
        "GeoLite2-ASN",
        &[(
            "81.0.113.128/25",
            json!({ "autonomous_system_number": 64_500 }),
        )],
    );
    Portolan::with(&config)
        .file("geo.mmdb", places)
        .file("asn.mmdb", systems)
        .start()
        .await
}

async fn ask(portolan: &Portolan, path: &str, client: &str) -> Answer {
    let ask = Ask::get(path).header("x-forwarded-for", client);
    ask.to(portolan.address().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_let_in_and_kept_out_by_what_is_known_of_them() {
    let origin = Origin::start("a").await;
    let portolan = start(&origin).await;
    for (path, client, expected) in [
        ("/", NOWHERE, 200),
        ("/", GERMAN, 200),
        // The listener's word holds for every route, and for paths that no route takes.
        ("/", "192.0.2.66", 403),
        ("/", "192.0.2.67", 200),
        ("/", "2001:db8:bad:1::1", 403),
        ("/inside", "2001:db8:bad:1::1", 403),
        ("/german", GERMAN, 200),
        ("/german", FRENCH, 403),
        // Who cannot be placed is in no country.
        ("/german", NOWHERE, 403),
        ("/inside", NOWHERE, 200),
        ("/inside", "2001:db8:1::1", 200),
        ("/inside", GERMAN, 403),
        // `deny` wins.
        ("/inside", "10.6.6.6", 403),
        ("/inside", "::ffff:10.6.6.6", 403),
        ("/no-robots", ROBOT, 403),
        ("/no-robots", FRENCH, 200),
        ("/no-robots", NOWHERE, 200),
    ] {
        let before = origin.hits();
        let answer = ask(&portolan, path, client).await;
        assert_eq!(answer.status, expected, "{path} from {client}");
        let passed = origin.hits() - before;
        assert_eq!(passed, u64::from(expected == 200), "{path} from {client}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_request_is_explained_and_counted() {
    let origin = Origin::start("a").await;
    let portolan = start(&origin).await;
    let answer = ask(&portolan, "/german", FRENCH).await;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.json()["detail"], "Access is not allowed from here.");
    assert!(!answer.text().contains("DE"), "whom it allows is not told");
    let refused = "portolan_refused_requests_total";
    let reason = ["reason=\"access_denied\""];
    portolan.wait_for_metric(refused, &reason, 1.0).await;
    let line = eventually("the access log says why", async || {
        let text = std::fs::read_to_string(portolan.folder().join("access.log")).ok()?;
        serde_json::from_str::<Value>(text.lines().next()?).ok()
    })
    .await;
    assert_eq!(line["refused"], "access_denied");
    assert_eq!(line["why"], "the route allows only DE");
    let config = portolan.config_path();
    let url = "http://any.example.com/german";
    let asked = command_in(
        portolan.folder(),
        &[
            "explain",
            "--config",
            config.to_str().unwrap(),
            "--client-ip",
            FRENCH,
            url,
        ],
    )
    .await;
    let said = stdout(&asked);
    assert!(said.contains("the route allows only DE"), "{said}");
    assert!(said.contains("answered by Portolan itself: 403"), "{said}");
}
