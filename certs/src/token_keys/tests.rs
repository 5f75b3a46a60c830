//! Sets of keys good and bad, and tokens that tell the truth or lie.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portolan_config::{Machine, check_text};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::json;

use super::*;

/// The public keys of RFC 7515, A.2 and A.3, and of RFC 8037, A.2.
pub(crate) const SET: &str = r#"{"keys": [
  {"kty": "RSA", "use": "sig", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"},
  {"kty": "EC", "crv": "P-256", "kid": "curve", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
  {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwaaPJHURoo"}
]}"#;

/// The same payload in both: issued by `joe`, until 1300819380.
const RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

fn policy(more: &str) -> TokenPolicy {
    let text = format!(
        "
listeners: [ {{ bind: '127.0.0.1:80' }} ]
pools: {{ a: {{ endpoints: [ '10.0.0.1:80' ] }} }}
routes: [ {{ to: a, auth: {{ jwt: {{ keys: {{ file: keys.json }}, {more} }} }} }} ]
"
    );
    let checked = check_text("t.yaml", text, &Machine::default());
    let plan = checked
        .plan
        .unwrap_or_else(|| panic!("{:?}", checked.report.first_error()));
    TokenPolicy::new(plan.routes[0].auth.as_ref().unwrap().jwt().unwrap())
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_examples_of_the_standards_hold() {
    let keys = TokenKeys::parse(SET.as_bytes()).unwrap();
    assert_eq!((keys.count(), keys.ignored()), (3, 0));
    let policy = policy("issuer: joe");
    for token in [RS256, ES256] {
        let claims = keys.believe(token, &policy, at(1_300_819_379)).unwrap();
        assert_eq!(claims["http://example.com/is_root"], true);
        // The leeway is a minute.
        assert!(keys.believe(token, &policy, at(1_300_819_439)).is_ok());
        let late = keys.believe(token, &policy, at(1_300_819_440));
        assert_eq!(late, Err(Doubt::Expired));
    }
}

/// Whoever signs tokens in these tests.
struct Signer {
    curve: EcdsaKeyPair,
    ed: Ed25519KeyPair,
    random: SystemRandom,
}

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let curve = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            curve: EcdsaKeyPair::from_pkcs8(algorithm, curve.as_ref(), &random).unwrap(),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            random,
        }
    }

    fn keys(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = self.curve.public_key().as_ref();
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "kid": "c", "alg": "ES256", "x": text(&point[1..33]), "y": text(&point[33..]) },
            { "kty": "OKP", "crv": "Ed25519", "kid": "e", "x": text(self.ed.public_key().as_ref()) },
        ] })
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = match header["alg"].as_str() {
            Some("EdDSA") => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
            _ => {
                let signed = self.curve.sign(&self.random, message.as_bytes());
                signed.unwrap().as_ref().to_vec()
            }
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn read(set: &Value) -> TokenKeys {
    TokenKeys::parse(set.to_string().as_bytes()).unwrap()
}

#[test]
fn what_a_token_says_is_believed_only_of_whom_it_should_be() {
    let signer = Signer::new();
    let keys = read(&signer.keys());
    let policy = policy("issuer: [ joe, jane ], audience: [ api, admin ]");
    let header = json!({ "alg": "EdDSA", "kid": "e" });
    let good =
        json!({ "iss": "jane", "aud": ["other", "api"], "exp": 2_000, "nbf": 1_000, "sub": "s" });
    let judge = |claims: &Value| keys.believe(&signer.sign(&header, claims), &policy, at(1_500));
    assert_eq!(judge(&good).unwrap()["sub"], "s");
    let mut changed = good.clone();
    changed["aud"] = json!("admin");
    assert!(judge(&changed).is_ok());
    for (claim, value, doubt) in [
        ("iss", json!("eve"), Doubt::Issuer),
        ("iss", Value::Null, Doubt::Issuer),
        ("iss", json!(7), Doubt::Issuer),
        ("aud", json!("other"), Doubt::Audience),
        ("aud", json!([]), Doubt::Audience),
        ("aud", Value::Null, Doubt::Audience),
        ("exp", json!(1_440), Doubt::Expired),
        ("exp", Value::Null, Doubt::Malformed),
        ("exp", json!("2000"), Doubt::Malformed),
        ("exp", json!(-1), Doubt::Malformed),
        ("nbf", json!(1_561), Doubt::NotYet),
        ("nbf", json!("soon"), Doubt::Malformed),
    ] {
        let mut bad = good.clone();
        if value.is_null() {
            bad.as_object_mut().unwrap().remove(claim);
        } else {
            bad[claim] = value.clone();
        }
        assert_eq!(judge(&bad), Err(doubt), "{claim}: {value}");
    }
    let list = json!(["not", "an", "object"]);
    assert_eq!(judge(&list), Err(Doubt::Malformed));
}

#[test]
fn tokens_that_lie_about_their_signature_are_not_believed() {
    let signer = Signer::new();
    let mut set = signer.keys();
    let rsa: Value = serde_json::from_str(SET).unwrap();
    set["keys"]
        .as_array_mut()
        .unwrap()
        .push(rsa["keys"][0].clone());
    let keys = read(&set);
    let policy = policy("issuer: joe");
    let claims = json!({ "iss": "joe", "exp": 2_000 });
    let judge = |token: &str| keys.believe(token, &policy, at(1_500)).unwrap_err();
    let signed = |header: Value| judge(&signer.sign(&header, &claims));
    assert_eq!(signed(json!({ "alg": "none" })), Doubt::Malformed);
    assert_eq!(
        signed(json!({ "alg": "ES256K", "kid": "c" })),
        Doubt::Malformed
    );
    assert_eq!(signed(json!({ "kid": "c" })), Doubt::Malformed);
    assert_eq!(
        signed(json!({ "alg": "HS256", "kid": "c" })),
        Doubt::Algorithm
    );
    // Another key of the set, another algorithm than the key's, and a key that is none of these.
    assert_eq!(
        signed(json!({ "alg": "ES256", "kid": "e" })),
        Doubt::UnknownKey
    );
    assert_eq!(
        signed(json!({ "alg": "ES384", "kid": "c" })),
        Doubt::UnknownKey
    );
    assert_eq!(
        signed(json!({ "alg": "ES256", "kid": "x" })),
        Doubt::UnknownKey
    );
    assert_eq!(signed(json!({ "alg": "RS256" })), Doubt::UnknownKey);
    let critical = json!({ "alg": "ES256", "kid": "c", "crit": ["b64"], "b64": false });
    assert_eq!(signed(critical), Doubt::Malformed);
    // A shared secret that everybody knows: the public key.
    let n = rsa["keys"][0]["n"].as_str().unwrap();
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(n).unwrap());
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!(
        "{}.{}",
        part(json!({ "alg": "HS256" })),
        part(claims.clone())
    );
    let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&secret, message.as_bytes()));
    assert_eq!(judge(&format!("{message}.{tag}")), Doubt::Algorithm);
    // Changed behind the signer's back.
    let token = signer.sign(&json!({ "alg": "ES256", "kid": "c" }), &claims);
    assert!(keys.believe(&token, &policy, at(1_500)).is_ok());
    let parts: Vec<&str> = token.split('.').collect();
    let forged = part(json!({ "iss": "joe", "exp": 9_000 }));
    let forged = format!("{}.{forged}.{}", parts[0], parts[2]);
    assert_eq!(judge(&forged), Doubt::Signature);
    for bad in [
        String::new(),
        "..".to_owned(),
        "a.b".to_owned(),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{token}."),
        format!("{token}.x"),
        token.replace('.', " "),
        "ä.ö.ü".to_owned(),
    ] {
        assert!(
            matches!(judge(&bad), Doubt::Malformed | Doubt::Signature),
            "{bad}"
        );
    }
    assert_eq!(judge(&"a".repeat(LONGEST_TOKEN + 1)), Doubt::TooLong);
}

