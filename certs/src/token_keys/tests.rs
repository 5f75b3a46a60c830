//! Sets of keys good and bad, and tokens that tell the truth or lie.

use super::*;
use portolan_config::{Machine, check_text};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::json;

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
fn keys_that_are_none_are_left_alone_and_broken_ones_refuse_the_set() {
    let signer = Signer::new();
    let mut set = signer.keys();
    let others = [
        json!({ "kty": "oct", "k": "c2VjcmV0" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-521", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "OKP", "crv": "X25519", "x": "AAAA" }),
        json!({ "kty": "new", "q": 7 }),
    ];
    let mut encryption = set["keys"][0].clone();
    encryption["use"] = json!("enc");
    let mut wrapping = set["keys"][0].clone();
    wrapping["key_ops"] = json!(["wrapKey"]);
    let mut shared = set["keys"][0].clone();
    shared["alg"] = json!("HS256");
    let list = set["keys"].as_array_mut().unwrap();
    list.extend(others.clone());
    list.extend([encryption, wrapping, shared]);
    let keys = read(&set);
    assert_eq!((keys.count(), keys.ignored()), (2, 8));
    let none = json!({ "keys": others }).to_string();
    assert_eq!(
        TokenKeys::parse(none.as_bytes()).unwrap_err(),
        KeysError::NoneFit(5)
    );
    let rsa = |n: &str, e: &str| json!({ "kty": "RSA", "n": n, "e": e });
    let small = URL_SAFE_NO_PAD.encode([0xff; 128]);
    let whole = URL_SAFE_NO_PAD.encode([0xff; 256]);
    for broken in [
        rsa(&small, "AQAB"),
        rsa(&whole, "AQ"),
        rsa(&whole, "Ag"),
        rsa(&whole, ""),
        rsa("!", "AQAB"),
        json!({ "kty": "RSA", "n": 7, "e": "AQAB" }),
        json!({ "kty": "RSA" }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA" }),
        json!({ "kty": "EC", "crv": "P-256", "x": "AAAA" }),
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" }),
    ] {
        let mut set = signer.keys();
        set["keys"].as_array_mut().unwrap().push(broken.clone());
        let error = TokenKeys::parse(set.to_string().as_bytes()).unwrap_err();
        assert!(
            matches!(error, KeysError::BadKey { number: 3, .. }),
            "{broken}: {error}"
        );
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
