//! A new configuration: what has the same name is kept with all that is known of it, and what is gone is
//! forgotten.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_certs::Material;
use portolan_config::names::Name;
use portolan_config::plan::{EndpointPlan, Plan, PoolPlan, TargetId};

use super::{
    Core, Due, Effect, EndpointState, Measured, NameState, OFF, Placed, refresh_interval, spread,
};
use crate::events::event::Event;
use crate::geo::Locator;
use crate::health::outlier::{Record, Tally};
use crate::health::verdict::{Health, ProbeEvent as HealthEvent};
use crate::overrides::weights::{Fitted, Misfit};
use crate::pool::dial::{Dial, Preparation};
use crate::pool::endpoint::{Endpoint, EndpointKey};
use crate::snapshot::RouteState;

impl Core {
    pub(super) fn accept(
        &mut self,
        plan: Arc<Plan>,
        material: Arc<Material>,
        locator: Arc<Locator>,
        effects: &mut Vec<Effect>,
    ) {
        self.plan = plan;
        self.material = material;
        self.locator = locator;
        self.generation += 1;
        self.dirty = true;
        self.pools = self
            .plan
            .pools
            .iter()
            .map(|pool| (pool.name.clone(), pool.id))
            .collect();
        self.keep_names();
        self.keep_passive();
        self.keep_endpoints();
        self.keep_pools_and_routes();
        self.fit_weights(effects);
        self.index_targets();
    }

    /// Fits the weights that operators gave to services to the running configuration, and says
    /// which fit no longer, or again.
    pub(super) fn fit_weights(&mut self, effects: &mut Vec<Effect>) {
        let fitted = Fitted::new(&self.plan, &self.weights);
        let before = std::mem::replace(&mut self.fitted, Arc::new(fitted));
        let told = |misfits: &BTreeMap<Name, Misfit>, (name, misfit): (&Name, &Misfit)| {
            misfits.get(name) == Some(misfit)
        };
        let misfits = self.fitted.misfits();
        for (service, misfit) in misfits.iter().filter(|it| !told(before.misfits(), *it)) {
            effects.push(Effect::Emit(Event::WeightsIdle {
                service: service.clone(),
                misfit: misfit.clone(),
            }));
        }
        for service in before.misfits().keys() {
            if !misfits.contains_key(service) && self.weights.of(service).is_some() {
                effects.push(Effect::Emit(Event::WeightsFit {
                    service: service.clone(),
                }));
            }
        }
    }

    /// Begins with new names, forgets those that nobody mentions any more.
    pub(super) fn keep_names(&mut self) {
        let wanted: HashSet<Arc<str>> = self
            .plan
            .pools
            .iter()
            .flat_map(|pool| &pool.endpoints)
            .filter_map(|endpoint| match endpoint {
                EndpointPlan::Dns { host, .. } => Some(host.clone()),
                EndpointPlan::Address { .. } => None,
            })
            .collect();
        self.names.retain(|host, _| wanted.contains(host));
        self.due.retain(|(_, due)| match due {
            Due::Resolve(host) => wanted.contains(host),
            _ => true,
        });
        for host in wanted {
            if !self.names.contains_key(&host) {
                // What another process was answered is good enough until we are.
                let handed = self.handed.names.remove(&host);
                let state = NameState {
                    answered: handed.is_some(),
                    addresses: handed.unwrap_or_default(),
                    next: Some(self.now),
                    ..NameState::default()
                };
                self.due.insert((self.now, Due::Resolve(host.clone())));
                self.names.insert(host, state);
            }
        }
    }

    /// Begins with new endpoints, forgets those that are gone, and keeps everything known about the
    /// others. Called for every configuration and every change of a name's addresses.
    pub(super) fn keep_endpoints(&mut self) {
        let plan = self.plan.clone();
        self.forget_leaving();
        let known = self.endpoints.len();
        let mut wanted = HashSet::with_capacity(known.max(plan.pools.len()));
        let serving = self.serving();
        for pool in &plan.pools {
            let serves = serving.contains(&pool.name);
            for placed in self.placed(pool) {
                let key = EndpointKey {
                    pool: pool.name.clone(),
                    address: placed.address,
                };
                if wanted.insert(key.clone()) {
                    self.keep_endpoint(pool, key, placed.name.as_ref(), serves);
                }
            }
        }
        let endpoints = &mut self.endpoints;
        endpoints.retain(|key, _| wanted.contains(key));
        self.due.retain(|(_, due)| match due {
            Due::Probe(key) => wanted.contains(key),
            _ => true,
        });
    }

