//! What requests see: the views of pools, the tables of targets, and what operators decided beside the
//! configuration.

use std::collections::HashSet;
use std::sync::Arc;

use portolan_config::plan::{EndpointPlan, PoolId, PoolPlan, TargetId, TargetKindPlan};

use super::{Core, Due, Effect};
use crate::events::event::Event;
use crate::health::slow_start;
use crate::overrides::Drains;
use crate::overrides::weights::{Fitted, WeightsOf};
use crate::pool::endpoint::EndpointKey;
use crate::pool::endpoint_view::EndpointView;
use crate::pool::view::PoolView;
use crate::snapshot::TargetTables;

impl Core {
    pub(super) fn view(&self, pool: &Arc<PoolPlan>) -> PoolView {
        let view = self.view_of(pool, |_| true);
        self.passive.shape(view, self.now)
    }

    /// A pool with some of its endpoints.
    pub(super) fn view_of(
        &self,
        pool: &Arc<PoolPlan>,
        with: impl Fn(&EndpointView) -> bool,
    ) -> PoolView {
        let endpoints = self
            .placed(pool)
            .into_iter()
            .filter_map(|placed| {
                let key = EndpointKey {
                    pool: pool.name.clone(),
                    address: placed.address,
                };
                let state = self.endpoints.get(&key)?;
                let drained = self.drains.endpoint(&key).then_some(placed.weight);
                Some(EndpointView {
                    live: state.live.clone(),
                    dial: state.dial.clone(),
                    weight: if drained.is_some() { 0 } else { placed.weight },
                    drained,
                    backup: placed.backup,
                    name: placed.name,
                    health: state.health.clone(),
                    standing: state.record.standing,
                    ramp: slow_start::share(pool.slow_start, state.came_back, self.now),
                    leaving: placed.leaving,
                })
            })
            .filter(with)
            .collect();
        let resolved = pool.endpoints.iter().all(|endpoint| match endpoint {
            EndpointPlan::Dns { host, .. } => {
                self.names.get(host).is_some_and(|name| name.answered)
            }
            EndpointPlan::Address { .. } => true,
        });
        let mut plan = pool.clone();
        if !plan.drain && self.drains.pool(&plan.name) {
            Arc::make_mut(&mut plan).drain = true;
        }
        let turns = self.turns[&pool.name].clone();
        PoolView::new(plan, endpoints, resolved, turns)
    }

    /// Works out the tables of a target. Whether they changed.
    pub(super) fn work_out(&mut self, target: TargetId) -> bool {
        let plan = self.plan.clone();
        let tables = TargetTables::new(&*self, target, plan.classes(target));
        let slot = &mut self.tables[target.index()];
        if slot
            .as_ref()
            .is_some_and(|before| before.says_the_same(&tables))
        {
            return false;
        }
        *slot = Some(Arc::new(tables));
        true
    }

    /// Pools go by what is drained now, and services by their weights; only what changed is worked
    /// out again. Whoever changed it is told elsewhere.
    pub(super) fn set_overrides(
        &mut self,
        drains: Drains,
        weights: WeightsOf,
        effects: &mut Vec<Effect>,
    ) {
        let plan = self.plan.clone();
        let before = std::mem::replace(&mut self.drains, drains);
        for pool in &plan.pools {
            if !before.differs_in(&self.drains, &pool.name) {
                continue;
            }
            let view = self.view(pool);
            self.views[pool.id.index()] = Arc::new(view);
            self.dirty_targets
                .extend(&self.targets_of_pool[pool.id.index()]);
        }
        if self.weights != weights {
            self.weights = weights;
            let before = self.fitted.clone();
            self.fit_weights(effects);
            self.reweigh(&before);
        }
        self.dirty = true;
    }

    /// Every target that leads through a service with other weights than before has other shares.
    pub(super) fn reweigh(&mut self, before: &Fitted) {
        let plan = self.plan.clone();
        let changed: HashSet<TargetId> = (0..plan.targets.len())
            .map(TargetId::new)
            .filter(|target| match &plan.targets.node(*target).kind {
                TargetKindPlan::Service(service, _) => {
                    before.of(*service) != self.fitted.of(*service)
                }
                _ => false,
            })
            .collect();
        if changed.is_empty() {
            return;
        }
        for (at, classes) in plan.classes.iter().enumerate() {
            let target = TargetId::new(at);
            let leads = || {
                let below = plan.targets.reachable(target);
                below.iter().any(|id| changed.contains(id))
            };
            if classes.is_some() && leads() {
                self.dirty_targets.insert(target);
            }
        }
    }

    /// Makes a pool's view anew and says whether it came up or went down.
    pub(crate) fn change_pool(&mut self, pool: PoolId, effects: &mut Vec<Effect>) {
        let was_up = self.views[pool.index()].availability > 0.0;
        let was_judged = self.views[pool.index()].judged;
        self.remember();
        let plan = self.plan.pools[pool.index()].clone();
        self.let_go(&plan);
        let mut view = self.view(&plan);
        let up = view.availability > 0.0;
        if up && !was_up && was_judged && self.pool_comes_back(&plan) {
            view = self.view(&plan);
        }
        if up != was_up || (view.judged && !was_judged && !up) {
            effects.push(Effect::Emit(Event::PoolChanged {
                pool: plan.name.clone(),
                up,
                healthy: (view.healthy, view.counted),
            }));
        }
        self.views[pool.index()] = Arc::new(view);
        self.dirty_targets
            .extend(&self.targets_of_pool[pool.index()]);
        self.dirty = true;
    }

    pub(super) fn measure(&mut self) {
        for target in self.measured.targets.clone() {
            self.dirty |= self.work_out(target);
        }
        if let Some(every) = self.measured.every {
            self.due.insert((self.now + every, Due::Measure));
        }
    }
}
