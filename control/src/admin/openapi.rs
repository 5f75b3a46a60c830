//! The API's own description, as OpenAPI 3.1: what there is, who may use it, and what answers look
//! like. Every resource of the router stands here; a test compares the two.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::drains::DrainRequest;
use super::overrides::EndRequest;
use super::weights::WeightsRequest;
use crate::admin::explain::ExplainRequest;
use crate::admin::state::AdminState;
use crate::api::status::{
    CertificatesEntry, OverrideEntry, PoolEntry, RouteEntry, ServiceEntry, Status,
};
use crate::decision::explain::Explanation;
use crate::events::journal::Entry;
use crate::overrides::audit::AuditEntry;

/// Who may use a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Whoever can reach the address.
    Everybody,
    /// Whoever has a token.
    Viewer,
    /// Whoever has a token of an operator.
    Operator,
}

/// The schema of something, among those of the document.
type SchemaOf = fn(&mut SchemaGenerator) -> Value;

/// What an answer is.
#[derive(Clone, Copy)]
enum Answer {
    Text(&'static str),
    Data(SchemaOf),
    /// A list, or the same as server-sent events.
    Stream(SchemaOf),
}

/// One method of one resource.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    who: Who,
    body: Option<SchemaOf>,
    answer: Answer,
    /// Other statuses than 200 and those of tokens.
    others: &'static [u16],
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    generator.subschema_for::<T>().to_value()
}

fn object(_: &mut SchemaGenerator) -> Value {
    json!({ "type": "object" })
}

const fn look(path: &'static str, summary: &'static str, answer: Answer) -> Operation {
    Operation {
        method: "get",
        path,
        summary,
        who: Who::Viewer,
        body: None,
        answer,
        others: &[],
    }
}

const fn change(
    (method, path): (&'static str, &'static str),
    summary: &'static str,
    body: Option<SchemaOf>,
    answer: SchemaOf,
    others: &'static [u16],
) -> Operation {
    Operation {
        method,
        path,
        summary,
        who: Who::Operator,
        body,
        answer: Answer::Data(answer),
        others,
    }
}

/// Everything that can be asked.
fn operations() -> Vec<Operation> {
    let open = |path, summary, answer, others| Operation {
        who: Who::Everybody,
        others,
        ..look(path, summary, Answer::Text(answer))
    };
    vec![
        open("/healthz", "Whether the process runs", "text/plain", &[]),
        open(
            "/readyz",
            "Whether traffic should be sent here",
            "text/plain",
            &[503],
        ),
        open(
            "/metrics",
            "Everything that is counted, for Prometheus; beyond loopback with a token",
            "text/plain",
            &[401],
        ),
        look(
            "/api/v1/status",
            "What runs now",
            Answer::Data(of::<Status>),
        ),
        look(
            "/api/v1/pools",
            "Every pool, its endpoints and their health",
            Answer::Data(of::<Vec<PoolEntry>>),
        ),
        Operation {
            others: &[404],
            ..look(
                "/api/v1/pools/{pool}",
                "One pool",
                Answer::Data(of::<PoolEntry>),
            )
        },
        look(
            "/api/v1/services",
            "Every service, its members and shares",
            Answer::Data(of::<Vec<ServiceEntry>>),
        ),
        look(
            "/api/v1/routes",
            "Every route and its shares",
            Answer::Data(of::<Vec<RouteEntry>>),
        ),
        look(
            "/api/v1/certificates",
            "Every certificate in use, and files that cannot be used",
            Answer::Data(of::<CertificatesEntry>),
        ),
        look(
            "/api/v1/overrides",
            "What operators have overridden",
            Answer::Data(of::<Vec<OverrideEntry>>),
        ),
        look(
            "/api/v1/audit",
            "Who changed what: the last entries, the oldest first",
            Answer::Data(of::<Vec<AuditEntry>>),
        ),
        Operation {
            others: &[400],
            ..look(
                "/api/v1/events",
                "What happened and why, the oldest first; with `follow` as server-sent events",
                Answer::Stream(of::<Vec<Entry>>),
            )
        },
        look(
            "/api/v1/openapi.json",
            "This document",
            Answer::Data(object),
        ),
        Operation {
            method: "post",
            body: Some(of::<ExplainRequest>),
            others: &[],
            ..look(
                "/api/v1/explain",
                "Where a request would go, and why",
                Answer::Data(of::<Explanation>),
            )
        },
        change(
            ("post", "/api/v1/reload"),
            "Read the configuration again and apply it",
            None,
            object,
            &[422],
        ),
        change(
            ("put", "/api/v1/pools/{pool}/drain"),
            "Drain a pool",
            Some(of::<DrainRequest>),
            of::<OverrideEntry>,
            &[400, 404, 500, 503],
        ),
        change(
            ("delete", "/api/v1/pools/{pool}/drain"),
            "End a pool's drain",
            Some(of::<EndRequest>),
            object,
            &[400, 404, 409, 500, 503],
        ),
        change(
            ("put", "/api/v1/pools/{pool}/endpoints/{address}/drain"),
            "Drain an endpoint",
            Some(of::<DrainRequest>),
            of::<OverrideEntry>,
            &[400, 404, 500, 503],
        ),
        change(
            ("delete", "/api/v1/pools/{pool}/endpoints/{address}/drain"),
            "End an endpoint's drain",
            Some(of::<EndRequest>),
            object,
            &[400, 404, 500, 503],
        ),
        change(
            ("put", "/api/v1/services/{service}/weights"),
            "Give the members of a service's split other weights",
            Some(of::<WeightsRequest>),
            of::<OverrideEntry>,
            &[400, 404, 409, 500, 503],
        ),
        change(
            ("delete", "/api/v1/services/{service}/weights"),
            "Go back to the weights of the configuration",
            Some(of::<EndRequest>),
            object,
            &[400, 404, 409, 500, 503],
        ),
    ]
}

