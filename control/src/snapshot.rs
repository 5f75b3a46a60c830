//! The snapshot: everything a request needs to know, immutable, published as one.
//!
//! The engine makes a new one whenever something changes; a request takes the current one when it
//! begins and sees one world to its end. What must outlive a snapshot (counters, sequences of draws,
//! connections' preparations) is shared between them by `Arc`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use portolan_certs::KeySet;
use portolan_config::plan::{
    Class, ClassIndex, ClientClasses, Plan, PoolId, ProofPlan, RequestHead, RouteId, RoutePlan,
    ServiceId, TargetId, TargetKindPlan, TokenKeySource,
};
use smallvec::SmallVec;

use crate::auth::basic::Basic;
use crate::auth::forward_auth::Authority;
use crate::auth::jwt::Gate;
use crate::auth::rate_limit::Limiter;
use crate::clock::Tick;
use crate::counters::{ByRetryReason, PoolStats, RoutePoolStats};
use crate::geo::{Locator, Whereabouts};
use crate::health::outlier::Alike;
use crate::health::retry::Budget;
use crate::overrides::weights::Fitted;
use crate::pool::view::PoolView;
use crate::steering::{Basis, Conditions, Latency, Sequence, Table, evaluate};

/// One picture of the world.
#[derive(Debug)]
pub struct Snapshot {
    /// Which configuration since the process started: 1, 2, 3, …
    pub generation: u64,
    /// When it was made.
    pub made: Tick,
    /// Since when this instance suspects its own network, if it does.
    pub suspicion: Option<Tick>,
    /// The configuration.
    pub plan: Arc<Plan>,
    /// The geo databases.
    pub locator: Arc<Locator>,
    /// The weights that operators gave to members of services, as far as they fit.
    pub weights: Arc<Fitted>,
    /// Every pool, by its id.
    pub pools: Vec<Arc<PoolView>>,
    /// What is counted about every pool, by its id.
    pub pool_stats: Arc<[Arc<PoolStats>]>,
    /// The tables of every target of a route or a service, by target.
    pub tables: Vec<Option<Arc<TargetTables>>>,
    /// What lives on about every route, by its id.
    pub routes: Arc<[Arc<RouteState>]>,
}

/// The tables of one target, one for every class of clients.
#[derive(Debug)]
pub struct TargetTables {
    tables: Vec<ClassTables>,
}

/// The tables of one class.
#[derive(Debug, PartialEq)]
pub struct ClassTables {
    /// By health as it is, or as it was or is said to be where nobody can serve otherwise.
    pub main: Table,
    /// What is tried when nobody can serve.
    pub when_all_down: Option<Table>,
}

impl TargetTables {
    /// Works out the tables of a target, keeping those of `before` that did not change.
    pub(crate) fn new(snapshot: &dyn World, target: TargetId, classes: &ClientClasses) -> Self {
        Self {
            tables: classes
                .classes()
                .iter()
                .map(|class| class_tables(snapshot, target, class))
                .collect(),
        }
    }

    /// The tables of a class.
    pub fn of(&self, class: ClassIndex) -> &ClassTables {
        &self.tables[class.index()]
    }

    /// Every class's tables.
    pub fn iter(&self) -> impl Iterator<Item = &ClassTables> {
        self.tables.iter()
    }

    /// Whether both say the same.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.tables == other.tables
    }
}

/// What tables are made from: a configuration and the pools as they are.
pub(crate) trait World {
    /// The configuration.
    fn plan(&self) -> &Plan;

    /// A pool.
    fn pool(&self, id: PoolId) -> &PoolView;

    /// The weights that operators gave to members of services.
    fn weights(&self) -> &Fitted;

    /// Now.
    fn now(&self) -> Tick;
}

impl World for Snapshot {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn pool(&self, id: PoolId) -> &PoolView {
        &self.pools[id.index()]
    }

    fn weights(&self) -> &Fitted {
        &self.weights
    }

    fn now(&self) -> Tick {
        self.made
    }
}

/// The state of the pools on one basis, some of them left out.
struct On<'a> {
    world: &'a dyn World,
    basis: Basis,
    without: &'a [PoolId],
}

