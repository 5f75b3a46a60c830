//! An endpoint, as its pool sees it at one moment.

use std::sync::Arc;

use portolan_config::plan::PoolPlan;
use smallvec::SmallVec;

use crate::clock::Tick;
use crate::health::outlier::EjectionState;
use crate::health::verdict::{Health, Verdict};
use crate::pool::dial::Dial;
use crate::pool::endpoint::Endpoint;

/// An endpoint of a pool, at one moment.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Its counts and averages, which live on.
    pub live: Arc<Endpoint>,
    /// What is prepared for connections to it.
    pub dial: Dial,
    /// How much of the pool's traffic it gets: nothing while it is drained.
    pub weight: u32,
    /// An operator has drained it: the weight that it has otherwise.
    pub drained: Option<u32>,
    /// Serves only when no other can.
    pub backup: bool,
    /// The name it was found under, if it was.
    pub name: Option<Arc<str>>,
    /// Its health.
    pub health: Health,
    /// Where it stands with traffic.
    pub standing: EjectionState,
    /// How much of its weight it gets in a slow start: up to 1.
    pub ramp: f64,
    /// Its name has another address now: it serves until that one can.
    pub leaving: bool,
}

impl EndpointView {
    /// Whether it gets requests: healthy by its probes, and not ejected.
    pub fn serves(&self) -> bool {
        self.is_healthy() && self.standing.ejected_since().is_none()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.health.verdict == Verdict::Healthy
    }

    /// How much of its weight it gets when it serves.
    pub fn part(&self) -> f64 {
        self.standing.part().min(self.ramp)
    }

    /// The word that users see for its state.
    pub fn state(&self) -> &'static str {
        if self.is_healthy() && !self.serves() {
            "ejected"
        } else {
            self.health.verdict.as_str()
        }
    }

    /// Why it is in this state.
    pub fn because(&self) -> String {
        match self.standing {
            _ if self.leaving && self.serves() => {
                "its name has it no longer; it serves until another address can".to_owned()
            }
            EjectionState::Ejected { reason, .. } if self.is_healthy() => reason.to_string(),
            EjectionState::HalfOpen { reason, .. } if self.is_healthy() => {
                format!("on trial after an ejection: {reason}")
            }
            _ => self.health.because.to_string(),
        }
    }

    /// Since when.
    pub fn since(&self) -> Tick {
        match self.standing {
            EjectionState::Ejected { since, .. } | EjectionState::HalfOpen { since, .. }
                if self.is_healthy() =>
            {
                since
            }
            _ => self.health.since,
        }
    }
}

/// Who of a pool is ejected.
pub(crate) struct Ejected {
    pub(crate) count: usize,
    /// More than `max_ejected` allows.
    pub(crate) too_many: bool,
    /// As many of them as it allows, those that failed first.
    pub(crate) left_out: SmallVec<[usize; 8]>,
}

impl Ejected {
    pub(crate) fn of(plan: &PoolPlan, endpoints: &[EndpointView]) -> Self {
        let mut ejected: SmallVec<[(Tick, usize); 8]> = endpoints
            .iter()
            .enumerate()
            .filter(|(_, endpoint)| endpoint.is_healthy() && endpoint.weight > 0)
            .filter_map(|(at, endpoint)| Some((endpoint.standing.ejected_since()?, at)))
            .collect();
        ejected.sort_unstable();
        let all = endpoints.iter().filter(|e| e.weight > 0).count();
        let share = plan.outlier.as_ref().map_or(0.0, |o| o.max_ejected);
        let allowed = ((share * all as f64) as usize).max(1);
        Self {
            count: ejected.len(),
            too_many: ejected.len() > allowed,
            left_out: ejected.iter().take(allowed).map(|(_, at)| *at).collect(),
        }
    }
}
