//! Tokens that say who somebody is: where a request has one, and whether its route takes it.
//!
//! Whether a token is to be believed at all, its keys know ([`portolan_certs::token_keys`]). What a
//! route wants to read in it besides is judged here, and what endpoints are told of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, header};
use portolan_certs::KeySet;
use portolan_certs::token_keys::{Claims, Doubt, TokenPolicy};
use portolan_config::fields::Fields;
use portolan_config::plan::{JwtPlan, TokenPlacePlan};
use serde_json::Value;
use smallvec::SmallVec;

use crate::auth::cookie::{MOST_COOKIES, cookies};
use crate::refusal::Refusal;

/// What a route asks of tokens, and the keys that it believes.
#[derive(Debug)]
pub struct Gate {
    /// As configured.
    pub plan: Arc<JwtPlan>,
    /// The keys.
    pub keys: Arc<KeySet>,
    policy: TokenPolicy,
}

/// Why a request may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objection {
    /// It has no token.
    None,
    /// Its token is not believed.
    Doubted(Doubt),
    /// There are no keys yet: nobody can say.
    NoKeys,
    /// The token lacks a scope.
    Scope(Arc<str>),
    /// The token lacks a claim, or has it with another value.
    Claim(Arc<str>),
}

impl Gate {
    /// What a route asks, with the keys from where it says.
    pub fn new(plan: Arc<JwtPlan>, keys: Arc<KeySet>) -> Self {
        Self {
            policy: TokenPolicy::new(&plan),
            plan,
            keys,
        }
    }

    /// What the token of a request says, if the request may pass at `now`, since 1970. Of several cookies
    /// it is the first with which it may.
    ///
    /// # Errors
    /// Why it may not: of several tokens, what is objected to the one that came furthest.
    pub fn judge(&self, headers: &Fields, now: Duration) -> Result<Believed, Objection> {
        let mut objection = Objection::None;
        let tokens = find(headers, &self.plan.place);
        let tokens = tokens.iter().enumerate();
        for (at, token) in tokens.filter(|(_, token)| !token.is_empty()) {
            let keys = self.keys.keys().ok_or(Objection::NoKeys)?;
            let claims = keys.believe(token, &self.policy, now);
            let claims = claims.map_err(Objection::Doubted).and_then(|claims| {
                self.plan.lacks(&claims)?;
                Ok(claims)
            });
            match claims {
                Ok(claims) => return Ok(Believed { claims, at }),
                Err(other) if other.rank() > objection.rank() => objection = other,
                Err(_) => {}
            }
        }
        Err(objection)
    }
}

/// A token that is believed, and has what is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Believed {
    /// What it says.
    pub claims: Claims,
    /// Where it stands among the request's cookies of its name, from 0.
    pub at: usize,
}

/// What is asked of claims.
trait Asks {
    fn lacks(&self, claims: &Claims) -> Result<(), Objection>;
}

impl Asks for JwtPlan {
    fn lacks(&self, claims: &Claims) -> Result<(), Objection> {
        for scope in &self.scopes {
            let has = ["scope", "scp"]
                .into_iter()
                .filter_map(|name| claims.get(name))
                .any(|value| has_scope(value, scope));
            if !has {
                return Err(Objection::Scope(scope.clone()));
            }
        }
        for (name, values) in &self.claims {
            let is = |value: &Value| {
                text(value).is_some_and(|text| values.iter().any(|wanted| **wanted == *text))
            };
            let has = match claim(claims, name) {
                Some(Value::Array(several)) => several.iter().any(is),
                Some(value) => is(value),
                None => false,
            };
            if !has {
                return Err(Objection::Claim(name.clone()));
            }
        }
        Ok(())
    }
}

/// Whether a claim with scopes, in a text with spaces or in a list, has this one.
fn has_scope(value: &Value, scope: &str) -> bool {
    match value {
        Value::String(text) => text.split(' ').any(|it| it == scope),
        Value::Array(several) => several.iter().any(|it| it == scope),
        _ => false,
    }
}

impl Objection {
    /// How far a token came that this is objected to.
    fn rank(&self) -> u8 {
        match self {
            Self::None | Self::NoKeys => 0,
            Self::Doubted(Doubt::UnknownKey) => 2,
            Self::Doubted(_) => 1,
            Self::Scope(_) | Self::Claim(_) => 3,
        }
    }

