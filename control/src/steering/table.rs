//! What is decided for one class of clients, ready to be looked up.

use std::sync::Arc;

use portolan_config::plan::{Class, PoolId, TargetGraph, TargetId};

use super::evaluate::{Conditions, Load, evaluate};
use super::sequence::Draw;

/// By which health a table was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Basis {
    /// As it is.
    Health,
    /// No pool can serve because requests failed, though probes say otherwise: probes are believed.
    Probed,
    /// Every pool failed at the same time: what was before is held.
    Held,
    /// No pool can serve: those that have healthy endpoints, but fewer than `min_healthy`.
    HealthyEndpoints,
    /// Not even that: every endpoint as if it were healthy.
    EveryEndpoint,
}

impl Basis {
    /// In a word, for explanations.
    pub fn words(self) -> &'static str {
        match self {
            Self::Health => "by health",
            Self::Probed => "requests fail everywhere, trusting the probes",
            Self::Held => "all failed at once, holding what was before",
            Self::HealthyEndpoints => "all down, trying pools below min_healthy",
            Self::EveryEndpoint => "all down, trying every endpoint",
        }
    }
}

/// Shares of traffic for one class of clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    entries: Vec<Entry>,
    /// The share that is refused: 0 to 1.
    pub refused: f64,
    /// By which health it was made.
    pub basis: Basis,
}

/// One pool's share.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The pool.
    pub pool: PoolId,
    /// Its share: above 0, at most 1.
    pub share: f64,
    /// How it came to it.
    pub why: Arc<str>,
    /// Draws below this, and not below the previous entry's, are this pool's.
    below: u64,
}

impl Table {
    /// The table of a target for a class.
    pub fn new(
        graph: &TargetGraph,
        target: TargetId,
        class: &Class,
        conditions: &dyn Conditions,
        basis: Basis,
    ) -> Self {
        Self::of(evaluate(graph, target, class, conditions, true), basis)
    }

    /// The table of a load: what can be carried, scaled up to the whole.
    pub fn of(load: Load, basis: Basis) -> Self {
        let mut shares: Vec<(PoolId, f64, Vec<String>)> = Vec::new();
        for share in load.shares {
            match shares.iter_mut().find(|(pool, ..)| *pool == share.pool) {
                Some((_, part, why)) => {
                    *part += share.part;
                    if !why.contains(&share.why) {
                        why.push(share.why);
                    }
                }
                None => shares.push((share.pool, share.part, vec![share.why])),
            }
        }
        shares.sort_by_key(|(pool, ..)| *pool);
        let scale = if load.taken > 0.0 {
            1.0 / load.taken
        } else {
            0.0
        };
        let refused = if load.taken > 0.0 {
            load.refused * scale
        } else {
            1.0
        };
        let mut sum = 0.0;
        let mut entries: Vec<Entry> = shares
            .into_iter()
            .map(|(pool, part, why)| {
                let share = part * scale;
                sum += share;
                Entry {
                    pool,
                    share,
                    why: why.join(" | ").into(),
                    below: threshold(sum),
                }
            })
            .collect();
        // Rounding must not refuse anybody.
        if refused < 1e-9
            && let Some(last) = entries.last_mut()
        {
            last.below = u64::MAX;
        }
        Self {
            entries,
            refused,
            basis,
        }
    }

    /// Whose draw this is, or `None` if it is refused.
    pub fn pick(&self, draw: Draw) -> Option<&Entry> {
        // Most tables have one to three entries: a walk beats a search.
        if self.entries.len() <= 8 {
            return self
                .entries
                .iter()
                .find(|entry| draw.0 < entry.below || entry.below == u64::MAX);
        }
        let at = self
            .entries
            .partition_point(|entry| entry.below != u64::MAX && entry.below <= draw.0);
        self.entries.get(at)
    }

    /// Every pool with a share, in the order of their ids.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A pool's share.
    pub fn share(&self, pool: PoolId) -> f64 {
        self.entries
            .iter()
            .find(|entry| entry.pool == pool)
            .map_or(0.0, |entry| entry.share)
    }
}

/// A share as a bound for draws.
fn threshold(share: f64) -> u64 {
    // Saturates at the top: a share of 1 is every draw.
    (share * 2f64.powi(64)) as u64
}
