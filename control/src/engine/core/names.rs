//! Names of endpoints: when they are asked for, what an answer changes, and addresses that a name has no
//! longer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portolan_config::names::Name;
use portolan_config::plan::{EndpointPlan, PoolId, PoolPlan};

use super::{Core, Due, Effect, FIRST_RETRY, FIRST_VERDICTS, LAST_RETRY, Leaving};
use crate::engine::resolve::ResolvedName;
use crate::events::event::Event;
use crate::health::verdict::Verdict;
use crate::pool::endpoint::EndpointKey;

impl Core {
    /// Those of a pool, ascending.
    pub(super) fn leaving_of(&self, pool: &Name) -> impl Iterator<Item = (&EndpointKey, &Leaving)> {
        let first = EndpointKey {
            pool: pool.clone(),
            address: SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0),
        };
        let leaving = (!self.leaving.is_empty()).then(|| self.leaving.range(first..));
        let pool = pool.clone();
        leaving
            .into_iter()
            .flatten()
            .take_while(move |(key, _)| key.pool == pool)
    }

    /// Whether an endpoint gets requests: healthy by its probes, and not ejected.
    pub(super) fn serves(&self, key: &EndpointKey) -> bool {
        self.endpoints.get(key).is_some_and(|state| {
            state.health.verdict == Verdict::Healthy
                && state.record.standing.ejected_since().is_none()
        })
    }

    /// A name has lost these addresses. Those that serve stay until others can: the last answer that was
    /// good is better than one of which nothing is known.
    pub(super) fn begin_leaving(&mut self, host: &Arc<str>, gone: &[IpAddr]) {
        let now = self.now;
        let max_ttl = self.plan.resolver.max_ttl;
        for id in self.pools_with(host) {
            let pool = self.plan.pools[id.index()].clone();
            let wait = pool
                .probe
                .as_ref()
                .map_or(Duration::ZERO, |probe| probe.timeout);
            let slow = pool.slow_start.unwrap_or_default();
            let leaving = Leaving {
                host: host.clone(),
                settled: now + wait + FIRST_VERDICTS + slow,
                last: now + max_ttl.max(wait),
            };
            let ports: BTreeSet<u16> = pool
                .endpoints
                .iter()
                .filter_map(|endpoint| match endpoint {
                    EndpointPlan::Dns { host: of, port, .. } if of == host => Some(*port),
                    _ => None,
                })
                .collect();
            for address in gone {
                for port in &ports {
                    let key = EndpointKey {
                        pool: pool.name.clone(),
                        address: SocketAddr::new(*address, *port),
                    };
                    if self.serves(&key) {
                        let name = pool.name.clone();
                        self.due.insert((leaving.settled, Due::LetGo(name.clone())));
                        self.due.insert((leaving.last, Due::LetGo(name)));
                        self.leaving.insert(key, leaving.clone());
                    }
                }
            }
        }
    }

    /// Forgets those that no pool asks for any more, and those that are wanted otherwise.
    pub(super) fn forget_leaving(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let leaving = std::mem::take(&mut self.leaving);
        let kept = leaving.into_iter().filter(|(key, leaving)| {
            let Some(pool) = self.pool_of(key) else {
                return false;
            };
            let named = pool.endpoints.iter().any(|endpoint| {
                matches!(endpoint, EndpointPlan::Dns { host, port, .. }
                    if *host == leaving.host && *port == key.address.port())
            });
            // Without those that leave, which are taken out just now.
            named
                && self
                    .placed(&pool)
                    .iter()
                    .all(|it| it.address != key.address)
        });
        self.leaving = kept.collect();
    }

    /// Lets go of addresses of a pool that are not needed any more. The pool's view has to be made anew.
    pub(super) fn let_go(&mut self, pool: &Arc<PoolPlan>) {
        if self.leaving_of(&pool.name).next().is_none() {
            return;
        }
        let without = self.view_of(pool, |endpoint| !endpoint.leaving);
        let serves = without.availability > 0.0;
        let goes: Vec<EndpointKey> = self
            .leaving_of(&pool.name)
            .filter(|(key, leaving)| {
                let settles = self.now < leaving.settled
                    && without.endpoints.iter().any(|endpoint| {
                        endpoint.name.as_ref() == Some(&leaving.host)
                            && (endpoint.health.verdict == Verdict::Unknown || endpoint.ramp < 1.0)
                    });
                let needed = settles || (!serves && self.now < leaving.last);
                !needed || !self.serves(key)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in goes {
            self.leaving.remove(&key);
            if let Some(state) = self.endpoints.remove(&key)
                && let Some(next) = state.next
            {
                self.due.remove(&(next, Due::Probe(key)));
            }
        }
    }

    pub(super) fn answered(
        &mut self,
        host: &Arc<str>,
        serial: u64,
        answer: Result<ResolvedName, String>,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        let resolver = self.plan.resolver.clone();
        let found = self.names.get_mut(host);
        let Some(state) = found.filter(|state| state.asking == Some(serial)) else {
            return;
        };
        state.asking = None;
        let first = !std::mem::replace(&mut state.answered, true);
        let mut changed = false;
        let mut gone = Vec::new();
        let wait = match answer {
            Ok(answer) => {
                state.failures = 0;
                changed = state.addresses != answer.addresses;
                gone = std::mem::replace(&mut state.addresses, answer.addresses);
                gone.retain(|address| !state.addresses.contains(address));
                if changed {
                    effects.push(Effect::Emit(Event::NameChanged {
                        host: host.clone(),
                        addresses: state.addresses.len(),
                    }));
                }
                answer.ttl.clamp(resolver.min_ttl, resolver.max_ttl)
            }
            Err(error) => {
                // Said once per outage, not once per try.
                if state.failures == 0 {
                    effects.push(Effect::Emit(Event::NameFailed {
                        host: host.clone(),
                        error,
                    }));
                }
                let doubled = FIRST_RETRY * 2u32.pow(state.failures.min(5));
                state.failures += 1;
                doubled.min(LAST_RETRY)
            }
        };
        let next = now + wait;
        state.next = Some(next);
        self.due.insert((next, Due::Resolve(host.clone())));
        if changed {
            self.begin_leaving(host, &gone);
            self.keep_endpoints();
        }
        if changed || first {
            for pool in self.pools_with(host) {
                self.change_pool(pool, effects);
            }
        }
    }

    /// The pools that have endpoints under this name.
    pub(super) fn pools_with(&self, name: &str) -> Vec<PoolId> {
        self.plan
            .pools
            .iter()
            .filter(|pool| {
                pool.endpoints
                    .iter()
                    .any(|e| matches!(e, EndpointPlan::Dns { host, .. } if **host == *name))
            })
            .map(|pool| pool.id)
            .collect()
    }

    pub(super) fn begin_resolve(&mut self, host: &Arc<str>, effects: &mut Vec<Effect>) {
        let Some(state) = self.names.get_mut(host) else {
            return;
        };
        self.serial += 1;
        state.next = None;
        state.asking = Some(self.serial);
        effects.push(Effect::Resolve {
            host: host.clone(),
            serial: self.serial,
            plan: self.plan.resolver.clone(),
        });
    }
}