    /// Why the request is refused.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::None => Refusal::Unauthenticated,
            Self::Doubted(_) => Refusal::InvalidToken,
            Self::NoKeys => Refusal::NoKeys,
            Self::Scope(_) | Self::Claim(_) => Refusal::InsufficientScope,
        }
    }

    /// In a line, for those who operate.
    pub fn words(&self) -> Cow<'static, str> {
        match self {
            Self::None => "the route asks for a token".into(),
            Self::Doubted(doubt) => doubt.words().into(),
            Self::NoKeys => "there are no keys yet that tokens could be verified with".into(),
            Self::Scope(scope) => format!("the token has no scope `{scope}`").into(),
            Self::Claim(name) => {
                format!("the token has no claim `{name}` that is asked for").into()
            }
        }
    }

    /// What a client is told in WWW-Authenticate (RFC 6750, section 3), if it is.
    pub fn challenge(&self, plan: &JwtPlan) -> Option<HeaderValue> {
        let realm = &plan.realm;
        let text = match self {
            Self::NoKeys => return None,
            // Who said nothing did nothing wrong.
            Self::None => format!("Bearer realm=\"{realm}\""),
            Self::Doubted(doubt) => format!(
                "Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{}\"",
                doubt.words()
            ),
            Self::Scope(_) => format!(
                "Bearer realm=\"{realm}\", error=\"insufficient_scope\", scope=\"{}\"",
                plan.scopes.join(" ")
            ),
            // Which one is nobody's business but the operator's.
            Self::Claim(_) => format!(
                "Bearer realm=\"{realm}\", error=\"insufficient_scope\", error_description=\"the token lacks a claim\""
            ),
        };
        HeaderValue::try_from(text).ok()
    }
}

/// A claim: of this name, or where this path leads if it begins with `/`.
pub fn claim<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    let found = claims.get(name).or_else(|| {
        let (first, rest) = name
            .strip_prefix('/')?
            .split_once('/')
            .unwrap_or((&name[1..], ""));
        let first = claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
        match rest {
            "" => Some(first),
            rest => first.pointer(&format!("/{rest}")),
        }
    })?;
    (!found.is_null()).then_some(found)
}

/// A claim's value as one text: nothing of what has parts.
pub fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A claim as a header says it: several values with commas between them, and what has parts in JSON.
/// Nothing of what no header can say.
pub fn header_value(value: &Value) -> Option<HeaderValue> {
    let said = match value {
        Value::Array(several) => {
            let texts: Option<Vec<Cow<'_, str>>> = several.iter().map(text).collect();
            match texts {
                // With a comma in one of them, nobody could tell them apart.
                Some(texts) if !texts.iter().any(|text| text.contains(',')) => {
                    texts.join(",").into()
                }
                _ => value.to_string().into(),
            }
        }
        value => text(value).unwrap_or_else(|| value.to_string().into()),
    };
    HeaderValue::from_bytes(said.as_bytes()).ok()
}

/// What endpoints are told: every header with what the claims have for it.
pub fn told(plan: &JwtPlan, claims: &Claims) -> Vec<(HeaderName, HeaderValue)> {
    let headers = plan.headers.iter();
    headers
        .filter_map(|(name, header)| Some((header.clone(), header_value(claim(claims, name)?)?)))
        .collect()
}

/// Whether a request has a token.
pub fn is_there(headers: &Fields, place: &TokenPlacePlan) -> bool {
    find(headers, place).iter().any(|token| !token.is_empty())
}

