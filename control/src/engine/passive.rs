//! What requests tell, in the engine: who is ejected and comes back, who starts slowly, and whether
//! the instance suspects itself. The judgements are in [`outlier`](crate::health::outlier),
//! [`slow_start`] and [`partition`]; here they meet the state.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use portolan_config::names::Name;
use portolan_config::plan::{OutlierPlan, PoolPlan, ProbePlan};

use super::core::{Core, Effect, EndpointState};
use crate::clock::Tick;
use crate::engine::handover::Known;
use crate::engine::observations::{Before, CALM, COMPARE, HEARD, PICTURES, Picture};
use crate::events::event::Event;
use crate::health::outlier::fault::EndpointFault;
use crate::health::outlier::{
    EjectionChange, EjectionState, OutlierEvent, Record, Tally, Window, stands_out,
};
use crate::health::partition::Pace;
use crate::health::verdict::Verdict;
use crate::health::{partition, slow_start};
use crate::pool::endpoint::EndpointKey;
use crate::pool::view::PoolView;

/// Endpoints whose pool says nothing about outliers are judged by this: not at all.
const OFF: OutlierPlan = OutlierPlan {
    consecutive_failures: 1,
    eject_for: Duration::from_secs(1),
    max_ejected: 0.0,
};

impl EndpointState {
    /// Goes on with what the process before this one knew.
    pub(super) fn go_on(&mut self, known: Known, pool: &PoolPlan) {
        self.health = known.health;
        self.came_back = known.came_back;
        self.added_later = false;
        self.live.go_on(&known.measured);
        if let Some(policy) = &pool.outlier {
            self.record = Record::handed_over(&known.record, policy);
            let on_trial = matches!(self.record.standing, EjectionState::HalfOpen { .. });
            self.live.passive.turn(on_trial);
        }
        self.tell_requests(false, Tick::ZERO);
    }

    /// Takes over what a configuration says about outliers.
    pub(super) fn keep_watch(&mut self, pool: &PoolPlan, now: Tick) {
        match &pool.outlier {
            Some(policy) => self.live.passive.set_alarm(policy.consecutive_failures),
            None => {
                self.live.passive.set_alarm(0);
                // Nobody is told: that the judgement ends is what the configuration says.
                self.judge(&OFF, OutlierEvent::SwitchedOff, now);
            }
        }
    }

    /// What becomes of it when `event` happens.
    fn judge(
        &mut self,
        policy: &OutlierPlan,
        event: OutlierEvent,
        now: Tick,
    ) -> Option<EjectionChange> {
        let record = std::mem::take(&mut self.record);
        let (record, change) = record.step(policy, event, now);
        self.record = record;
        if let Some(change) = &change {
            let on_trial = matches!(self.record.standing, EjectionState::HalfOpen { .. });
            self.live.passive.turn(on_trial);
            let mut dead = false;
            if let EjectionChange::Ejected(reason, _) = change {
                self.live.ejections[reason.kind()].one();
                self.live.begin_connection_generation();
                dead = reason.fault() == Some(EndpointFault::TimedOut);
            }
            self.tell_requests(dead, now.before(HEARD));
        }
        change
    }

    /// Tells requests that wait for it what became of it. `dead`: it did not answer what it was asked
    /// `since` then; unless requests were answered meanwhile, nothing is to be expected of it.
    pub(super) fn tell_requests(&self, dead: bool, since: Tick) {
        let unhealthy = self.health.verdict == Verdict::Unhealthy;
        let ejected = self.record.standing.ejected_since().is_some();
        let dead = dead && !self.live.stall.was_heard_since(since);
        self.live.turn(unhealthy || ejected, dead);
    }

    /// It was found silent, after so long. Operators are told once, until it has been heard for a while.
    pub(super) fn fell_silent(
        &mut self,
        silent: Option<Duration>,
        now: Tick,
        effects: &mut Vec<Effect>,
    ) {
        let Some(silent) = silent else {
            return;
        };
        if self.silent.replace(now).is_none() {
            effects.push(Effect::Emit(Event::WentSilent {
                key: self.live.key.clone(),
                silent,
            }));
        }
        self.live.ring();
    }

    /// Whether it was silent, and has been heard for a while.
    fn is_heard_again(&mut self, now: Tick) -> bool {
        let Some(last) = self.silent else {
            return false;
        };
        if self.live.stall.is_suspect() {
            self.silent = Some(now);
            return false;
        }
        let calm = now.since(last) >= CALM;
        if calm {
            self.silent = None;
        }
        calm
    }

