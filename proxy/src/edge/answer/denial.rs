//! The answer of an authorization service that lets a request not pass.

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, StatusCode, header};
use pingora::Result;
use portolan_config::fields::Fields;
use smallvec::SmallVec;

use crate::downstream::Downstream;
use crate::http::head::ResponseHeader;
use crate::request::context::Served;
use crate::upstream::exchange::ask::ServiceAnswer;

/// What a client learns of a service's answer.
static PASSED_ON: [HeaderName; 6] = [
    header::CACHE_CONTROL,
    header::CONTENT_TYPE,
    header::LOCATION,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
];

/// A service's answer, as the client gets it.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    headers: Fields,
    body: Bytes,
}

impl Denial {
    pub(crate) fn new(told: ServiceAnswer) -> Self {
        let mut headers = Fields::new();
        for name in &PASSED_ON {
            for value in told.head.headers.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        if !headers.contains(header::CACHE_CONTROL) {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        Self {
            status: told.head.status,
            headers,
            body: told.body,
        }
    }

    /// Writes it, with what else the route has to say.
    pub(crate) async fn write(
        self,
        downstream: &mut Downstream,
        ctx: &Served<'_>,
        more: SmallVec<[(HeaderName, HeaderValue); 2]>,
    ) -> Result<()> {
        let mut head = ResponseHeader::build(self.status, 8)?;
        for (name, value) in &self.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        head.insert_header(header::CONTENT_LENGTH, self.body.len())?;
        head.insert_header(
            &crate::http::request_id::X_REQUEST_ID,
            ctx.received.id.as_str(),
        )?;
        for (name, value) in more {
            head.append_header(name, value)?;
        }
        downstream.answer(head, self.body).await
    }
}