/// The token of a request, or several where browsers may send them: some of them may be out of date.
/// None if it has none, or two where there should be one.
fn find<'a>(headers: &'a Fields, place: &'a TokenPlacePlan) -> SmallVec<[&'a str; 1]> {
    let only = |name: &HeaderName| {
        let mut lines = headers.get_all(name);
        match (lines.next(), lines.next()) {
            (Some(line), None) => line.to_str().ok(),
            _ => None,
        }
    };
    let bearer = |line: &'a str| {
        let (scheme, rest) = line.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| rest.trim_matches(' '))
    };
    let token = match place {
        TokenPlacePlan::Bearer => only(&header::AUTHORIZATION).and_then(bearer),
        TokenPlacePlan::Header(name) => only(name).map(|line| bearer(line).unwrap_or(line)),
        TokenPlacePlan::Cookie(name) => {
            let values = cookies(headers, name).take(MOST_COOKIES);
            // What is no text is no token; it keeps its place.
            return values
                .map(|value| std::str::from_utf8(value).unwrap_or_default())
                .collect();
        }
    };
    token.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::{Machine, check_text};
    use serde_json::json;

    fn plan(more: &str) -> Arc<JwtPlan> {
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
        plan.routes[0].auth.as_ref().unwrap().jwt().unwrap().clone()
    }

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn scopes_and_claims_are_asked_for_one_by_one() {
        let plan = plan(
            "scopes: [ read, write ], claims: { tenant: acme, /realm/roles: [ admin, editor ], level: '7', staff: 'true' }",
        );
        let good = json!({
            "scope": "write openid", "scp": ["read"], "tenant": ["other", "acme"],
            "realm": { "roles": ["user", "editor"] }, "level": 7, "staff": true,
        });
        assert_eq!(plan.lacks(&claims(good.clone())), Ok(()));
        for (name, value, objection) in [
            ("scope", json!("writer"), Objection::Scope("write".into())),
            ("scp", json!("write"), Objection::Scope("read".into())),
            ("scp", json!(7), Objection::Scope("read".into())),
            ("tenant", json!("acme2"), Objection::Claim("tenant".into())),
            ("tenant", json!(null), Objection::Claim("tenant".into())),
            (
                "tenant",
                json!({ "acme": 1 }),
                Objection::Claim("tenant".into()),
            ),
            (
                "realm",
                json!("editor"),
                Objection::Claim("/realm/roles".into()),
            ),
            (
                "realm",
                json!({ "roles": "user" }),
                Objection::Claim("/realm/roles".into()),
            ),
            ("level", json!(70), Objection::Claim("level".into())),
        ] {
            let mut bad = good.clone();
            bad[name] = value.clone();
            let said = plan.lacks(&claims(bad));
            assert_eq!(said, Err(objection), "{name}: {value}");
        }
    }

    #[test]
    fn a_token_is_found_where_it_should_stand_and_nowhere_else() {
        let find = |lines: &[(&str, &str)], place| {
            let mut headers = Fields::new();
            for (name, value) in lines {
                headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
            }
            let found = find(&headers, &place);
            assert!(found.len() <= 1);
            let found = found.first().filter(|token| !token.is_empty());
            found.map(|token| (*token).to_owned())
        };
        use TokenPlacePlan::{Bearer, Cookie, Header};
        let own = || Header(HeaderName::from_static("x-token"));
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(
            find(&[("authorization", "bearer  a.b.c")], Bearer),
            said("a.b.c")
        );
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert_eq!(find(&twice, Bearer), None);
        for none in ["Bearer", "Bearer ", "Basic YQ==", "a.b.c"] {
            assert_eq!(find(&[("authorization", none)], Bearer), None, "{none}");
        }
        assert_eq!(find(&[("x-token", "a.b.c")], own()), said("a.b.c"));
        assert_eq!(find(&[("x-token", "Bearer a.b.c")], own()), said("a.b.c"));
        assert_eq!(find(&[("authorization", "Bearer a")], own()), None);
        let cookies = [("cookie", "x=1; session=a.b.c; y=2")];
        assert_eq!(find(&cookies, Cookie("session".into())), said("a.b.c"));
        assert_eq!(find(&cookies, Cookie("other".into())), None);
        let mut headers = Fields::new();
        for line in ["session=a; x=1; session=b", "session=c"] {
            headers.append(header::COOKIE, line.parse().unwrap());
        }
        let place = Cookie("session".into());
        assert_eq!(super::find(&headers, &place)[..], ["a", "b", "c"]);
    }

    #[test]
    fn claims_are_told_as_headers_can_say_them() {
        let told = |value: Value| {
            header_value(&value).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        assert_eq!(told(json!("alice")).unwrap(), "alice");
        assert_eq!(told(json!("zoë")).unwrap(), "zoë");
        assert_eq!(told(json!(7)).unwrap(), "7");
        assert_eq!(told(json!(["a", "b", 3])).unwrap(), "a,b,3");
        assert_eq!(told(json!(["a,b", "c"])).unwrap(), "[\"a,b\",\"c\"]");
        assert_eq!(told(json!({ "a": 1 })).unwrap(), "{\"a\":1}");
        assert_eq!(
            told(json!("a\r\nx-admin: 1")),
            None,
            "nothing can be smuggled in"
        );
    }

    #[test]
    fn clients_are_told_in_the_words_of_the_standard() {
        let plan = plan("scopes: [ read, write ], realm: shop");
        let said = |objection: Objection| {
            let value = objection.challenge(&plan)?;
            Some(value.to_str().unwrap().to_owned())
        };
        assert_eq!(said(Objection::None).unwrap(), "Bearer realm=\"shop\"");
        assert_eq!(
            said(Objection::Doubted(Doubt::Expired)).unwrap(),
            "Bearer realm=\"shop\", error=\"invalid_token\", error_description=\"the token has expired\""
        );
        assert_eq!(
            said(Objection::Scope("read".into())).unwrap(),
            "Bearer realm=\"shop\", error=\"insufficient_scope\", scope=\"read write\""
        );
        assert_eq!(said(Objection::NoKeys), None);
    }
}