#[test]
fn a_key_is_only_used_for_what_is_allowed() {
    let signer = Signer::new();
    let keys = read(&signer.keys());
    let claims = json!({ "exp": 2_000 });
    let curve = signer.sign(&json!({ "alg": "ES256" }), &claims);
    let ed = signer.sign(&json!({ "alg": "EdDSA" }), &claims);
    let only = policy("issuer: x, audience: y, algorithms: [ EdDSA ]");
    assert_eq!(keys.believe(&curve, &only, at(1)), Err(Doubt::Algorithm));
    let anybody = policy("algorithms: [ EdDSA, RS256 ]");
    assert!(keys.believe(&ed, &anybody, at(1)).is_ok());
    assert_eq!(keys.believe(&curve, &anybody, at(1)), Err(Doubt::Algorithm));
}

#[test]
fn keys_that_cannot_be_used_are_left_out_and_the_others_count() {
    let signer = Signer::new();
    let mut set = signer.keys();
    let others = [
        json!({ "kty": "oct", "k": "c2VjcmV0" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": "AAAA" }),
        json!({ "kty": "OKP", "crv": "Ed448", "x": "AAAA" }),
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA" }),
        json!({ "kty": "new", "q": 7 }),
    ];
    let changed = |name: &str, value: Value| {
        let mut key = set["keys"][0].clone();
        key[name] = value;
        key
    };
    let purposes = [
        changed("use", json!("enc")),
        changed("key_ops", json!(["wrapKey"])),
        changed("alg", json!("HS256")),
        changed("alg", json!("RSA-OAEP")),
        changed("alg", json!("ES256K")),
        changed("alg", json!(7)),
    ];
    let list = set["keys"].as_array_mut().unwrap();
    list.extend(others.clone());
    list.extend(purposes);
    let keys = read(&set);
    assert_eq!((keys.count(), keys.ignored()), (2, 13));
    assert_eq!(keys.faults(), []);
    let none = json!({ "keys": others }).to_string();
    assert_eq!(
        TokenKeys::parse(none.as_bytes()).unwrap_err(),
        KeysError::NoneFit(7, Vec::new())
    );
    let rsa = |n: &str, e: &str| json!({ "kty": "RSA", "n": n, "e": e });
    let small = URL_SAFE_NO_PAD.encode([0xff; 128]);
    let whole = URL_SAFE_NO_PAD.encode([0xff; 256]);
    let claims = json!({ "exp": 2_000 });
    let tokens = [
        signer.sign(&json!({ "alg": "ES256", "kid": "c" }), &claims),
        signer.sign(&json!({ "alg": "EdDSA", "kid": "e" }), &claims),
    ];
    let policy = policy("issuer: x, audience: y, algorithms: [ ES256, EdDSA ]");
    let anybody = self::policy("algorithms: [ ES256, EdDSA ]");
    for broken in [
        rsa(&small, "AQAB"),
        rsa(&whole, "AQ"),
        rsa(&whole, "Ag"),
        rsa(&whole, ""),
        rsa("!", "AQAB"),
        json!({ "kty": "RSA", "n": 7, "e": "AQAB" }),
        json!({ "kty": "RSA" }),
        json!({ "kty": "EC" }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-256", "x": whole, "y": "AAAA" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" }),
        json!({ "kty": "OKP", "crv": "Ed25519" }),
        json!({ "kid": "c" }),
        json!({ "kty": null }),
        json!(7),
        Value::Null,
        json!([]),
    ] {
        let mut set = signer.keys();
        set["keys"]
            .as_array_mut()
            .unwrap()
            .insert(0, broken.clone());
        let keys = read(&set);
        assert_eq!((keys.count(), keys.ignored()), (2, 0), "{broken}");
        let faults = keys.faults();
        assert!(
            matches!(
                faults,
                [KeyFault {
                    number: 1,
                    used: false,
                    ..
                }]
            ),
            "{broken}"
        );
        for token in &tokens {
            assert!(keys.believe(token, &anybody, at(1)).is_ok(), "{broken}");
            assert!(keys.believe(token, &policy, at(1)).is_err());
        }
    }
    for text in [
        "",
        "[]",
        "{}",
        "{\"keys\": {}}",
        "<html>",
        "{\"keys\": [7]}",
    ] {
        assert!(TokenKeys::parse(text.as_bytes()).is_err(), "{text}");
    }
    let many = json!({ "keys": vec![signer.keys()["keys"][0].clone(); 101] }).to_string();
    assert!(TokenKeys::parse(many.as_bytes()).is_err());
}

#[test]
fn keys_of_one_name_are_all_tried() {
    let (one, two) = (Signer::new(), Signer::new());
    let mut set = one.keys();
    let more = two.keys()["keys"].as_array().unwrap().clone();
    set["keys"].as_array_mut().unwrap().extend(more);
    let keys = read(&set);
    let policy = policy("algorithms: [ ES256, EdDSA ]");
    for signer in [&one, &two] {
        for header in [
            json!({ "alg": "ES256", "kid": "c" }),
            json!({ "alg": "EdDSA", "kid": "e" }),
        ] {
            let token = signer.sign(&header, &json!({ "exp": 2_000 }));
            assert!(keys.believe(&token, &policy, at(1)).is_ok(), "{header}");
        }
    }
}

/// A number as some write it who publish keys: with its sign, with padding, or shortened.
#[test]
fn keys_are_read_however_their_numbers_are_written() {
    let signer = Signer::new();
    let policy = policy("algorithms: [ ES256, RS256 ]");
    let token = signer.sign(
        &json!({ "alg": "ES256", "kid": "c" }),
        &json!({ "exp": 2_000 }),
    );
    let point = signer.curve.public_key().as_ref().to_vec();
    let padded = |bytes: &[u8]| base64::prelude::BASE64_STANDARD.encode(bytes);
    let short = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        URL_SAFE_NO_PAD.encode(&bytes[zeros..])
    };
    for write in [&padded as &dyn Fn(&[u8]) -> String, &short] {
        let key = json!({ "kty": "EC", "crv": "P-256", "x": write(&point[1..33]), "y": write(&point[33..]) });
        let keys = read(&json!({ "keys": [key] }));
        assert!(keys.believe(&token, &policy, at(1)).is_ok());
    }
    let rsa: Value = serde_json::from_str(SET).unwrap();
    let n = URL_SAFE_NO_PAD
        .decode(rsa["keys"][0]["n"].as_str().unwrap())
        .unwrap();
    let signed = padded(&[&[0], n.as_slice()].concat());
    let keys = read(&json!({ "keys": [{ "kty": "RSA", "n": signed, "e": "AAEAAQ==" }] }));
    assert!(keys.believe(RS256, &policy, at(1)).is_ok());
}