    /// Its probes say that it is back: requests from before say nothing about it any more.
    pub(super) fn begins_anew(&self) {
        if self.record.standing == EjectionState::Free {
            self.live.passive.turn(false);
        }
    }

    /// The tries that ended since the last time.
    fn news(&mut self) -> Tally {
        let tally = self.live.tally();
        tally.since(std::mem::replace(&mut self.counted, tally))
    }

    /// What requests have told since the last time.
    fn hear(&mut self, policy: &OutlierPlan, news: Tally, now: Tick) -> Option<EjectionChange> {
        let seen = self.live.passive.look(now);
        let counts = Tally {
            failed: if seen.all_bound { 0 } else { news.failed },
            ..news
        };
        if counts != Tally::default() {
            self.judge(policy, OutlierEvent::Counted(counts), now);
        }
        let event = match (seen.trial, self.record.standing) {
            (Some(true), _) => OutlierEvent::Tried(Ok(())),
            (Some(false), _) => OutlierEvent::Tried(Err(seen.fault)),
            (None, EjectionState::HalfOpen { .. }) if seen.waits => OutlierEvent::Awaited,
            (None, EjectionState::Free)
                if seen.run >= policy.consecutive_failures && !seen.bound =>
            {
                OutlierEvent::Run(seen.run, seen.fault)
            }
            (None, _) => OutlierEvent::Woken,
        };
        self.judge(policy, event, now)
    }
}

impl Core {
    /// The pools that have been serving.
    pub(super) fn serving(&self) -> HashSet<Name> {
        let serving = self.views.iter().filter(|view| view.availability > 0.0);
        serving.map(|view| view.plan.name.clone()).collect()
    }

    /// Takes over what a configuration says. The views are still those of the last one.
    pub(super) fn keep_passive(&mut self) {
        let probes = self
            .plan
            .pools
            .iter()
            .filter_map(|pool| pool.probe.as_ref());
        self.passive.pace = Pace::of(probes);
        self.passive.changed = true;
        self.keep_looking();
    }

    /// An endpoint begins with a small part of its share, if its pool says so.
    pub(super) fn begin_slowly(&mut self, key: &EndpointKey) {
        // While what was before is held, nobody has been away.
        if self.passive.suspicion.since().is_some() {
            return;
        }
        if let Some(state) = self.endpoints.get_mut(key) {
            state.came_back = Some(self.now);
            self.keep_looking();
        }
    }

    /// A pool that was down can serve again. Whether it begins slowly.
    pub(super) fn pool_comes_back(&mut self, plan: &PoolPlan) -> bool {
        if plan.slow_start.is_none() || self.passive.suspicion.since().is_some() {
            return false;
        }
        self.passive.came_back.insert(plan.name.clone(), self.now);
        self.keep_looking();
        true
    }

    /// A probe passed. Whether that changed where its endpoint stands with traffic.
    pub(super) fn passed(
        &mut self,
        key: &EndpointKey,
        probe: &ProbePlan,
        before: Verdict,
        after: Verdict,
        effects: &mut Vec<Effect>,
    ) -> bool {
        self.passive.passed = true;
        let now = self.now;
        let Some(pool) = self.pool_of(key) else {
            return false;
        };
        let (Some(policy), Some(state)) = (&pool.outlier, self.endpoints.get_mut(key)) else {
            return false;
        };
        let EjectionState::Ejected { since, reason, .. } = state.record.standing else {
            return false;
        };
        let recovered = before == Verdict::Unhealthy && after == Verdict::Healthy;
        let would_meet = reason
            .fault()
            .is_some_and(|fault| fault.is_met_by(&probe.kind));
        let would_meet = would_meet || state.record.probes_fail();
        let event = if recovered {
            OutlierEvent::Recovered
        } else if would_meet && after == Verdict::Healthy && state.probed >= Some(since) {
            OutlierEvent::ProbePassed
        } else {
            return false;
        };
        let change = state.judge(policy, event, now);
        self.tell(key, change, effects)
    }

    /// A probe failed: what requests say is not unknown to probes.
    pub(super) fn probe_failed(&mut self, key: &EndpointKey) {
        let now = self.now;
        let pool = self.pool_of(key);
        let policy = pool.as_ref().and_then(|pool| pool.outlier.as_ref());
        if let (Some(policy), Some(state)) = (policy, self.endpoints.get_mut(key)) {
            state.judge(policy, OutlierEvent::ProbeFailed, now);
        }
    }

