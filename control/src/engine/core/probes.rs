//! Probes: when they begin, and what their results change.

use std::time::Duration;

use super::{Core, Due, Effect, spread};
use crate::engine::observations::LOOK;
use crate::events::event::Event;
use crate::health::verdict::{
    Health, HealthPolicy, ProbeEvent as HealthEvent, ProbeFailure, Verdict,
};
use crate::pool::dial::ProbeOutcome;
use crate::pool::endpoint::EndpointKey;

impl Core {
    pub(super) fn probed(
        &mut self,
        key: &EndpointKey,
        serial: u64,
        outcome: ProbeOutcome,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        let Some(pool) = self.pool_of(key) else {
            return;
        };
        let found = self.endpoints.get_mut(key);
        let Some(state) = found.filter(|state| state.probing == Some(serial)) else {
            return;
        };
        state.probing = None;
        let Some(probe) = &pool.probe else {
            return;
        };
        let policy = HealthPolicy::from(probe);
        let event = match outcome.result {
            Ok(()) => HealthEvent::ProbeSucceeded,
            Err(ProbeFailure::Edge(_) | ProbeFailure::Own) => {
                // It was not asked: the verdict stays, and it is asked again soon.
                let probed = state.probed.unwrap_or(now);
                let next = (probed + policy.fast_every).max(now);
                state.next = Some(next);
                self.due.insert((next, Due::Probe(key.clone())));
                return;
            }
            Err(failure) => HealthEvent::ProbeFailed(failure),
        };
        let succeeded = event == HealthEvent::ProbeSucceeded;
        let silently = matches!(&event, HealthEvent::ProbeFailed(failure) if failure.is_silence());
        state.live.observe_probe(outcome.took, succeeded, now);
        let silent = if succeeded {
            state.live.stall.probe_passed(outcome.took, now);
            None
        } else {
            state.live.stall.probe_over(silently, now)
        };
        state.fell_silent(silent, now, effects);
        let looks = silent.is_some();
        let before = state.health.verdict;
        let health = std::mem::replace(&mut state.health, Health::unknown(now));
        state.health = health.step(&policy, event, now);
        let after = state.health.verdict;
        let because = state.health.because.clone();
        let added_later = std::mem::take(&mut state.added_later);

        let probed = state.probed.unwrap_or(now);
        let next = (probed + state.health.pace(&policy, spread(&state.live, probed))).max(now);
        state.next = Some(next);
        self.due.insert((next, Due::Probe(key.clone())));

        if before != after && after == Verdict::Unhealthy {
            state.live.begin_connection_generation();
        }
        if before == Verdict::Unhealthy && before != after {
            state.begins_anew();
        }
        if before != after {
            let dead = after == Verdict::Unhealthy && silently;
            state.tell_requests(dead, state.probed.unwrap_or(now));
            effects.push(Effect::Emit(Event::EndpointJudged {
                key: key.clone(),
                verdict: after,
                because,
            }));
        }
        let back = match before {
            Verdict::Unhealthy => true,
            Verdict::Unknown => added_later,
            Verdict::Healthy => false,
        };
        if after == Verdict::Healthy && before != after && back {
            self.begin_slowly(key);
        }
        let changed = if succeeded {
            self.passed(key, probe, before, after, effects)
        } else {
            self.probe_failed(key);
            false
        };
        if looks {
            self.keep_looking();
        }
        if before != after || changed {
            self.change_pool(pool.id, effects);
        }
    }

    /// Has every endpoint probed now that is not being probed already.
    pub(crate) fn probe_everybody(&mut self) {
        for (key, state) in &mut self.endpoints {
            if let Some(before) = state.next {
                self.due.remove(&(before, Due::Probe(key.clone())));
                state.next = Some(self.now);
                self.due.insert((self.now, Due::Probe(key.clone())));
            }
        }
    }

    /// Has an endpoint probed now, unless it is being probed already.
    pub(crate) fn probe_now(&mut self, key: &EndpointKey) {
        if let Some(state) = self.endpoints.get_mut(key)
            && let Some(before) = state.next
        {
            self.due.remove(&(before, Due::Probe(key.clone())));
            state.next = Some(self.now);
            self.due.insert((self.now, Due::Probe(key.clone())));
        }
    }

    /// Has the engine look at what requests tell from time to time, until nothing asks for it.
    pub(crate) fn keep_looking(&mut self) {
        if !self.passive.looks {
            self.passive.looks = true;
            self.passive.alarm.wake();
            self.due.insert((self.now + LOOK, Due::Look));
        }
    }

    /// Probes an endpoint at once instead of when it is due.
    pub(super) fn went_silent(
        &mut self,
        key: &EndpointKey,
        silent: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        if let Some(state) = self.endpoints.get_mut(key) {
            state.fell_silent(Some(silent), now, effects);
            self.probe_now(key);
            self.keep_looking();
        }
    }

    pub(super) fn begin_probe(&mut self, key: &EndpointKey, effects: &mut Vec<Effect>) {
        let now = self.now;
        let Some(plan) = self.pool_of(key) else {
            return;
        };
        let Some(state) = self.endpoints.get_mut(key) else {
            return;
        };
        self.serial += 1;
        state.next = None;
        state.probed = Some(now);
        state.live.stall.probe_sent(now);
        state.probing = Some(self.serial);
        effects.push(Effect::Probe {
            key: key.clone(),
            serial: self.serial,
            plan,
            dial: state.dial.clone(),
        });
    }
}