    pub(super) fn keep_endpoint(
        &mut self,
        pool: &Arc<PoolPlan>,
        key: EndpointKey,
        name: Option<&Arc<str>>,
        serving: bool,
    ) {
        let dial = Dial::when_needed(Preparation {
            dialer: self.dialer.clone(),
            pool: pool.clone(),
            identity: self.material.pools.get(&pool.id).cloned(),
            address: key.address,
            name: name.cloned(),
        });
        let now = self.now;
        let alarm = self.passive.alarm.clone();
        let handed = self.handed.endpoints.remove(&key);
        let state = self.endpoints.entry(key.clone()).or_insert_with(|| {
            Box::new(EndpointState {
                live: Arc::new(Endpoint::watched(key.clone(), alarm)),
                dial: dial.clone(),
                health: Health::unknown(now),
                record: Record::default(),
                counted: Tally::default(),
                silent: None,
                came_back: None,
                added_later: serving,
                probed: None,
                next: None,
                probing: None,
            })
        });
        if let Some(known) = handed {
            state.go_on(known, pool);
        }
        state.dial = dial;
        state.keep_watch(pool, now);
        let next = match &pool.probe {
            None => {
                let health = std::mem::replace(&mut state.health, Health::unknown(now));
                state.health = health.step(&OFF, HealthEvent::ProbesSwitchedOff, now);
                None
            }
            // The next probe goes out when the new pace says, seen from the last one: a change of
            // the pace neither skips a probe nor sends all of them at once.
            Some(probe) if state.probing.is_none() => Some(match state.probed {
                None => now,
                Some(probed) => {
                    let pace = state
                        .health
                        .pace(&probe.into(), spread(&state.live, probed));
                    (probed + pace).max(now)
                }
            }),
            Some(_) => None,
        };
        if let Some(before) = std::mem::replace(&mut state.next, next) {
            self.due.remove(&(before, Due::Probe(key.clone())));
        }
        if let Some(next) = next {
            self.due.insert((next, Due::Probe(key)));
        }
    }

    /// The addresses of a pool, in the order written; of two entries for one address the first.
    pub(super) fn placed(&self, pool: &PoolPlan) -> Vec<Placed> {
        let mut seen = HashSet::new();
        let mut placed: Vec<Placed> = Vec::with_capacity(pool.endpoints.len());
        // Most pools are small.
        let mut is_new = |placed: &[Placed], address: SocketAddr| {
            if placed.len() < 16 {
                return placed.iter().all(|it| it.address != address);
            }
            if seen.is_empty() {
                seen.extend(placed.iter().map(|it| it.address));
            }
            seen.insert(address)
        };
        for endpoint in &pool.endpoints {
            match endpoint {
                EndpointPlan::Address {
                    address,
                    weight,
                    backup,
                } => {
                    if is_new(&placed, *address) {
                        placed.push(Placed {
                            address: *address,
                            weight: *weight,
                            backup: *backup,
                            name: None,
                            leaving: false,
                        });
                    }
                }
                EndpointPlan::Dns {
                    host,
                    port,
                    weight,
                    backup,
                } => {
                    let found = self.names.get(host).map_or(&[][..], |name| &name.addresses);
                    for address in found {
                        let address = SocketAddr::new(*address, *port);
                        if is_new(&placed, address) {
                            placed.push(Placed {
                                address,
                                weight: *weight,
                                backup: *backup,
                                name: Some(host.clone()),
                                leaving: false,
                            });
                        }
                    }
                }
            }
        }
        for (key, leaving) in self.leaving_of(&pool.name) {
            let entry = pool.endpoints.iter().find_map(|endpoint| match endpoint {
                EndpointPlan::Dns {
                    host,
                    port,
                    weight,
                    backup,
                } if *host == leaving.host && *port == key.address.port() => {
                    Some((*weight, *backup))
                }
                _ => None,
            });
            if let Some((weight, backup)) = entry
                && is_new(&placed, key.address)
            {
                placed.push(Placed {
                    address: key.address,
                    weight,
                    backup,
                    name: Some(leaving.host.clone()),
                    leaving: true,
                });
            }
        }
        placed
    }

    pub(super) fn keep_pools_and_routes(&mut self) {
        let plan = self.plan.clone();
        let pools: HashSet<&Name> = plan.pools.iter().map(|pool| &pool.name).collect();
        self.turns.retain(|name, _| pools.contains(name));
        self.passive
            .came_back
            .retain(|name, _| pools.contains(name));
        self.pool_stats.retain(|name, _| pools.contains(name));
        for pool in &plan.pools {
            self.turns.entry(pool.name.clone()).or_default();
            self.pool_stats.entry(pool.name.clone()).or_default();
        }
        let stats = plan.pools.iter();
        self.stats_of_pools = stats
            .map(|pool| self.pool_stats[&pool.name].clone())
            .collect();
        // Views of other pools stood at these indices: all are made anew.
        self.views.clear();
        for pool in &plan.pools {
            self.let_go(pool);
            let view = self.view(pool);
            self.views.push(Arc::new(view));
        }
        self.dirty_targets.clear();

        let before = std::mem::take(&mut self.routes);
        let keys = &self.material.token_keys;
        self.route_states = plan
            .routes
            .iter()
            .map(|route| {
                let old = before.get(&route.name).map(AsRef::as_ref);
                Arc::new(RouteState::new(&plan, route.id, keys, old))
            })
            .collect();
        self.routes = self
            .route_states
            .iter()
            .map(|state| (state.name.clone(), state.clone()))
            .collect();
    }

    /// Works out the tables of every target, and what each depends on.
    pub(super) fn index_targets(&mut self) {
        let plan = self.plan.clone();
        self.tables = vec![None; plan.targets.len()];
        self.targets_of_pool = vec![Vec::new(); plan.pools.len()];
        let mut measured = Measured::default();
        for (at, classes) in plan.classes.iter().enumerate() {
            if classes.is_none() {
                continue;
            }
            let target = TargetId::new(at);
            for pool in &plan.targets.node(target).pools {
                self.targets_of_pool[pool.index()].push(target);
            }
            if plan.targets.node(target).measured {
                measured.targets.push(target);
                let every = refresh_interval(&plan, target);
                measured.every = Some(measured.every.map_or(every, |other| other.min(every)));
            }
            self.work_out(target);
        }
        self.measured = measured;
        self.due.retain(|(_, due)| *due != Due::Measure);
        if let Some(every) = self.measured.every {
            self.due.insert((self.now + every, Due::Measure));
        }
    }
}
