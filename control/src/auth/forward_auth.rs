//! Services that say who may pass: how many questions are under way, and how they were answered.

use std::sync::Arc;

use portolan_config::plan::ForwardAuthPlan;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::counters::Counter;

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// The request may pass.
    Allowed,
    /// It may not.
    Denied,
    /// There was no answer, and it may not.
    Failed,
    /// There was no answer, and it may all the same (`fail_open`).
    FailedOpen,
    /// Too many questions were under way.
    Busy,
}

impl Ruling {
    /// Every name, each where its counter stands.
    pub const NAMES: [&'static str; 5] = ["allowed", "denied", "failed", "failed_open", "busy"];
}

/// The service of a route.
#[derive(Debug)]
pub struct Authority {
    /// As configured.
    pub plan: Arc<ForwardAuthPlan>,
    room: Arc<Semaphore>,
    rulings: Arc<[Counter; Ruling::NAMES.len()]>,
}

impl Authority {
    /// The service of a plan; what was counted `before` is counted on, and what is under way counts.
    pub fn new(plan: Arc<ForwardAuthPlan>, before: Option<&Self>) -> Self {
        let room = before
            .filter(|before| before.plan.at_once == plan.at_once)
            .map(|before| before.room.clone());
        Self {
            room: room.unwrap_or_else(|| Arc::new(Semaphore::new(plan.at_once))),
            rulings: before.map(|b| b.rulings.clone()).unwrap_or_default(),
            plan,
        }
    }

    /// Room for one more question, if there is some.
    pub fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_owned().ok()
    }

    /// A question was answered, or was not.
    pub fn ruled(&self, ruling: Ruling) {
        self.rulings[ruling as usize].one();
    }

    /// How many questions were answered how.
    pub fn counted(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Ruling::NAMES
            .into_iter()
            .zip(self.rulings.iter().map(Counter::get))
    }
}