    /// Says what changed about an endpoint, and does what else follows. Whether anything did.
    fn tell(
        &mut self,
        key: &EndpointKey,
        change: Option<EjectionChange>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(change) = change else {
            return false;
        };
        match change {
            EjectionChange::Ejected(reason, _) => {
                // What a probe would meet, it may as well meet now.
                let pool = self.pool_of(key);
                let probe = pool.as_ref().and_then(|pool| pool.probe.as_ref());
                let meets = |probe: &ProbePlan| {
                    reason
                        .fault()
                        .is_some_and(|fault| fault.is_met_by(&probe.kind))
                };
                if probe.is_some_and(meets) {
                    self.probe_now(key);
                }
            }
            EjectionChange::HalfOpen => {}
            EjectionChange::Readmitted => self.begin_slowly(key),
        }
        effects.push(Effect::Emit(Event::EndpointStanding {
            key: key.clone(),
            change,
        }));
        true
    }

    /// Whether time alone changes nothing: nobody is ejected or on trial, nobody starts slowly, and
    /// the instance does not suspect itself.
    pub(super) fn is_calm(&self) -> bool {
        let passive = &self.passive;
        let slow = |view: &PoolView| {
            let since = passive.came_back.get(&view.plan.name).copied();
            slow_start::share(view.plan.slow_start, since, self.now) < 1.0
        };
        passive.suspicion.since().is_none()
            && !self.endpoints.values().any(|state| state.silent.is_some())
            && !self.views.iter().any(|view| {
                slow(view)
                    || view.ramp < 1.0
                    || view.endpoints.iter().any(|endpoint| {
                        endpoint.standing != EjectionState::Free || endpoint.ramp < 1.0
                    })
            })
    }

    /// Looks at what requests tell, and at what time alone changes. Whether it need not look again
    /// before a request ends: nothing is to be expected, and nothing has ended since endpoints were
    /// compared.
    pub(super) fn look(&mut self, effects: &mut Vec<Effect>) -> bool {
        let now = self.now;
        let compare = now.since(self.passive.compared) >= COMPARE;
        let mut some = false;
        if compare {
            self.passive.compared = now;
        }
        // While the instance suspects itself, requests that fail say nothing about endpoints.
        let holding = self.passive.suspicion.since().is_some();
        for at in 0..self.views.len() {
            let view = self.views[at].clone();
            let mut changed = false;
            for endpoint in &view.endpoints {
                let key = &endpoint.live.key;
                let Some(state) = self.endpoints.get_mut(key) else {
                    continue;
                };
                let told = state.news();
                some |= told != Tally::default();
                if state.is_heard_again(now) {
                    let key = key.clone();
                    effects.push(Effect::Emit(Event::HeardAgain { key }));
                }
                let change = match &view.plan.outlier {
                    Some(policy) if !holding => state.hear(policy, told, now),
                    _ => None,
                };
                changed |= self.tell(key, change, effects);
            }
            if let Some(policy) = &view.plan.outlier
                && compare
                && !holding
            {
                changed |= self.compare(&view, policy, effects);
            }
            let ramps = self.ramps(&view);
            if changed || ramps {
                self.change_pool(view.plan.id, effects);
            }
        }
        // What ended until now was compared now, or will be.
        self.passive.news = (self.passive.news || some) && !compare;
        !some && !self.passive.news && self.is_calm()
    }

    /// Whether the next step of a slow start is due in this pool.
    fn ramps(&self, view: &PoolView) -> bool {
        let Some(span) = view.plan.slow_start else {
            return false;
        };
        let part = |since| slow_start::share(Some(span), since, self.now);
        let pool = self.passive.came_back.get(&view.plan.name).copied();
        view.ramp != part(pool)
            || view.endpoints.iter().any(|endpoint| {
                let state = self.endpoints.get(&endpoint.live.key);
                state.is_some_and(|state| endpoint.ramp != part(state.came_back))
            })
    }

