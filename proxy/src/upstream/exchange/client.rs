//! The client while an endpoint answers: more of its body, and whether it is still there.

use std::task::{Context, Poll};

use bytes::Bytes;
use pingora::{Error, Result};

use crate::downstream::Downstream;

/// What was heard of the client.
pub(crate) enum ClientEvent {
    /// More of the request's body, or its end.
    Body(Result<Option<Bytes>>),
    /// It is gone.
    Gone(Box<Error>),
}

/// What is expected of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// More of its body.
    Body,
    /// Nothing but that it stays.
    Presence,
    /// Nothing: its upload is stalled, and is read a bit further to see whether it is still there.
    Stalled,
    /// Nothing: it may send, and is not read before it will send no more.
    Nothing,
}

/// What is heard of the client, of which this is expected.
pub(crate) fn hear(
    downstream: &mut Downstream,
    cx: &mut Context<'_>,
    client: Client,
) -> Poll<ClientEvent> {
    match client {
        Client::Body => downstream.poll_body(cx).map(ClientEvent::Body),
        Client::Presence => downstream.poll_gone(cx).map(ClientEvent::Gone),
        Client::Stalled => downstream.poll_rest(cx, true).map(ClientEvent::Body),
        Client::Nothing => downstream.poll_rest(cx, false).map(ClientEvent::Body),
    }
}
