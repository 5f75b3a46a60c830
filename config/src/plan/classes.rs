//! Client classes: the ways in which one target can look, depending on who asks.
//!
//! A target's distribution depends on the client only through its `geo` rules and the order of its
//! `nearest` members. Those depend on nothing that changes at run time, so the compiler enumerates
//! them: a client's class is found with a few array look-ups, and every class has one table that
//! is recomputed when health changes, not when a request comes.
//!
//! Four properties of a client matter: the rules its place satisfies, the order its place gives,
//! the networks its address is in, and its autonomous system. Places, networks and systems that no
//! rule tells apart fall into one group, so there are few combinations, and fewer classes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::id::TargetId;
use super::location::{BitSet, ClientSet, LocationId, LocationTable};
use super::target::{TargetGraph, TargetKindPlan};
use crate::geography::{Coordinates, Geography};

/// Members nearer to each other than this count as equally near.
const SAME_DISTANCE_KM: f64 = 100.0;

/// The most combinations one target may distinguish.
const MOST_COMBINATIONS: usize = 65_536;

/// A class, as an index into [`ClientClasses::classes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassIndex(u16);

impl ClassIndex {
    /// As an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What decides for one class: the rule taken at every `geo`, the order taken at every `nearest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// The rule's index at every `geo` that such clients reach, by target.
    rules: Vec<(TargetId, u16)>,
    /// The members' order at every `nearest` that such clients reach, by target.
    orders: Vec<(TargetId, Vec<u16>)>,
}

impl Class {
    /// The rule these clients take at a `geo`.
    pub fn rule(&self, geo: TargetId) -> usize {
        self.rules
            .binary_search_by_key(&geo, |(id, _)| *id)
            .map_or(0, |at| usize::from(self.rules[at].1))
    }

    /// The order in which these clients see the members of a `nearest`: the order written, if
    /// nothing else is known.
    pub fn order(&self, nearest: TargetId) -> Option<&[u16]> {
        let at = self
            .orders
            .binary_search_by_key(&nearest, |(id, _)| *id)
            .ok()?;
        Some(&self.orders[at].1)
    }
}

/// A target would need too many classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{combinations} combinations of places, networks and systems; at most {MOST_COMBINATIONS} can be prepared for"
)]
pub struct TooManyClasses {
    /// How many combinations there would be.
    pub combinations: usize,
}

/// Every class of one target, and how to find a client's.
#[derive(Clone, Debug)]
pub struct ClientClasses {
    classes: Vec<Class>,
    /// Of every class, which outcome of the `geo` rules alone it has: classes that differ only in
    /// the order of `nearest` share one.
    rule_of_class: Vec<u16>,
    rules: usize,
    /// Groups of places by the rules that take them; nothing when there are no rules.
    by_rules: Arc<Places<bool>>,
    /// Groups of places by the joint order of every `nearest`; nothing when nothing depends on
    /// distance.
    by_order: Arc<Places<u16>>,
    nearest: Vec<TargetId>,
    networks: Option<Box<Networks>>,
    systems: HashMap<u32, u16>,
    /// Group of places × group of orders × group of networks × group of systems → class.
    table: Vec<ClassIndex>,
    strides: [usize; 3],
}

/// Places in groups. Targets of the same shape share one.
#[derive(Debug, Default)]
struct Places<T> {
    /// Place → group; empty when all are alike.
    groups: Vec<u16>,
    /// What each group has in common. One at least.
    signatures: Vec<Vec<T>>,
    /// The same, the other way round.
    by_signature: HashMap<Vec<T>, u16>,
}

impl<T: Clone + Eq + Hash> Places<T> {
    /// All places are alike.
    fn alike() -> Self {
        Self::new(Vec::new(), vec![Vec::new()])
    }

    fn new(groups: Vec<u16>, signatures: Vec<Vec<T>>) -> Self {
        let by_signature = signatures.iter().cloned().zip(0..).collect();
        Self {
            groups,
            signatures,
            by_signature,
        }
    }

    fn group(&self, place: LocationId) -> u16 {
        self.groups.get(place.index()).copied().unwrap_or(0)
    }
}

/// The places of the pools of every member of every `nearest` of a target, as far as distances
/// depend on them.
type NearestShape = Vec<Vec<Vec<[u64; 2]>>>;

