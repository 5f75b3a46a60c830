//! What becomes of a request: the one place that decides, for the data plane, for `portolan
//! explain`, and for the tests a configuration brings along.

use std::net::IpAddr;

use portolan_config::plan::{Denied, PoolId, RoutePlan, WhenAllDownPlan};

use crate::decision::Decision;
use crate::decision::affinity::ClientAffinity;
use crate::geo::Whereabouts;
use crate::snapshot::{ClassTables, Snapshot};
use crate::steering::Draw;

/// Whether a route is for this client at all.
///
/// # Errors
/// Why not.
pub fn route_access<'a>(
    route: &'a RoutePlan,
    client: Option<IpAddr>,
    found: &Whereabouts,
) -> Result<(), Denied<'a>> {
    match &route.access {
        Some(access) => access.check(client, found.place, found.system),
        None => Ok(()),
    }
}

/// Why `who` (the route, or the listener) is not for a client, in a line.
pub fn denied_words(who: &str, denied: Denied<'_>) -> String {
    match denied {
        Denied::Named(words) => format!("{who} denies {words}"),
        Denied::NotNamed(words) => format!("{who} allows only {words}"),
    }
}

/// What becomes of a request of this route from this client, who may be tied to a place.
pub fn decide(
    snapshot: &Snapshot,
    route: &RoutePlan,
    client: Option<IpAddr>,
    found: &Whereabouts,
    tie: &ClientAffinity,
) -> Decision {
    let tables = snapshot.tables_for(route.target, client, found);
    if let Some(decision) = tie.decide(snapshot, tables.tables(), route.when_all_down) {
        return decision;
    }
    // Only now: those who stay leave the draws to those who come.
    let draw = snapshot.routes[route.id.index()]
        .sequence(tables.rule())
        .draw();
    look_up(tables.tables(), route.when_all_down, draw)
}

/// What becomes of the same request after these pools failed it.
pub fn decide_again(
    snapshot: &Snapshot,
    route: &RoutePlan,
    client: Option<IpAddr>,
    found: &Whereabouts,
    failed: &[PoolId],
    tie: &ClientAffinity,
    draw: Draw,
) -> Decision {
    let tables = snapshot.tables_without(route.target, client, found, failed);
    tie.decide(snapshot, &tables, route.when_all_down)
        .unwrap_or_else(|| look_up(&tables, route.when_all_down, draw))
}

/// What a draw from these tables means.
pub fn look_up(tables: &ClassTables, policy: WhenAllDownPlan, draw: Draw) -> Decision {
    if let Some(entry) = tables.main.pick(draw) {
        return Decision::Pool {
            pool: entry.pool,
            basis: tables.main.basis,
            why: entry.why.clone(),
        };
    }
    let Some(rest) = &tables.when_all_down else {
        // Somebody could serve, so what is refused is refused on purpose; or there really is nobody
        // at all, not even somebody unhealthy.
        return if tables.main.entries().is_empty() && tables.main.refused >= 1.0 {
            all_down(policy).unwrap_or(Decision::Nobody)
        } else {
            Decision::Shed
        };
    };
    all_down(policy).unwrap_or_else(|| match rest.pick(draw) {
        Some(entry) => Decision::Pool {
            pool: entry.pool,
            basis: rest.basis,
            why: entry.why.clone(),
        },
        None => Decision::Nobody,
    })
}

/// What the route says to answer when nobody can serve, if it says anything.
fn all_down(policy: WhenAllDownPlan) -> Option<Decision> {
    match policy {
        WhenAllDownPlan::Respond {
            status,
            retry_after,
        } => Some(Decision::AllDown {
            status,
            retry_after,
        }),
        WhenAllDownPlan::TryAll => None,
    }
}