impl Conditions for On<'_> {
    fn availability(&self, pool: PoolId) -> f64 {
        if self.without.contains(&pool) {
            return 0.0;
        }
        let view = self.world.pool(pool);
        match self.basis {
            Basis::Health => view.availability,
            Basis::Probed => view.probed,
            Basis::Held => view.held,
            Basis::HealthyEndpoints => view.partial,
            Basis::EveryEndpoint => f64::from(u8::from(view.could_serve())),
        }
    }

    fn latency(&self, pool: PoolId) -> Latency {
        let view = self.world.pool(pool);
        let now = self.world.now();
        let serving = || view.endpoints.iter().filter(|e| e.serves());
        let mean = |values: Vec<std::time::Duration>| {
            let count = u32::try_from(values.len())
                .ok()
                .filter(|count| *count > 0)?;
            Some(values.iter().sum::<std::time::Duration>() / count)
        };
        Latency {
            probes: mean(serving().filter_map(|e| e.live.probe_latency()).collect()),
            traffic: mean(
                serving()
                    .filter_map(|e| e.live.traffic_latency(now))
                    .collect(),
            ),
        }
    }

    fn free_capacity(&self, pool: PoolId) -> f64 {
        let view = self.world.pool(pool);
        let capacity = f64::from(view.plan.capacity_in_flight.unwrap_or(0));
        capacity - view.in_flight() as f64
    }

    fn pool_name(&self, pool: PoolId) -> &str {
        self.world.pool(pool).plan.name.as_str()
    }

    fn service_name(&self, target: TargetId) -> &str {
        let plan = self.world.plan();
        match &plan.targets.node(target).kind {
            TargetKindPlan::Service(service, _) => plan.services[service.index()].name.as_str(),
            _ => "",
        }
    }

    fn weights(&self, service: ServiceId) -> Option<&[u32]> {
        self.world.weights().of(service)
    }
}

fn class_tables(world: &dyn World, target: TargetId, class: &Class) -> ClassTables {
    class_tables_without(world, target, class, &[])
}

/// The tables of a class as if some pools could not serve.
fn class_tables_without(
    world: &dyn World,
    target: TargetId,
    class: &Class,
    without: &[PoolId],
) -> ClassTables {
    let pools = reachable(world, target, class);
    let views = || {
        pools
            .iter()
            .filter(|pool| !without.contains(pool))
            .map(|pool| world.pool(*pool))
    };
    let on = |basis| table(world, target, class, basis, without);
    let only = |main| ClassTables {
        main,
        when_all_down: None,
    };
    // Held as long as all that these clients can reach fell together: what is left, or never was
    // probed, serves.
    let all_fell =
        views().any(|view| view.fell) && !views().any(|view| !view.fell && view.availability > 0.0);
    if all_fell {
        let held = on(Basis::Held);
        if !held.entries().is_empty() {
            return only(held);
        }
    }
    let main = on(Basis::Health);
    if views().any(|view| view.availability > 0.0) {
        return only(main);
    }
    // Nobody serves well, but probes say that somebody serves.
    let probed = on(Basis::Probed);
    if !probed.entries().is_empty() {
        return only(probed);
    }
    ClassTables {
        main,
        when_all_down: [Basis::HealthyEndpoints, Basis::EveryEndpoint]
            .into_iter()
            .map(on)
            .find(|table| !table.entries().is_empty()),
    }
}

fn table(
    world: &dyn World,
    target: TargetId,
    class: &Class,
    basis: Basis,
    without: &[PoolId],
) -> Table {
    let conditions = On {
        world,
        basis,
        without,
    };
    Table::new(&world.plan().targets, target, class, &conditions, basis)
}

