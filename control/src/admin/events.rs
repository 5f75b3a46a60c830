//! What happened: the journal as a list, or as server-sent events for those who follow.
//!
//! A follower costs the place of its last entry and one line that waits for the client. The next one
//! is only made when the connection takes it, so a client that does not read holds up nobody; when it
//! reads again and the journal has moved on, an event `missed` says how much it did not see.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tokio::sync::watch;

use super::reply::Problem;
use crate::admin::state::AdminState;
use crate::events::journal::{Follower, Found};

/// The API leaves its address: whoever follows shall do so elsewhere.
#[derive(Clone, Debug)]
pub(super) struct Closing(pub(super) watch::Receiver<bool>);

/// A word every so often, so that both sides see when the other has gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    #[serde(default)]
    follow: bool,
}

pub(super) async fn events(
    State(state): State<AdminState>,
    Extension(Closing(closed)): Extension<Closing>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "Bad request", detail);
    let only = "the query may have `follow=true` or `follow=false`, and nothing else";
    let Query(query) = query.map_err(|_| bad(only.to_owned()))?;
    if !query.follow {
        return Ok(Json(state.journal.recent()).into_response());
    }
    let after = match headers.get("last-event-id").map(HeaderValue::to_str) {
        None => None,
        Some(Ok("")) => None,
        Some(id) => {
            let id = id.ok().and_then(|id| id.parse::<u64>().ok());
            Some(id.ok_or_else(|| bad("Last-Event-ID is not the number of an event".into()))?)
        }
    };
    let following = Following {
        follower: state.journal.follow(after),
        closed,
    };
    let texts = futures_util::stream::unfold(following, async |mut following| {
        let text = following.next().await?;
        Some((Ok::<_, Infallible>(text), following))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies on the way shall not collect it.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(texts)).into_response())
}

/// Somebody who follows.
struct Following {
    follower: Follower,
    closed: watch::Receiver<bool>,
}

impl Following {
    /// The next piece of text, once there is one; none when it is over.
    async fn next(&mut self) -> Option<String> {
        loop {
            match self.follower.next_now() {
                Found::Entry(entry) => {
                    // One line: JSON has no line breaks of its own.
                    let data = serde_json::to_string(&*entry).ok()?;
                    return Some(format!(
                        "id: {}\nevent: {}\ndata: {data}\n\n",
                        entry.id, entry.kind
                    ));
                }
                Found::Missed(count) => {
                    let data = json!({ "missed": count });
                    return Some(format!("event: missed\ndata: {data}\n\n"));
                }
                Found::Nothing => {}
            }
            let closed = &mut self.closed;
            tokio::select! {
                () = self.follower.wait() => {}
                _ = closed.wait_for(|closed| *closed) => return None,
                () = tokio::time::sleep(KEEP_ALIVE) => return Some(": still here\n\n".to_owned()),
            }
        }
    }
}
