//! `expose: true`: how a request was steered, told to the client.

use http::HeaderName;
use pingora::Result;
use portolan_control::steering::Basis;

use crate::http::head::ResponseHeader;
use crate::request::context::Served;

/// Adds the `x-portolan-*` headers.
pub(crate) fn add(response: &mut ResponseHeader, ctx: &Served<'_>) -> Result<()> {
    let name = HeaderName::from_static;
    let snapshot = ctx.snapshot();
    if let Some(current) = &ctx.current {
        let pool = snapshot.plan.pools[current.pool.index()].name.as_str();
        response.insert_header(name("x-portolan-pool"), pool)?;
        let address = current.live.endpoint().key.address.to_string();
        response.insert_header(name("x-portolan-endpoint"), address)?;
    }
    response.insert_header(name("x-portolan-tries"), ctx.tries)?;
    let client = snapshot.plan.locations.country_label(ctx.found().place);
    response.insert_header(name("x-portolan-client"), client)?;
    if let Some(why) = &ctx.why {
        let why = match ctx.basis {
            Basis::Health => why.to_string(),
            basis => format!("{}: {why}", basis.words()),
        };
        // Words of rules are the user's own, and need not fit into a header.
        let plain: String = why
            .chars()
            .map(|c| {
                if c.is_ascii_graphic() || c == ' ' {
                    c
                } else {
                    '?'
                }
            })
            .collect();
        response.insert_header(name("x-portolan-why"), plain)?;
    }
    response.insert_header(name("x-portolan-config"), snapshot.plan.hash.as_str())?;
    Ok(())
}