/// Works classes out, and remembers what targets have in common: most of those of a large
/// configuration tell the same places apart.
#[derive(Debug)]
pub(crate) struct ClassMaker<'a> {
    graph: &'a TargetGraph,
    locations: &'a LocationTable,
    /// Every place, and every cloud region.
    viewpoints: Vec<Option<Coordinates>>,
    by_rules: HashMap<Vec<&'a BitSet>, Arc<Places<bool>>>,
    by_order: HashMap<NearestShape, Arc<Places<u16>>>,
    /// From a pool's place to every viewpoint.
    distances: HashMap<[u64; 2], Vec<f64>>,
    /// The one class of every target that looks the same to everybody.
    everybody: Option<Arc<ClientClasses>>,
}

/// Address → group of networks. Group 0 is in none.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    v4: PrefixMap<Ipv4Net, u16>,
    v6: PrefixMap<Ipv6Net, u16>,
}

impl Networks {
    pub(super) fn new(groups: impl Iterator<Item = (IpNet, u16)>) -> Self {
        let mut networks = Self::default();
        for (net, group) in groups {
            match net {
                IpNet::V4(net) => networks.v4.insert(net, group),
                IpNet::V6(net) => networks.v6.insert(net, group),
            };
        }
        networks
    }

    /// The group of the longest network that contains this one.
    fn group_of_net(&self, net: IpNet) -> u16 {
        match net {
            IpNet::V4(net) => self.v4.get_lpm(&net).map(|(_, group)| *group),
            IpNet::V6(net) => self.v6.get_lpm(&net).map(|(_, group)| *group),
        }
        .unwrap_or(0)
    }

    pub(super) fn group(&self, address: IpAddr) -> u16 {
        self.group_of_net(address.to_canonical().into())
    }
}

impl<'a> ClassMaker<'a> {
    pub(crate) fn new(graph: &'a TargetGraph, locations: &'a LocationTable) -> Self {
        let places = locations.ids().map(|place| locations.centre(place));
        let regions = Geography::get()
            .regions(None)
            .map(|region| Some(region.place));
        Self {
            graph,
            locations,
            viewpoints: places.chain(regions).collect(),
            by_rules: HashMap::new(),
            by_order: HashMap::new(),
            distances: HashMap::new(),
            everybody: None,
        }
    }

