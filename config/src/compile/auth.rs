//! Who may use a route, for the plan.

use std::sync::Arc;

use http::HeaderValue;

use crate::compile::files::file;
use crate::decode::collections::OneOrMany;
use crate::document::{Auth, BasicAuth, ForwardAuth, JwtAuth, htpasswd};
use crate::plan::{
    AuthPlan, BasicPlan, ForwardAuthPlan, JwtPlan, PoolId, ProofPlan, TokenKeySource,
    TokenKeysPlan, TokenPlacePlan,
};
use crate::resolve::{Definition, Names};
use crate::source::{At, Sources};

/// The checks have made sure that it asks for one thing, and that it can be asked for.
pub(super) fn auth(auth: &Auth, names: &Names<'_>, sources: &Sources) -> Option<AuthPlan> {
    let proof = if let Some(written) = &auth.basic {
        ProofPlan::Basic(basic(written)?)
    } else if let Some(written) = &auth.jwt {
        ProofPlan::Jwt(Arc::new(jwt(written, sources)?))
    } else {
        ProofPlan::Forward(Arc::new(forward(auth.forward_auth.as_ref()?, names)?))
    };
    Some(AuthPlan {
        proof,
        user_header: auth.user_header.as_ref().map(|name| name.value.clone()),
        forward_authorization: auth.forward_authorization.value,
    })
}

fn basic(basic: &BasicAuth) -> Option<BasicPlan> {
    let written = basic
        .users
        .iter()
        .map(|user| (user.name.value.clone(), user.password.value.clone()));
    let in_file = basic
        .htpasswd
        .iter()
        .filter_map(|text| htpasswd(text.value.expose()).ok())
        .flatten();
    let realm = basic.realm.value.as_str();
    let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
    Some(BasicPlan {
        users: written
            .chain(in_file)
            .map(|(name, hash)| (name.as_str().into(), hash))
            .collect(),
        challenge: HeaderValue::try_from(challenge).ok()?,
    })
}

fn jwt(jwt: &JwtAuth, sources: &Sources) -> Option<JwtPlan> {
    let keys = &jwt.keys;
    let source = match (&keys.file, &keys.url) {
        (Some(path), _) => TokenKeySource::File(file(path, sources).value),
        (None, url) => {
            let ca = keys.ca.as_ref().map(|ca| file(ca, sources).value);
            TokenKeySource::Url(url.as_ref()?.value.shared(), ca)
        }
    };
    let texts = |written: &Option<OneOrMany<At<String>>>| {
        let written = written.iter().flat_map(|written| &written.0);
        written.map(|text| text.value.as_str().into()).collect()
    };
    Some(JwtPlan {
        keys: TokenKeysPlan {
            source,
            refresh: keys.refresh.value.duration(),
            timeout: keys.timeout.value.duration(),
            origin: keys.origin,
        },
        issuers: texts(&jwt.issuer),
        audiences: texts(&jwt.audience),
        algorithms: jwt.algorithms.iter().map(|it| it.value).collect(),
        leeway: jwt.leeway.value.duration(),
        place: match (&jwt.from.header, &jwt.from.cookie) {
            (Some(header), _) => TokenPlacePlan::Header(header.value.clone()),
            (None, Some(cookie)) => TokenPlacePlan::Cookie(cookie.value.shared()),
            (None, None) => TokenPlacePlan::Bearer,
        },
        scopes: jwt.scopes.iter().map(|it| it.value.shared()).collect(),
        claims: jwt
            .claims
            .iter()
            .map(|(name, values)| {
                let values = values.0.iter().map(|value| value.value.as_str().into());
                (name.value.shared(), values.collect())
            })
            .collect(),
        headers: jwt
            .headers
            .iter()
            .map(|(name, header)| (name.value.shared(), header.value.clone()))
            .collect(),
        realm: jwt.realm.value.as_str().into(),
    })
}

fn forward(forward: &ForwardAuth, names: &Names<'_>) -> Option<ForwardAuthPlan> {
    let Some(Definition::Pool(pool)) = names.get(forward.to.value.as_str()) else {
        return None;
    };
    Some(ForwardAuthPlan {
        pool: PoolId::new(pool),
        path: forward.path.value.as_str().into(),
        send_headers: forward
            .send_headers
            .as_ref()
            .map(|names| names.iter().map(|name| name.value.clone()).collect()),
        copy_headers: forward
            .copy_headers
            .iter()
            .map(|name| name.value.clone())
            .collect(),
        timeout: forward.timeout.value.duration(),
        at_once: forward.at_once.value.get() as usize,
        max_body: forward.max_body.value.bytes() as usize,
        fail_open: forward.fail_open.value,
    })
}
