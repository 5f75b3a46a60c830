//! What a listener would say to a request, before anybody looks for its route.

use std::net::IpAddr;

use http::{Method, header};
use portolan_config::plan::{LimitsPlan, ListenerPlan};

use crate::decision::decide::denied_words;
use crate::decision::explain::question::{Entrance, Question};
use crate::snapshot::Snapshot;

/// What becomes of it at a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It comes in.
    Admitted,
    /// It is told to come by https.
    Redirected,
    /// It is refused with this status.
    Refused(u16, String),
    /// The listener is not for its client.
    Denied(String),
}

/// The listener by which a request comes in, and what is said to it there. Where several could be meant,
/// it is the first that lets it in. None if there is no listener, which no configuration has.
pub(super) fn admission<'a>(
    snapshot: &'a Snapshot,
    question: &Question<'_>,
    entrance: Entrance,
) -> Option<(&'a ListenerPlan, Admission)> {
    let all = &snapshot.plan.listeners;
    let secure = |listener: &ListenerPlan| listener.tls.is_some() == entrance.secure;
    let exact = |listener: &ListenerPlan| secure(listener) && listener.bind.port() == entrance.port;
    // Whoever stands before Portolan may have another port, and may end TLS itself.
    let mut candidates: Vec<&ListenerPlan> = all.iter().filter(|it| exact(it)).collect();
    if candidates.is_empty() {
        candidates = all.iter().filter(|it| secure(it)).collect();
    }
    if candidates.is_empty() {
        candidates = all.iter().collect();
    }
    let said = candidates
        .into_iter()
        .map(|listener| (listener, at(listener, snapshot, question, entrance)));
    let said: Vec<_> = said.collect();
    let admitted = said.iter().position(|(_, it)| *it == Admission::Admitted);
    said.into_iter().nth(admitted.unwrap_or(0))
}

fn at(
    listener: &ListenerPlan,
    snapshot: &Snapshot,
    question: &Question<'_>,
    entrance: Entrance,
) -> Admission {
    if let Some((status, why)) = beyond(&listener.limits, question, entrance) {
        return Admission::Refused(status, why);
    }
    if let Some(access) = &listener.access {
        let found = |client: IpAddr| {
            snapshot
                .locator
                .locate(client, access.needs, &access.locations)
        };
        let found = question.client.map(found);
        let (place, system) = found.map(|it| (it.place, it.system)).unwrap_or_default();
        let place = question.place.unwrap_or(place);
        let system = question.system.or(system);
        if let Err(denied) = access.check(question.client, place, system) {
            return Admission::Denied(denied_words("the listener", denied));
        }
    }
    match listener.redirect_to_https && !entrance.secure {
        true => Admission::Redirected,
        false => Admission::Admitted,
    }
}

/// What of a request is more than the limits allow, or no request that may pass.
fn beyond(
    limits: &LimitsPlan,
    question: &Question<'_>,
    entrance: Entrance,
) -> Option<(u16, String)> {
    if question.method == Method::CONNECT {
        return Some((405, "CONNECT is for other proxies".to_owned()));
    }
    if entrance.target_bytes > limits.uri_bytes {
        let most = limits.uri_bytes;
        return Some((
            414,
            format!("its target is longer than {most} bytes (`uri_bytes`)"),
        ));
    }
    // Every request says its host.
    let host = usize::from(!question.headers.contains(header::HOST));
    if question.headers.len() + host > limits.headers {
        let most = limits.headers;
        return Some((431, format!("it has more than {most} headers (`headers`)")));
    }
    if head_bytes(question, entrance) > limits.header_bytes {
        let most = limits.header_bytes;
        return Some((
            431,
            format!("its head is larger than {most} bytes (`header_bytes`)"),
        ));
    }
    let length = question.headers.get(header::CONTENT_LENGTH)?;
    let length: u64 = length.to_str().ok()?.trim().parse().ok()?;
    let most = limits.body_bytes.filter(|most| length > *most)?;
    Some((
        413,
        format!("its body is larger than {most} bytes (`body_bytes`)"),
    ))
}

/// The size of its head as HTTP/1.1 writes it.
fn head_bytes(question: &Question<'_>, entrance: Entrance) -> usize {
    let line =
        question.method.as_str().len() + " ".len() + entrance.target_bytes + " HTTP/1.1\r\n".len();
    let each = |name: usize, value: usize| name + ": \r\n".len() + value;
    let headers = question.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| each(name.as_str().len(), value.len()))
        .sum();
    let host = match question.headers.contains(header::HOST) {
        true => 0,
        false => each("host".len(), question.host.len()),
    };
    line + headers + host + "\r\n".len()
}
