//! The answer, from the endpoint to the client, as it comes.

use http::{Method, Version, header};
use pingora::http::ResponseHeader;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::client::HttpSession;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, Result};

use super::{Answer, client_gone};
use crate::context::RequestContext;
use crate::edge::Edge;
use crate::fault;

/// Passes an answer on.
pub(super) async fn relay(
    edge: &Edge,
    session: &mut Session,
    ctx: &mut RequestContext,
    answer: Answer,
) -> Result<()> {
    let Answer {
        session: mut upstream,
        peer,
        head,
        end,
    } = answer;
    match pass(
        edge,
        session,
        ctx,
        &mut upstream,
        HttpTask::Header(head, end),
    )
    .await
    {
        Ok(()) => {
            let idle = peer.options.idle_timeout;
            edge.upstream
                .connector
                .release_http_session(upstream, &peer, idle)
                .await;
            Ok(())
        }
        Err(error) => {
            upstream.shutdown().await;
            if *error.esource() == ErrorSource::Upstream
                && let Some(current) = &mut ctx.current
            {
                current.live.ended(fault::outcome(&error));
            }
            Err(error)
        }
    }
}

async fn pass(
    edge: &Edge,
    session: &mut Session,
    ctx: &mut RequestContext,
    upstream: &mut HttpSession,
    first: HttpTask,
) -> Result<()> {
    let mut next = first;
    loop {
        let last = match &mut next {
            HttpTask::Header(head, end) => {
                if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
                    let error =
                        Error::explain(ErrorType::InvalidHTTPHeader, "an upgrade nobody asked for");
                    return Err(error.into_up());
                }
                if !head.status.is_informational() {
                    frame(session, head, *end)?;
                }
                edge.to_client(session, head, ctx)?;
                *end && !head.status.is_informational()
            }
            HttpTask::Body(part, end) => {
                ctx.bytes_out += part.as_ref().map_or(0, |part| part.len() as u64);
                *end
            }
            HttpTask::Trailer(_) | HttpTask::Done => true,
            HttpTask::UpgradedBody(..) | HttpTask::Failed(_) => {
                return Error::e_explain(ErrorType::InternalError, "what an answer never has");
            }
        };
        let done = session.write_response_tasks(vec![next]).await?;
        if last || done {
            return Ok(());
        }
        next = tokio::select! {
            biased;
            part = more(upstream) => part.map_err(Error::into_up)?,
            gone = client_gone(session) => return Err(gone.into_down()),
        };
        if let Some(current) = &mut ctx.current {
            let now = edge.recorder.clock.now();
            current.live.heard(now, &edge.messenger);
        }
    }
}

/// What comes next of an answer.
async fn more(upstream: &mut HttpSession) -> Result<HttpTask> {
    match upstream {
        HttpSession::H1(h1) => h1.read_response_task().await,
        HttpSession::H2(h2) => {
            while let Some(part) = h2.read_response_body().await? {
                let end = h2.check_response_end_or_error()?;
                // Nothing in HTTP/2 is the end in HTTP/1.1.
                if !part.is_empty() || end {
                    return Ok(HttpTask::Body(Some(part), end));
                }
            }
            Ok(match h2.read_trailers().await? {
                Some(trailers) => HttpTask::Trailer(Some(Box::new(trailers))),
                None => HttpTask::Done,
            })
        }
        HttpSession::Custom(()) => Ok(HttpTask::Done),
    }
}

/// An answer that does not say how long it is goes to the client in chunks, so that its connection
/// can be kept.
fn frame(session: &Session, head: &mut ResponseHeader, end: bool) -> Result<()> {
    head.set_version(Version::HTTP_11);
    let bodiless = session.req_header().method == Method::HEAD
        || matches!(head.status.as_u16(), 204 | 304)
        || end;
    if !bodiless
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
    {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}