/// The pools that clients of a class can reach through a target. Members without weight lead
/// nowhere.
fn reachable(world: &dyn World, target: TargetId, class: &Class) -> Vec<PoolId> {
    let plan = world.plan();
    let mut pools = Vec::new();
    // Hedged each target the weights of the split that it is, or begins with.
    let mut open: Vec<(TargetId, Option<&[u32]>)> = vec![(target, None)];
    while let Some((id, weights)) = open.pop() {
        match &plan.targets.node(id).kind {
            TargetKindPlan::Pool(pool) => pools.push(*pool),
            TargetKindPlan::Service(service, to) => open.push((*to, world.weights().of(*service))),
            TargetKindPlan::Split(members) => {
                let weight = |at: usize| match weights {
                    Some(weights) => weights.get(at).copied().unwrap_or(0),
                    None => members[at].weight,
                };
                let to = members.iter().enumerate();
                let to = to.filter(|(at, _)| weight(*at) > 0);
                open.extend(to.map(|(_, member)| (member.to, None)));
            }
            TargetKindPlan::Tiers(members) => {
                let to = members.iter().enumerate();
                open.extend(to.map(|(at, to)| (*to, weights.filter(|_| at == 0))));
            }
            TargetKindPlan::Geo(rules) => open.push((rules[class.rule(id)].to, None)),
            kind => open.extend(kind.children().into_iter().map(|to| (to, None))),
        }
    }
    pools
}

/// The tables that hold for one client: prepared ones, or made for it alone.
#[derive(Debug)]
pub enum TablesFor<'a> {
    /// Those of its class.
    Prepared(&'a ClassTables, usize),
    /// A client whose coordinates give an order that was not foreseen.
    Own(Box<ClassTables>, usize),
}

impl TablesFor<'_> {
    /// The tables.
    pub fn tables(&self) -> &ClassTables {
        match self {
            Self::Prepared(tables, _) => tables,
            Self::Own(tables, _) => tables,
        }
    }

    /// Which outcome of the target's `geo` rules these clients have: which sequence they draw from.
    pub fn rule(&self) -> usize {
        match self {
            Self::Prepared(_, rule) | Self::Own(_, rule) => *rule,
        }
    }
}

impl Snapshot {
    /// These pools under this configuration, before anything else is known.
    pub(crate) fn new(
        plan: Arc<Plan>,
        locator: Arc<Locator>,
        pools: Vec<Arc<PoolView>>,
        made: Tick,
    ) -> Self {
        Self {
            generation: 0,
            made,
            suspicion: None,
            weights: Arc::default(),
            plan,
            locator,
            pools,
            pool_stats: Arc::default(),
            tables: Vec::new(),
            routes: Arc::default(),
        }
    }

    /// The route of a request.
    pub fn route(&self, head: &RequestHead<'_>) -> Option<&RoutePlan> {
        let id = self.plan.route_table.find(head)?;
        Some(&self.plan.routes[id.index()])
    }

    /// Where a client is, as far as a route needs to know.
    pub fn locate(&self, route: &RoutePlan, client: IpAddr) -> Whereabouts {
        let needs = route.needs;
        if !needs.place && !needs.system {
            return Whereabouts::UNKNOWN;
        }
        self.locator.locate(client, needs, &self.plan.locations)
    }

    /// The tables of a target for a client.
    pub fn tables_for(
        &self,
        target: TargetId,
        client: Option<IpAddr>,
        found: &Whereabouts,
    ) -> TablesFor<'_> {
        let classes = self.plan.classes(target);
        let prepared = self.tables[target.index()]
            .as_ref()
            .expect("every target of a route or a service has tables");
        let index = match found.coordinates {
            None => Some(classes.class_of(found.place, client, found.system)),
            Some(at) => {
                let graph = &self.plan.targets;
                classes.class_at(found.place, at, client, found.system, graph)
            }
        };
        match (index, found.coordinates) {
            (Some(index), _) => TablesFor::Prepared(prepared.of(index), classes.rule_of(index)),
            (None, Some(at)) => {
                let graph = &self.plan.targets;
                let (class, rule) =
                    classes.exact_class(found.place, at, client, found.system, graph);
                TablesFor::Own(Box::new(class_tables(self, target, &class)), rule)
            }
            (None, None) => unreachable!("only coordinates give unforeseen orders"),
        }
    }

    /// The tables of a target for a client as if some pools could not serve: for the next try of a
    /// request that they failed.
    pub fn tables_without(
        &self,
        target: TargetId,
        client: Option<IpAddr>,
        found: &Whereabouts,
        without: &[PoolId],
    ) -> ClassTables {
        let classes = self.plan.classes(target);
        let class = match found.coordinates {
            None => {
                let index = classes.class_of(found.place, client, found.system);
                classes.classes()[index.index()].clone()
            }
            Some(at) => {
                let graph = &self.plan.targets;
                classes
                    .exact_class(found.place, at, client, found.system, graph)
                    .0
            }
        };
        class_tables_without(self, target, &class, without)
    }

    /// Whether every pool is judged.
    pub fn judged(&self) -> bool {
        self.pools.iter().all(|pool| pool.judged)
    }

    /// What a service's shares would be if every pool were healthy, for clients of a class.
    pub fn asked_shares(&self, target: TargetId, class: &Class) -> Vec<(PoolId, f64)> {
        let conditions = On {
            world: self,
            basis: Basis::EveryEndpoint,
            without: &[],
        };
        let load = evaluate(&self.plan.targets, target, class, &conditions, false);
        let table = Table::of(load, Basis::EveryEndpoint);
        table
            .entries()
            .iter()
            .map(|entry| (entry.pool, entry.share))
            .collect()
    }
}