    /// Places by the sets they are in.
    fn by_rules(&mut self, sets: &[&'a ClientSet]) -> Arc<Places<bool>> {
        let key: Vec<&BitSet> = sets.iter().map(|set| &set.locations).collect();
        let locations = self.locations;
        let made = self.by_rules.entry(key).or_insert_with_key(|sets| {
            // Most targets have no rules at all: they need no tables by place.
            if sets.is_empty() {
                return Arc::new(Places::alike());
            }
            let (groups, signatures) = group(locations.ids().map(|place| {
                let inside = sets.iter().map(|set| set.contains(place.index()));
                inside.collect::<Vec<bool>>()
            }));
            Arc::new(Places::new(groups, signatures))
        });
        made.clone()
    }

    /// Places by the joint order they give. Every joint order is prepared for: those of every
    /// country's centre, and of every cloud region, because people and clouds crowd in the same
    /// places.
    fn by_order(&mut self, nearest: &[TargetId]) -> Arc<Places<u16>> {
        let graph = self.graph;
        let shape: NearestShape = nearest
            .iter()
            .map(|id| {
                let members = graph.node(*id).kind.children();
                let places = members.iter().map(|member| &graph.node(*member).places);
                places
                    .map(|places| places.iter().map(|place| place.bits()).collect())
                    .collect()
            })
            .collect();
        if let Some(made) = self.by_order.get(&shape) {
            return made.clone();
        }
        let made = if nearest.is_empty() {
            Places::alike()
        } else {
            let viewpoints = &self.viewpoints;
            for place in nearest.iter().flat_map(|id| &graph.node(*id).places) {
                self.distances.entry(place.bits()).or_insert_with(|| {
                    let all = viewpoints.iter();
                    all.map(|from| from.map_or(f64::INFINITY, |from| place.distance_km(from)))
                        .collect()
                });
            }
            let distances = &self.distances;
            let of_place: Vec<Vec<Vec<&[f64]>>> = shape
                .iter()
                .map(|members| {
                    let member = |places: &Vec<[u64; 2]>| {
                        let known = places.iter().filter_map(|place| distances.get(place));
                        known.map(Vec::as_slice).collect()
                    };
                    members.iter().map(member).collect()
                })
                .collect();
            let (mut groups, orders) = group(viewpoints.iter().enumerate().map(|(at, from)| {
                let orders = of_place.iter().flat_map(|members| {
                    let distance = members.iter().map(|places| {
                        let each = places.iter().map(|distances| distances[at]);
                        each.fold(f64::INFINITY, f64::min)
                    });
                    match from {
                        Some(_) => by_distance(&distance.collect::<Vec<f64>>()),
                        None => (0..members.len() as u16).collect(),
                    }
                });
                orders.collect::<Vec<u16>>()
            }));
            groups.truncate(self.locations.len());
            Places::new(groups, orders)
        };
        let made = Arc::new(made);
        self.by_order.insert(shape, made.clone());
        made
    }

    /// Every class of a target.
    ///
    /// # Errors
    /// When there would be too many.
    pub(crate) fn classes_of(
        &mut self,
        target: TargetId,
    ) -> Result<Arc<ClientClasses>, TooManyClasses> {
        let graph = self.graph;
        let reachable = graph.reachable(target);
        let tells_apart = |id: &TargetId| {
            let kind = &graph.node(*id).kind;
            matches!(kind, TargetKindPlan::Geo(_) | TargetKindPlan::Nearest(_))
        };
        if reachable.iter().any(tells_apart) {
            return self.by_property(target, &reachable).map(Arc::new);
        }
        if let Some(known) = &self.everybody {
            return Ok(known.clone());
        }
        let everybody = Arc::new(self.by_property(target, &reachable)?);
        Ok(self.everybody.insert(everybody).clone())
    }

    fn by_property(
        &mut self,
        target: TargetId,
        reachable: &[TargetId],
    ) -> Result<ClientClasses, TooManyClasses> {
        let graph = self.graph;
        let sets: Vec<&'a ClientSet> = reachable
            .iter()
            .filter_map(|id| match &graph.node(*id).kind {
                TargetKindPlan::Geo(rules) => Some(rules),
                _ => None,
            })
            .flatten()
            .filter_map(|rule| rule.clients.as_ref())
            .collect();
        let nearest: Vec<TargetId> = reachable
            .iter()
            .copied()
            .filter(|id| matches!(graph.node(*id).kind, TargetKindPlan::Nearest(_)))
            .collect();

        let by_rules = self.by_rules(&sets);
        let by_order = self.by_order(&nearest);
        let (networks, network_signatures) = network_groups(&sets);
        let (systems, system_signatures) = system_groups(&sets);

        let sizes = [
            by_rules.signatures.len(),
            by_order.signatures.len(),
            network_signatures.len(),
            system_signatures.len(),
        ];
        let combinations = sizes.iter().product();
        if combinations > MOST_COMBINATIONS {
            return Err(TooManyClasses { combinations });
        }

        let mut walk = Walk {
            graph,
            sets: &sets,
            nearest: &nearest,
            inside: vec![false; sets.len()],
            order: &[],
        };
        let mut ids: BTreeMap<Class, ClassIndex> = BTreeMap::new();
        let mut classes = Vec::new();
        let mut table = Vec::with_capacity(combinations);
        for places in &by_rules.signatures {
            for order in &by_order.signatures {
                walk.order = order;
                for in_networks in &network_signatures {
                    for in_systems in &system_signatures {
                        for (at, inside) in walk.inside.iter_mut().enumerate() {
                            *inside = places[at] || in_networks[at] || in_systems[at];
                        }
                        let class = walk.class(target);
                        table.push(*ids.entry(class).or_insert_with_key(|class| {
                            classes.push(class.clone());
                            ClassIndex((classes.len() - 1) as u16)
                        }));
                    }
                }
            }
        }
        let (rule_of_class, rules) = group(classes.iter().map(|class| class.rules.clone()));
        Ok(ClientClasses {
            classes,
            rule_of_class,
            rules: rules.len(),
            by_rules,
            by_order,
            nearest,
            networks,
            systems,
            table,
            strides: [
                sizes[1] * sizes[2] * sizes[3],
                sizes[2] * sizes[3],
                sizes[3],
            ],
        })
    }
}

impl ClientClasses {
    /// Every class of a target.
    ///
    /// # Errors
    /// When there would be too many.
    pub fn of(
        target: TargetId,
        graph: &TargetGraph,
        locations: &LocationTable,
    ) -> Result<Arc<Self>, TooManyClasses> {
        ClassMaker::new(graph, locations).classes_of(target)
    }