/// Sets as those publish them who issue most of the world's tokens. Their numbers are others; their
/// members, and what is odd about them, are theirs.
#[test]
fn sets_of_well_known_issuers_are_read() {
    let signer = Signer::new();
    let own = signer.keys();
    let (point, edwards) = (&own["keys"][0], &own["keys"][1]);
    let standards: Value = serde_json::from_str(SET).unwrap();
    let (n, e) = (&standards["keys"][0]["n"], &standards["keys"][0]["e"]);
    let chain = json!(["MIIDBTCCAe2gAwIBAgIQ"]);
    let (x, y) = (&point["x"], &point["y"]);
    let sets = [
        // Google.
        (
            1,
            0,
            json!({ "keys": [
                { "e": e, "n": n, "use": "sig", "alg": "RS256", "kid": "7c0b6913fe13820a", "kty": "RSA" },
            ]}),
        ),
        // Google's for IAP.
        (
            1,
            0,
            json!({ "keys": [
                { "alg": "ES256", "crv": "P-256", "kid": "f9R3yg", "kty": "EC", "use": "sig", "x": x, "y": y },
            ]}),
        ),
        // Auth0.
        (
            1,
            1,
            json!({ "keys": [
                { "alg": "RS256", "kty": "RSA", "use": "sig", "x5c": chain, "n": n, "e": e, "kid": "NjVBRjY5", "x5t": "NjVBRjY5" },
                { "alg": "RSA-OAEP-256", "kty": "RSA", "use": "enc", "x5c": chain, "n": n, "e": e, "kid": "q" },
            ]}),
        ),
        // Keycloak: what signs beside what encrypts; EdDSA and P-521 where they were switched on.
        (
            2,
            2,
            json!({ "keys": [
                { "kid": "a", "kty": "RSA", "alg": "RSA-OAEP", "use": "enc", "n": n, "e": e, "x5c": chain, "x5t": "t", "x5t#S256": "s" },
                { "kid": "b", "kty": "RSA", "alg": "RS256", "use": "sig", "n": n, "e": e, "x5c": chain, "x5t": "t", "x5t#S256": "s" },
                { "kid": "c", "kty": "OKP", "alg": "EdDSA", "use": "sig", "crv": "Ed25519", "x": edwards["x"] },
                { "kid": "d", "kty": "EC", "alg": "ES512", "use": "sig", "crv": "P-521", "x": "AAAA", "y": "AAAA" },
            ]}),
        ),
        // Azure AD: no `alg`, an issuer in every key.
        (
            2,
            0,
            json!({ "keys": [
                { "kty": "RSA", "use": "sig", "kid": "kg2L", "x5t": "kg2L", "n": n, "e": e, "x5c": chain, "cloud_instance_name": "microsoftonline.com", "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0" },
                { "kty": "RSA", "use": "sig", "kid": "X5eX", "x5t": "X5eX", "n": n, "e": e, "x5c": chain, "issuer": "https://login.microsoftonline.com/x/v2.0" },
            ]}),
        ),
        // Azure AD B2C: times beside the key.
        (
            1,
            0,
            json!({ "keys": [
                { "kid": "X5eXk4", "nbf": 1493763266, "use": "sig", "kty": "RSA", "e": e, "n": n },
            ]}),
        ),
        // Okta.
        (
            1,
            0,
            json!({ "keys": [
                { "kty": "RSA", "alg": "RS256", "kid": "U5R8cH", "use": "sig", "e": e, "n": n },
            ]}),
        ),
        // AWS Cognito: two keys, of identity and of access tokens.
        (
            2,
            0,
            json!({ "keys": [
                { "alg": "RS256", "e": e, "kid": "1234example=", "kty": "RSA", "n": n, "use": "sig" },
                { "alg": "RS256", "e": e, "kid": "5678example=", "kty": "RSA", "n": n, "use": "sig" },
            ]}),
        ),
        // Curity, Ory and others: operations, and times of their own.
        (
            2,
            1,
            json!({ "keys": [
                { "kty": "EC", "kid": "public:x", "use": "sig", "alg": "ES256", "crv": "P-256", "x": x, "y": y, "key_ops": ["verify"], "ext": true },
                { "kty": "OKP", "kid": "e", "use": "sig", "alg": "Ed25519", "crv": "Ed25519", "x": edwards["x"], "iat": 1, "exp": 2 },
                { "kty": "EC", "kid": "k", "use": "sig", "alg": "ES256K", "crv": "secp256k1", "x": x, "y": y },
            ]}),
        ),
    ];
    for (count, ignored, set) in sets {
        let keys = read(&set);
        assert_eq!((keys.count(), keys.ignored()), (count, ignored), "{set}");
        assert_eq!(keys.faults(), [], "{set}");
    }
    // Somebody has published the private part as well: told, without it.
    let mut open = point.clone();
    open["d"] = json!("870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE");
    let keys = read(&json!({ "keys": [open] }));
    assert_eq!(keys.count(), 1);
    let said = keys.faults()[0].to_string();
    assert!(said.starts_with("key 1 has its private part"), "{said}");
    assert!(!format!("{keys:?}").contains("870MB6gf"));
}