/// What is counted about a route and a pool: made when first needed, because most routes of a large
/// configuration never see most of their pools.
type Counted = Arc<OnceLock<Box<RoutePoolStats>>>;

/// What is counted for the pools of a route, ascending: most routes have one.
type Slots = SmallVec<[(PoolId, Arc<str>, Counted); 1]>;

/// What is counted for the pools of a target, and for those that were among them before.
fn counted_by(
    plan: &Plan,
    target: TargetId,
    before: Option<&RouteState>,
) -> (Slots, Vec<(Arc<str>, Counted)>) {
    let pools = plan.targets.node(target).pools.iter();
    let pools = pools.map(|pool| (*pool, plan.pools[pool.index()].name.shared()));
    let Some(before) = before else {
        let slots = pools.map(|(pool, name)| (pool, name, Counted::default()));
        return (slots.collect(), Vec::new());
    };
    let names_before = before.slots.iter().map(|(_, name, _)| name);
    if pools
        .clone()
        .map(|(_, name)| name)
        .eq(names_before.cloned())
    {
        let slots = pools.zip(&before.slots);
        let slots = slots.map(|((pool, name), (.., counted))| (pool, name, counted.clone()));
        return (slots.collect(), before.earlier.clone());
    }
    let led_to = before.slots.iter();
    let led_to = led_to.map(|(_, name, counted)| (name.clone(), counted.clone()));
    let mut kept: HashMap<Arc<str>, Counted> =
        before.earlier.iter().cloned().chain(led_to).collect();
    let slots = pools
        .map(|(pool, name)| {
            let counted = kept.remove(&name).unwrap_or_default();
            (pool, name, counted)
        })
        .collect();
    (slots, kept.into_iter().collect())
}

/// What lives on about a route while its name stays.
#[derive(Debug)]
pub struct RouteState {
    /// Its name.
    pub name: Arc<str>,
    /// One sequence of draws for every outcome of its target's `geo` rules.
    sequences: SmallVec<[Arc<Sequence>; 1]>,
    /// What is counted by pools that the route led to before, by their names.
    earlier: Vec<(Arc<str>, Counted)>,
    /// What is counted, by pool, ascending.
    slots: Slots,
    /// What is counted without a pool.
    none: Counted,
    /// Tries that were not the first of their request.
    pub retries: Arc<ByRetryReason>,
    /// How many more of them there may be.
    pub budget: Arc<Budget>,
    /// Whose requests fail alike wherever they are sent.
    pub alike: Arc<Alike>,
    /// Its rate limits, in the order written, with the buckets of their clients.
    pub limits: Vec<Arc<Limiter>>,
    /// Who may use it, by what they can prove.
    pub proof: Option<Proof>,
}

/// How somebody proves who they are, with what is known for it.
#[derive(Debug)]
pub enum Proof {
    /// Users, and which of them have proved themselves.
    Basic(Arc<Basic>),
    /// Keys of tokens.
    Jwt(Arc<Gate>),
    /// A service that says.
    Forward(Arc<Authority>),
}