    /// The indices of every class.
    pub fn indices(&self) -> impl Iterator<Item = ClassIndex> + use<> {
        (0..self.classes.len()).map(|at| ClassIndex(at as u16))
    }

    /// Every class.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// How many outcomes the `geo` rules have, whatever the order of `nearest`.
    pub fn rules(&self) -> usize {
        self.rules
    }

    /// Which outcome of the `geo` rules a class has, from 0 to [`Self::rules`].
    pub fn rule_of(&self, class: ClassIndex) -> usize {
        usize::from(self.rule_of_class[class.index()])
    }

    /// The class of clients at this place, with this address and system, where the rules ask for
    /// them.
    pub fn class_of(
        &self,
        place: LocationId,
        address: Option<IpAddr>,
        system: Option<u32>,
    ) -> ClassIndex {
        self.lookup(place, self.by_order.group(place), address, system)
    }

    /// The same for a client whose coordinates are known: they, not its country's centre, decide
    /// what is near. `None` when they give an order that was not foreseen; [`Self::exact_class`]
    /// then says what it is.
    pub fn class_at(
        &self,
        place: LocationId,
        coordinates: Coordinates,
        address: Option<IpAddr>,
        system: Option<u32>,
        graph: &TargetGraph,
    ) -> Option<ClassIndex> {
        if self.nearest.is_empty() {
            return Some(self.class_of(place, address, system));
        }
        let order = joint_order(&self.nearest, graph, Some(coordinates));
        let group = *self.by_order.by_signature.get(&order)?;
        Some(self.lookup(place, group, address, system))
    }

    /// The class of a client at these coordinates, worked out from the beginning.
    pub fn exact_class(
        &self,
        place: LocationId,
        coordinates: Coordinates,
        address: Option<IpAddr>,
        system: Option<u32>,
        graph: &TargetGraph,
    ) -> (Class, usize) {
        let like = self.class_of(place, address, system);
        let mut class = self.classes[like.index()].clone();
        // The rules are those of the place; only the orders are the client's own. A `nearest` that
        // this class does not reach keeps having none.
        for (id, order) in &mut class.orders {
            *order = order_from(*id, graph, Some(coordinates));
        }
        (class, self.rule_of(like))
    }

    fn lookup(
        &self,
        place: LocationId,
        order_group: u16,
        address: Option<IpAddr>,
        system: Option<u32>,
    ) -> ClassIndex {
        let network = match (&self.networks, address) {
            (Some(networks), Some(address)) => networks.group(address),
            _ => 0,
        };
        let system = system
            .and_then(|asn| self.systems.get(&asn))
            .copied()
            .unwrap_or(0);
        let rule_group = self.by_rules.group(place);
        let at = usize::from(rule_group) * self.strides[0]
            + usize::from(order_group) * self.strides[1]
            + usize::from(network) * self.strides[2]
            + usize::from(system);
        self.table[at]
    }
}

/// Walks a target as a client with given properties would.
struct Walk<'a> {
    graph: &'a TargetGraph,
    sets: &'a [&'a ClientSet],
    nearest: &'a [TargetId],
    /// Which of the sets the client is in.
    inside: Vec<bool>,
    /// The joint order of all `nearest`.
    order: &'a [u16],
}

