//! What requests bring along: read within bounds, and told in our own words when it is not what it
//! should be.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::reply::Problem;
use crate::admin::reply::bad;

/// The largest body: more is answered with 413.
const BODY_BYTES: usize = 1 << 20;

/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest target: more is answered with 414.
const URI_BYTES: usize = 16 << 10;

/// Has the whole body, before anybody looks at it: a handler that waits for it could be kept waiting.
pub(super) async fn whole(request: Request) -> Result<Request, Problem> {
    let (head, body) = request.into_parts();
    if body.is_end_stream() {
        return Ok(Request::from_parts(head, body));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, read(body)).await;
    let late = format!("the body did not come within {} s", BODY_TIMEOUT.as_secs());
    let late = |_| Problem::new(StatusCode::REQUEST_TIMEOUT, "Too slow", late);
    let body = read.map_err(late)??;
    Ok(Request::from_parts(head, Body::from(body)))
}

/// Reads a body. One that is a little too large is read to its end all the same: a client that is still
/// sending when the connection is closed would not see why.
async fn read(body: Body) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let mut length = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| bad("the body was cut off".to_owned()))?;
        length += piece.len();
        if length <= BODY_BYTES {
            bytes.extend_from_slice(&piece);
        } else if length > BODY_BYTES * 16 {
            break;
        }
    }
    if length > BODY_BYTES {
        let most = format!("a body has at most {} KiB", BODY_BYTES >> 10);
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Too large",
            most,
        ));
    }
    Ok(bytes)
}

/// Reads a body as JSON.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let place = format!("line {line}, column {column}");
        bad(match error.classify() {
            Category::Data => {
                let text = error.to_string();
                let what = text
                    .rsplit_once(" at line ")
                    .map_or(&*text, |(what, _)| what);
                format!("the body is not what it should be: {what} ({place})")
            }
            Category::Eof | Category::Syntax | Category::Io => {
                format!("the body is not JSON ({place})")
            }
        })
    })
}

/// Refuses what is too long, and sees to it that every refusal is a problem (RFC 9457), whoever answers.
pub(super) async fn shape(request: Request, next: axum::middleware::Next) -> Response {
    let uri = request.uri();
    if uri
        .path_and_query()
        .is_some_and(|it| it.as_str().len() > URI_BYTES)
    {
        let most = format!("a path with its query has at most {} KiB", URI_BYTES >> 10);
        return Problem::new(StatusCode::URI_TOO_LONG, "Too long", most).into_response();
    }
    // It says in a word what the process does, to balancers that look at nothing but the status.
    let is_word = uri.path() == "/readyz";
    let response = next.run(request).await;
    let status = response.status();
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/problem+json");
    if is_word || is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let detail = match status {
        StatusCode::BAD_REQUEST => "the path or the query cannot be understood",
        _ => "the request cannot be answered",
    };
    let title = status.canonical_reason().unwrap_or("Failed");
    Problem::new(status, title, detail).into_response()
}