impl Proof {
    /// What a route asks for. What was known `before` goes on. Nothing if the system has no
    /// randomness.
    fn new(plan: &ProofPlan, before: Option<&Self>, keys: &KeySets) -> Option<Self> {
        match plan {
            ProofPlan::Basic(plan) => match before {
                Some(Self::Basic(old)) if old.plan == *plan => Some(Self::Basic(old.clone())),
                _ => Some(Self::Basic(Arc::new(Basic::new(plan.clone())?))),
            },
            ProofPlan::Jwt(plan) => {
                let source = &plan.keys.source;
                let set = keys.get(source).cloned();
                let set = set.unwrap_or_else(|| Arc::new(KeySet::new(source.clone())));
                Some(Self::Jwt(Arc::new(Gate::new(plan.clone(), set))))
            }
            ProofPlan::Forward(plan) => {
                let before = match before {
                    Some(Self::Forward(old)) => Some(&**old),
                    _ => None,
                };
                let authority = Authority::new(plan.clone(), before);
                Some(Self::Forward(Arc::new(authority)))
            }
        }
    }
}

/// Keys of tokens, by where they come from.
pub(crate) type KeySets = HashMap<TokenKeySource, Arc<KeySet>>;

impl RouteState {
    /// The state of a route in a new plan. What `before` counted and drew goes on.
    pub(crate) fn new(plan: &Plan, id: RouteId, keys: &KeySets, before: Option<&Self>) -> Self {
        let route = &plan.routes[id.index()];
        let mut sequences = before.map(|b| b.sequences.clone()).unwrap_or_default();
        sequences.resize_with(
            plan.classes(route.target).rules().max(sequences.len()),
            Arc::default,
        );
        let (slots, earlier) = counted_by(plan, route.target, before);
        Self {
            name: route.name.clone(),
            none: before.map(|b| b.none.clone()).unwrap_or_default(),
            retries: before.map(|b| b.retries.clone()).unwrap_or_default(),
            budget: before.map(|b| b.budget.clone()).unwrap_or_default(),
            alike: before.map(|b| b.alike.clone()).unwrap_or_default(),
            proof: route.auth.as_ref().and_then(|auth| {
                let old = before.and_then(|b| b.proof.as_ref());
                Proof::new(&auth.proof, old, keys)
            }),
            limits: route
                .rate_limits
                .iter()
                .map(|wanted| {
                    let old = before.and_then(|b| b.limits.iter().find(|l| l.keeps(wanted)));
                    old.cloned()
                        .unwrap_or_else(|| Arc::new(Limiter::new(wanted.clone())))
                })
                .collect(),
            sequences,
            earlier,
            slots,
        }
    }

    /// The sequence that an outcome of the `geo` rules draws from.
    pub fn sequence(&self, rule: usize) -> &Sequence {
        &self.sequences[rule]
    }

    /// What is counted about the requests that a pool served, or that none did.
    pub fn stats(&self, pool: Option<PoolId>) -> &RoutePoolStats {
        let slot = pool.and_then(|pool| {
            let slots = &self.slots;
            let at = slots.binary_search_by_key(&pool, |(id, ..)| *id).ok()?;
            Some(&slots[at].2)
        });
        slot.unwrap_or(&self.none).get_or_init(Box::default)
    }

    /// The pools that it leads to, whoever its client is.
    pub fn pools(&self) -> impl Iterator<Item = PoolId> {
        self.slots.iter().map(|(pool, ..)| *pool)
    }

    /// Everything that was counted so far, by pool name; the empty name is "no pool".
    pub fn counted(&self) -> impl Iterator<Item = (&str, &RoutePoolStats)> {
        let slots = self.slots.iter();
        let slots = slots.map(|(_, name, counted)| (&**name, counted));
        let earlier = self.earlier.iter();
        let earlier = earlier.map(|(name, counted)| (&**name, counted));
        slots
            .chain(earlier)
            .chain([("", &self.none)])
            .filter_map(|(name, counted)| Some((name, &**counted.get()?)))
    }
}