/// The document, for the API as it is configured: with tokens or without.
pub(super) async fn openapi(State(state): State<AdminState>) -> Json<&'static Value> {
    static WITH_TOKENS: LazyLock<Value> = LazyLock::new(|| document(true));
    static WITHOUT: LazyLock<Value> = LazyLock::new(|| document(false));
    match state.reloader.running().plan.admin.tokens.is_empty() {
        true => Json(&WITHOUT),
        false => Json(&WITH_TOKENS),
    }
}

fn document(tokens: bool) -> Value {
    let generator = |settings: SchemaSettings| {
        let settings = settings.with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        settings.into_generator()
    };
    let mut sent = generator(SchemaSettings::draft2020_12().for_serialize());
    // What requests may leave out, answers always have.
    let mut taken = generator(SchemaSettings::draft2020_12().for_deserialize());
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations() {
        let described = describe(&operation, tokens, &mut sent, &mut taken);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described;
    }
    let mut schemas = taken.take_definitions(true);
    schemas.extend(sent.take_definitions(true));
    schemas.insert("Problem".to_owned(), problem());
    let mut components = json!({ "schemas": schemas });
    if tokens {
        components["securitySchemes"] = json!({ "token": { "type": "http", "scheme": "bearer" } });
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Portolan's admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What runs, for operators and their tools. Errors are problem+json (RFC 9457).",
        },
        "paths": paths,
        "components": components,
    })
}

fn describe(
    operation: &Operation,
    tokens: bool,
    sent: &mut SchemaGenerator,
    taken: &mut SchemaGenerator,
) -> Value {
    let content = match operation.answer {
        Answer::Text(kind) => json!({ kind: { "schema": { "type": "string" } } }),
        Answer::Data(schema) => json!({ "application/json": { "schema": schema(sent) } }),
        Answer::Stream(schema) => json!({
            "application/json": { "schema": schema(sent) },
            "text/event-stream": { "schema": { "type": "string" } },
        }),
    };
    let mut responses = Map::new();
    responses.insert(
        "200".to_owned(),
        json!({ "description": "Done", "content": content }),
    );
    // Without tokens, whoever does not come from this machine is refused as well.
    let strangers: &[u16] = match (operation.who, tokens) {
        (Who::Everybody, _) => &[],
        (Who::Viewer | Who::Operator, true) => &[401, 403],
        (Who::Viewer | Who::Operator, false) => &[403],
    };
    // Whatever is said in a path can be nonsense.
    let path: &[u16] = match operation.path.contains('{') {
        true => &[400, 404],
        false => &[],
    };
    let body: &[u16] = match operation.body {
        Some(_) => &[400, 408, 413],
        None => &[],
    };
    let statuses = strangers.iter().chain(path).chain(body);
    for status in statuses.chain(operation.others).chain(&[414]) {
        let problem = match operation.who {
            Who::Everybody if *status == 503 => {
                json!({ "text/plain": { "schema": { "type": "string" } } })
            }
            _ => json!({
                "application/problem+json": {
                    "schema": { "$ref": "#/components/schemas/Problem" }
                }
            }),
        };
        let words = http::StatusCode::from_u16(*status).ok();
        let words = words.and_then(|status| status.canonical_reason());
        responses.insert(
            status.to_string(),
            json!({ "description": words.unwrap_or_default(), "content": problem }),
        );
    }
    let mut described = json!({
        "summary": operation.summary,
        "parameters": parameters(operation.path),
        "responses": responses,
    });
    if operation.who != Who::Everybody {
        if tokens {
            described["security"] = json!([{ "token": [] }]);
        }
        described["x-role"] = match operation.who {
            Who::Operator => json!("operator"),
            _ => json!("viewer"),
        };
    }
    if let Some(body) = operation.body {
        described["requestBody"] = json!({
            "required": operation.method != "delete",
            "content": { "application/json": { "schema": body(taken) } },
        });
    }
    described
}

/// What stands in a path, and what may stand behind it.
fn parameters(path: &str) -> Vec<Value> {
    let text = json!({ "type": "string" });
    let mut parameters: Vec<Value> = path
        .split(['{', '}'])
        .skip(1)
        .step_by(2)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": text }))
        .collect();
    if path.ends_with("/events") {
        parameters.push(json!({
            "name": "follow",
            "in": "query",
            "description": "Go on with what happens from now on, as server-sent events",
            "schema": { "type": "boolean" },
        }));
        parameters.push(json!({
            "name": "Last-Event-ID",
            "in": "header",
            "description": "Follow from behind the event of this number on",
            "schema": { "type": "integer" },
        }));
    }
    parameters
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_resource_of_the_router_is_described_and_nothing_else() {
        let router = include_str!("router.rs");
        // The first text after `.route(`, on the same line or the next one.
        let routed: BTreeSet<&str> = router
            .split(".route(")
            .skip(1)
            .filter_map(|rest| rest.split('"').nth(1))
            .collect();
        let operations = operations();
        let described: BTreeSet<&str> = operations
            .iter()
            .map(|operation| {
                let path = operation.path;
                path.strip_prefix("/api/v1").unwrap_or(path)
            })
            .collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for tokens in [true, false] {
            refers_to_what_is_there(&document(tokens));
        }
    }

    fn refers_to_what_is_there(document: &Value) {
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        let mut references = text.split("\"#/components/schemas/").skip(1);
        assert!(references.clone().count() > 10);
        assert!(references.all(|rest| schemas.contains_key(rest.split('"').next().unwrap())));
    }
}
