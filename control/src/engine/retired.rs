//! Configurations that nobody uses any more, and where their memory is given back.
//!
//! Ten thousand routes are some hundred thousand pieces of memory: giving them back takes
//! milliseconds. It would be the last request under way with an old configuration to pay for that,
//! on the thread that serves others as well. So the engine holds on to every snapshot that was the
//! last one of its configuration until it is the only one, and lets go of it where nobody waits.

use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::Snapshot;

/// How soon it is looked whether anybody still uses one; later less often.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOK: Duration = Duration::from_secs(10);

/// Keeps a snapshot until nobody else does, nor its configuration, and then gives back its memory.
pub(super) async fn retire(snapshot: Arc<Snapshot>) {
    let mut look = FIRST_LOOK;
    while is_used(&snapshot) {
        tokio::time::sleep(look).await;
        look = (look * 2).min(LAST_LOOK);
    }
    // Whether it could be done is of no interest.
    let _ = tokio::task::spawn_blocking(move || drop(snapshot)).await;
}

fn is_used(snapshot: &Arc<Snapshot>) -> bool {
    // Other snapshots of the same configuration share the plan with this one.
    Arc::strong_count(snapshot) > 1 || Arc::strong_count(&snapshot.plan) > 1
}