impl Walk<'_> {
    fn class(&self, target: TargetId) -> Class {
        let mut class = Class {
            rules: Vec::new(),
            orders: Vec::new(),
        };
        self.visit(target, &mut class);
        class.rules.sort_unstable();
        class.rules.dedup();
        class.orders.sort_unstable();
        class.orders.dedup();
        class
    }

    fn visit(&self, id: TargetId, class: &mut Class) {
        let kind = &self.graph.node(id).kind;
        if let TargetKindPlan::Geo(rules) = kind {
            let taken = rules
                .iter()
                .position(|rule| rule.clients.as_ref().is_none_or(|set| self.is_in(set)))
                .unwrap_or(rules.len() - 1);
            class.rules.push((id, taken as u16));
            self.visit(rules[taken].to, class);
            return;
        }
        if let TargetKindPlan::Nearest(members) = kind {
            let before: usize = self
                .nearest
                .iter()
                .take_while(|other| **other != id)
                .map(|other| self.graph.node(*other).kind.children().len())
                .sum();
            class
                .orders
                .push((id, self.order[before..before + members.len()].to_vec()));
        }
        for child in kind.children() {
            self.visit(child, class);
        }
    }

    fn is_in(&self, set: &ClientSet) -> bool {
        self.sets
            .iter()
            .position(|other| std::ptr::eq(*other, set))
            .is_some_and(|at| self.inside[at])
    }
}

/// Numbers equal values: which group each one is in, and one value of every group.
fn group<T: Eq + Hash + Clone>(values: impl Iterator<Item = T>) -> (Vec<u16>, Vec<T>) {
    let mut ids: HashMap<T, u16> = HashMap::new();
    let mut representatives = Vec::new();
    let groups = values
        .map(|value| {
            *ids.entry(value).or_insert_with_key(|value| {
                representatives.push(value.clone());
                (representatives.len() - 1) as u16
            })
        })
        .collect();
    (groups, representatives)
}

/// The orders of several `nearest` as seen from one place, one behind the other.
fn joint_order(nearest: &[TargetId], graph: &TargetGraph, from: Option<Coordinates>) -> Vec<u16> {
    nearest
        .iter()
        .flat_map(|id| order_from(*id, graph, from))
        .collect()
}

/// The order of the members of a `nearest` as seen from a place: the order written, if nobody knows
/// the place.
fn order_from(id: TargetId, graph: &TargetGraph, from: Option<Coordinates>) -> Vec<u16> {
    let members = graph.node(id).kind.children();
    let Some(from) = from else {
        return (0..members.len() as u16).collect();
    };
    let distance: Vec<f64> = members
        .iter()
        .map(|member| graph.distance_km(*member, from))
        .collect();
    by_distance(&distance)
}

/// The order of members at these distances: the nearest first, but those within 100 km of the nearest
/// of them in the order written.
fn by_distance(distance: &[f64]) -> Vec<u16> {
    let mut by_distance: Vec<u16> = (0..distance.len() as u16).collect();
    by_distance.sort_by(|a, b| distance[usize::from(*a)].total_cmp(&distance[usize::from(*b)]));
    let mut order = Vec::with_capacity(by_distance.len());
    let mut rest = by_distance.as_slice();
    while let Some(first) = rest.first() {
        let limit = distance[usize::from(*first)] + SAME_DISTANCE_KM;
        let same = rest
            .iter()
            .take_while(|at| distance[usize::from(**at)] <= limit)
            .count();
        let (group, others) = rest.split_at(same);
        let mut group = group.to_vec();
        group.sort_unstable();
        order.extend(group);
        rest = others;
    }
    order
}

/// Address → group, and which sets the addresses of every group are in. Group 0 is in none.
fn network_groups(sets: &[&ClientSet]) -> (Option<Box<Networks>>, Vec<Vec<bool>>) {
    let none = vec![false; sets.len()];
    let all: Vec<IpNet> = sets
        .iter()
        .flat_map(|set| set.networks.iter().copied())
        .collect();
    if all.is_empty() {
        return (None, vec![none]);
    }
    // An address belongs to the longest of the networks it is in, and that one's addresses are in
    // every set that names it or a network around it.
    let of_set: Vec<Networks> = sets
        .iter()
        .map(|set| Networks::new(set.networks.iter().map(|net| (*net, 1))))
        .collect();
    let signatures = all.iter().map(|net| {
        of_set
            .iter()
            .map(|networks| networks.group_of_net(*net) == 1)
            .collect::<Vec<bool>>()
    });
    let (groups, signatures) = group(std::iter::once(none).chain(signatures));
    let networks = Networks::new(all.iter().copied().zip(groups.into_iter().skip(1)));
    (Some(Box::new(networks)), signatures)
}

