//! What would become of a request that nobody has sent: `POST /explain`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use schemars::{Schema, SchemaGenerator, json_schema};

use crate::admin::given::parse;
use crate::admin::reply::{Problem, bad};
use crate::admin::state::AdminState;
use crate::decision::explain;
use crate::decision::explain::Explanation;
use crate::decision::explain::question::Asked;

/// What `portolan explain` asks.
#[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainRequest {
    #[serde(default)]
    #[schemars(schema_with = "address")]
    client_ip: Option<IpAddr>,
    #[serde(default)]
    #[schemars(regex(pattern = "^[A-Z]{1,20}$"))]
    method: Option<String>,
    #[schemars(regex(
        pattern = r"^https?://[a-z0-9]([a-z0-9.]{0,60}[a-z0-9])?(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~-]*)*(\?[A-Za-z0-9._~=&-]*)?$"
    ))]
    url: String,
    #[serde(default)]
    #[schemars(schema_with = "headers")]
    headers: BTreeMap<String, String>,
}

/// An address, or nothing.
pub(crate) fn address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "string", "format": "ipv4" },
            { "type": "string", "format": "ipv6" },
            { "type": "null" },
        ]
    })
}

/// Names and values of headers (RFC 9110, sections 5.1 and 5.5).
fn headers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "propertyNames": { "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$" },
        "additionalProperties": { "type": "string", "pattern": r"^[^\x00-\x08\x0a-\x1f\x7f]*$" },
    })
}

pub(super) async fn explain(
    State(state): State<AdminState>,
    body: Bytes,
) -> Result<Json<Explanation>, Problem> {
    let asked: ExplainRequest = parse(&body)?;
    let method = asked.method.as_deref().unwrap_or("GET");
    let asked = Asked::new(asked.client_ip, method, &asked.url, &asked.headers).map_err(bad)?;
    let mut question = asked.question();
    question.now = Some(state.clock.wall());
    Ok(Json(explain::explain(&state.published.load(), &question)))
}
