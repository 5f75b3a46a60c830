//! The border to whoever accepts clients: what the control plane asks of listeners when the
//! configuration changes, and what it can say about them.

use std::fmt;
use std::sync::Arc;

use portolan_certs::Material;
use portolan_config::diagnostic::Diagnostic;
use portolan_config::plan::Plan;

use crate::telemetry::listener_status::ListenerStatus;

/// Accepts clients.
pub trait Listeners: fmt::Debug + Send + Sync {
    /// Binds what a new configuration adds, without accepting anybody there yet. Nothing changes
    /// until the preparation is committed, and dropping it undoes it.
    ///
    /// # Errors
    /// One diagnostic for every address that cannot be had.
    fn prepare(
        &self,
        plan: &Arc<Plan>,
        material: &Arc<Material>,
    ) -> Result<Box<dyn PreparedListeners>, Vec<Diagnostic>>;

    /// The listeners as they run.
    fn status(&self) -> Vec<ListenerStatus>;
}

/// Listeners ready to change.
pub trait PreparedListeners: Send {
    /// Begins to accept where that is new, and to leave where it is over.
    fn commit(self: Box<Self>);
}