/// System → group, and which sets the systems of every group are in. Group 0 is in none.
fn system_groups(sets: &[&ClientSet]) -> (HashMap<u32, u16>, Vec<Vec<bool>>) {
    let none = vec![false; sets.len()];
    let mut all: Vec<u32> = sets
        .iter()
        .flat_map(|set| set.systems.iter().copied())
        .collect();
    all.sort_unstable();
    all.dedup();
    let signatures = all.iter().map(|asn| {
        sets.iter()
            .map(|set| set.systems.binary_search(asn).is_ok())
            .collect::<Vec<bool>>()
    });
    let (groups, signatures) = group(std::iter::once(none).chain(signatures));
    (
        all.into_iter().zip(groups.into_iter().skip(1)).collect(),
        signatures,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, RouteId};
    use crate::{Machine, check_text};

    fn plan(target: &str) -> Arc<Plan> {
        let text = format!(
            "
listeners: [ {{ bind: '127.0.0.1:0' }} ]
geoip: {{ database: city.mmdb, asn_database: asn.mmdb }}
pools:
  virginia: {{ cloud: aws, region: us-east-1, endpoints: [ '10.0.0.1:80' ] }}
  ohio: {{ cloud: aws, region: us-east-2, endpoints: [ '10.0.0.2:80' ] }}
  frankfurt: {{ cloud: aws, region: eu-central-1, endpoints: [ '10.0.0.3:80' ] }}
  frankfurt-too: {{ cloud: gcp, region: europe-west3, endpoints: [ '10.0.0.4:80' ] }}
  tokyo: {{ cloud: aws, region: ap-northeast-1, endpoints: [ '10.0.0.5:80' ] }}
services: {{ tested: {target} }}
routes: [ {{ to: tested }} ]
"
        );
        let checked = check_text("test.yaml", text, &Machine::default());
        checked
            .plan
            .unwrap_or_else(|| panic!("{}", checked.report.render(crate::diagnostic::Colours::Off)))
    }

    fn classes(plan: &Plan) -> (Arc<ClientClasses>, TargetId) {
        let target = plan.routes[RouteId::new(0).index()].target;
        (
            ClientClasses::of(target, &plan.targets, &plan.locations).unwrap(),
            target,
        )
    }

    fn place(plan: &Plan, country: &str) -> LocationId {
        plan.locations
            .country(Geography::get().country(country).unwrap())
    }

    /// The service's own target.
    fn inner(plan: &Plan, target: TargetId) -> TargetId {
        plan.targets.node(target).kind.children()[0]
    }

    #[test]
    fn without_rules_everybody_is_alike() {
        let plan = plan("{ split: { virginia: 1, ohio: 1 } }");
        let (classes, _) = classes(&plan);
        assert_eq!(classes.classes().len(), 1);
        assert_eq!(classes.rules(), 1);
    }

    #[test]
    fn rules_by_place_network_and_system_are_unions_and_the_first_wins() {
        let plan = plan(
            "{ geo: [
                { clients: { countries: [ DE ], cidrs: [ 10.0.0.0/8, '2001:db8::/32' ] }, to: frankfurt },
                { clients: { continents: [ EU ], cidrs: [ 10.1.0.0/16, 172.16.0.0/12 ], asns: [ 64500 ] }, to: frankfurt-too },
                { to: virginia } ] }",
        );
        let (classes, target) = classes(&plan);
        let geo = inner(&plan, target);
        assert_eq!(classes.classes().len(), 3);
        let rule = |country: Option<&str>, address: Option<&str>, system: Option<u32>| {
            let place = country.map_or(LocationId::UNKNOWN, |country| place(&plan, country));
            let class = classes.class_of(place, address.map(|a| a.parse().unwrap()), system);
            classes.classes()[class.index()].rule(geo)
        };
        assert_eq!(rule(Some("DE"), None, None), 0);
        assert_eq!(rule(Some("FR"), None, None), 1);
        assert_eq!(rule(Some("US"), None, None), 2);
        assert_eq!(rule(None, None, None), 2);
        assert_eq!(
            rule(Some("US"), Some("10.1.2.3"), None),
            0,
            "in the outer network of rule 1"
        );
        assert_eq!(rule(Some("US"), Some("172.16.0.1"), None), 1);
        assert_eq!(rule(None, Some("2001:db8::1"), None), 0);
        assert_eq!(rule(None, Some("192.0.2.1"), Some(64_500)), 1);
        assert_eq!(rule(None, Some("192.0.2.1"), Some(64_501)), 2);
    }

    #[test]
    fn nearest_orders_by_distance_and_ties_as_written() {
        let plan = plan("{ nearest: [ virginia, frankfurt-too, ohio, frankfurt, tokyo ] }");
        let (classes, target) = classes(&plan);
        let nearest = inner(&plan, target);
        let order = |place| {
            let class = classes.class_of(place, None, None);
            classes.classes()[class.index()]
                .order(nearest)
                .unwrap()
                .to_vec()
        };
        assert_eq!(order(place(&plan, "DE")), [1, 3, 0, 2, 4]);
        assert_eq!(order(place(&plan, "JP"))[0], 4);
        assert_eq!(order(LocationId::UNKNOWN), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn coordinates_decide_over_the_country() {
        let plan = plan("{ nearest: [ virginia, ohio, frankfurt ] }");
        let (classes, target) = classes(&plan);
        let nearest = inner(&plan, target);
        let us = place(&plan, "US");
        let boston = Coordinates {
            latitude: 42.36,
            longitude: -71.06,
        };
        let class = classes
            .class_at(us, boston, None, None, &plan.targets)
            .unwrap();
        assert_eq!(
            classes.classes()[class.index()].order(nearest),
            Some(&[0, 1, 2][..])
        );
        let denver = Coordinates {
            latitude: 39.74,
            longitude: -104.99,
        };
        let class = classes
            .class_at(us, denver, None, None, &plan.targets)
            .unwrap();
        assert_eq!(
            classes.classes()[class.index()].order(nearest),
            Some(&[1, 0, 2][..])
        );
        let (exact, rule) = classes.exact_class(us, denver, None, None, &plan.targets);
        assert_eq!(exact.order(nearest), Some(&[1, 0, 2][..]));
        assert_eq!(rule, 0);
    }

    #[test]
    fn classes_that_differ_in_order_alone_share_a_rule() {
        let plan = plan(
            "{ geo: [
                { clients: { continents: [ EU ] }, to: { nearest: [ frankfurt, tokyo ] } },
                { to: { nearest: [ virginia, tokyo ] } } ] }",
        );
        let (classes, _) = classes(&plan);
        assert_eq!(classes.rules(), 2);
        assert!(classes.classes().len() >= 4, "{}", classes.classes().len());
        let rule = |country| classes.rule_of(classes.class_of(place(&plan, country), None, None));
        assert_eq!(rule("JP"), rule("US"));
        assert_ne!(rule("DE"), rule("US"));
    }

    #[test]
    fn rules_inside_rules_are_reached_only_from_there() {
        let plan = plan(
            "{ geo: [
                { clients: { continents: [ EU ] }, to: { geo: [
                    { clients: { asns: [ 64500 ] }, to: frankfurt }, { to: frankfurt-too } ] } },
                { to: virginia } ] }",
        );
        let (classes, _) = classes(&plan);
        assert_eq!(classes.rules(), 3);
        let class = |country, system| classes.class_of(place(&plan, country), None, system);
        assert_eq!(class("US", Some(64_500)), class("US", None));
        assert_ne!(class("DE", Some(64_500)), class("DE", None));
    }

    #[test]
    fn too_many_combinations_are_refused() {
        use std::fmt::Write as _;
        let mut rules = String::new();
        for at in 0..300 {
            let _ = write!(
                rules,
                "{{ clients: {{ cidrs: [ 10.{}.{}.0/24 ], asns: [ {} ] }}, to: virginia }}, ",
                at / 250,
                at % 250,
                64_500 + at
            );
        }
        let text = format!(
            "
listeners: [ {{ bind: '127.0.0.1:0' }} ]
geoip: {{ asn_database: asn.mmdb }}
pools: {{ virginia: {{ endpoints: [ '10.0.0.1:80' ] }} }}
routes: [ {{ to: {{ geo: [ {rules} {{ to: virginia }} ] }} }} ]
"
        );
        let checked = check_text("test.yaml", text, &Machine::default());
        assert!(checked.plan.is_none());
        let said = checked.report.first_error().unwrap();
        assert!(said.contains("too-many-client-classes"), "{said}");
    }
}