    /// Compares a pool's endpoints with each other, or with their past. Whether one was ejected.
    fn compare(
        &mut self,
        view: &PoolView,
        policy: &OutlierPlan,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let windows: Vec<Option<&Window>> = view
            .endpoints
            .iter()
            .map(|endpoint| {
                let record = &self.endpoints.get(&endpoint.live.key)?.record;
                (record.standing == EjectionState::Free).then_some(&record.window)
            })
            .collect();
        let Some((at, reason)) = stands_out(&windows) else {
            return false;
        };
        let key = &view.endpoints[at].live.key;
        let now = self.now;
        let change = self
            .endpoints
            .get_mut(key)
            .and_then(|state| state.judge(policy, OutlierEvent::StandsOut(reason), now));
        self.tell(key, change, effects)
    }

    // === Self-suspicion ===

    /// Remembers the pools as they are, before one of them changes.
    pub(super) fn remember(&mut self) {
        self.passive.changed = true;
        if self.passive.suspicion.since().is_some() {
            return;
        }
        let (now, window) = (self.now, self.passive.pace.window);
        let pictures = &mut self.passive.pictures;
        // Of changes at the same time, only what was before all of them was ever true.
        if pictures.back().is_some_and(|last| last.until == now) {
            return;
        }
        let takes = |view: &Arc<PoolView>| view.availability.max(view.probed);
        pictures.push_back(Picture {
            until: now,
            richness: self.views.iter().map(takes).sum(),
            views: self.views.clone(),
        });
        pictures.retain(|picture| now.since(picture.until) <= window);
        if pictures.len() > PICTURES {
            let poorest = (0..pictures.len())
                .min_by(|a, b| pictures[*a].richness.total_cmp(&pictures[*b].richness));
            poorest.and_then(|at| pictures.remove(at));
        }
    }

    /// Asks whether the fault is our own.
    pub(super) fn suspect(&mut self, effects: &mut Vec<Effect>) {
        let mut changes = Vec::new();
        if std::mem::take(&mut self.passive.changed) {
            let pools = self.views.iter();
            let judged = pools
                .filter(|view| view.plan.probe.is_some() && !view.plan.drain && view.judged)
                .map(|view| (view.plan.name.clone(), view.probed > 0.0))
                .collect();
            changes.extend(self.ask(partition::PartitionEvent::Judged(judged)));
        }
        if std::mem::take(&mut self.passive.passed) {
            changes.extend(self.ask(partition::PartitionEvent::ProbePassed));
        }
        changes.extend(self.ask(partition::PartitionEvent::Woken));
        for (change, pools) in changes {
            self.follow(change, effects);
            effects.push(Effect::Emit(Event::SelfSuspicion { change, pools }));
        }
    }

    /// What changed, and the pools that it is about.
    fn ask(
        &mut self,
        event: partition::PartitionEvent,
    ) -> Option<(partition::PartitionChange, Vec<Name>)> {
        let before = std::mem::take(&mut self.passive.suspicion);
        let about: Vec<Name> = before.fallen().cloned().collect();
        let (after, change) = before.step(self.passive.pace, event, self.now);
        self.passive.suspicion = after;
        let now_about = self.passive.suspicion.fallen().cloned();
        let about = now_about.chain(about);
        change.map(|change| {
            let mut names: Vec<Name> = about.collect();
            names.sort_unstable();
            names.dedup();
            (change, names)
        })
    }

    /// Does what follows from a suspicion, or from its end.
    fn follow(&mut self, change: partition::PartitionChange, effects: &mut Vec<Effect>) {
        match change {
            partition::PartitionChange::Holding => {
                let pictures = std::mem::take(&mut self.passive.pictures);
                // The last of the best.
                let best = pictures
                    .iter()
                    .max_by(|a, b| a.richness.total_cmp(&b.richness));
                self.passive.held = best
                    .into_iter()
                    .flat_map(|picture| &picture.views)
                    .map(|view| {
                        let before = Before {
                            availability: view.availability.max(view.probed),
                            served: view.served_by().collect(),
                        };
                        (view.plan.name.clone(), before)
                    })
                    .collect();
            }
            partition::PartitionChange::Settling => return self.probe_everybody(),
            partition::PartitionChange::LetGo => {
                self.passive.held.clear();
                // What they did when nobody could be reached was not theirs.
                let now = self.now;
                for state in self.endpoints.values_mut() {
                    state.judge(&OFF, OutlierEvent::Acquitted, now);
                    state.live.passive.turn(false);
                }
            }
        }
        for at in 0..self.plan.pools.len() {
            self.change_pool(self.plan.pools[at].id, effects);
        }
        self.passive.changed = false;
        self.keep_looking();
    }
}
