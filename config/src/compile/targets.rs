//! Targets: equal ones are one, and what they ask about clients.

use std::sync::Arc;

use crate::document::{Clients, Document, GeoRule, Target, TargetKind};
use crate::geography::{Coordinates, Geography};
use crate::plan::{
    ClientSet, GeoAsked, GeoRulePlan, LocationTable, PoolId, ServiceId, SplitMemberPlan,
    TargetGraph, TargetId, TargetKindPlan,
};
use crate::resolve::{Definition, Names};
use crate::source::{At, Origin};

/// Every subdivision that some rule or test names, and those that decide between the Cloudflare
/// regions that some rule names.
pub(crate) fn subdivisions(document: &Document) -> Vec<(&str, crate::geography::CountryId)> {
    let mut found = Vec::new();
    let mut cloudflare = false;
    each_clients(document, &mut |clients| {
        cloudflare |= !clients.cloudflare_regions.is_empty();
        let named = clients.subdivisions.iter().map(|part| &part.value);
        found.extend(named.map(|part| (part.code(), part.country())));
    });
    for test in &document.tests {
        if let Some(subdivision) = &test.client.subdivision {
            found.push((subdivision.value.code(), subdivision.value.country()));
        }
    }
    if cloudflare {
        let geography = Geography::get();
        found.extend(
            geography
                .cloudflare_subdivisions()
                .iter()
                .filter_map(|(code, _)| Some((*code, geography.country(code.split('-').next()?)?))),
        );
    }
    found
}

/// Where the first rules stand that ask a database for something.
pub(crate) fn asked(document: &Document) -> GeoAsked {
    fn first<T>(slot: &mut Option<Origin>, rules: &[At<T>]) {
        *slot = slot.or_else(|| rules.first().map(|rule| rule.origin));
    }
    let mut asked = GeoAsked::default();
    each_clients(document, &mut |clients| {
        first(&mut asked.country, &clients.continents);
        first(&mut asked.country, &clients.countries);
        first(&mut asked.country, &clients.subdivisions);
        first(&mut asked.country, &clients.cloudflare_regions);
        first(&mut asked.country, clients.in_eu.as_slice());
        first(&mut asked.subdivision, &clients.subdivisions);
        first(&mut asked.system, &clients.asns);
    });
    asked
}

/// Every set of clients that a rule names.
fn each_clients<'a>(document: &'a Document, visit: &mut dyn FnMut(&'a Clients)) {
    each_target(document, &mut |target| {
        each_rule(target, &mut |rule| {
            rule.clients.iter().for_each(&mut *visit);
        });
    });
    let of_listeners = document.listeners.iter().map(|l| (&l.allow, &l.deny));
    let of_routes = document.routes.iter().map(|r| (&r.allow, &r.deny));
    for (allow, deny) in of_listeners.chain(of_routes) {
        allow.as_deref().into_iter().for_each(&mut *visit);
        deny.as_deref().into_iter().for_each(&mut *visit);
    }
}

/// The outermost target of every service and route.
fn each_target<'a>(document: &'a Document, visit: &mut dyn FnMut(&'a Target)) {
    let services = document.services.iter().map(|(_, target)| target);
    let routes = document.routes.iter().filter_map(|route| route.to.as_ref());
    services.chain(routes).for_each(visit);
}

fn each_rule<'a>(target: &'a Target, visit: &mut dyn FnMut(&'a GeoRule)) {
    match &target.kind {
        TargetKind::Name(_) => {}
        TargetKind::Split(members) => {
            members
                .iter()
                .for_each(|member| each_rule(&member.to, visit));
        }
        TargetKind::Tiers(members)
        | TargetKind::Nearest(members)
        | TargetKind::Fastest(members)
        | TargetKind::LeastLoaded(members) => {
            members.iter().for_each(|member| each_rule(member, visit));
        }
        TargetKind::Geo(rules) => {
            for rule in rules {
                visit(rule);
                each_rule(&rule.to, visit);
            }
        }
    }
}

pub(crate) struct Targets<'a> {
    pub(super) document: &'a Document,
    pub(super) names: &'a Names<'a>,
    pub(super) locations: &'a Arc<LocationTable>,
    pub(super) places: Vec<Option<Coordinates>>,
    pub(super) graph: TargetGraph,
    /// The node of every service that was needed so far.
    pub(super) services: Vec<Option<TargetId>>,
}

impl Targets<'_> {
    fn intern(&mut self, kind: TargetKindPlan) -> TargetId {
        let places = &self.places;
        self.graph.intern(kind, |pool| places[pool.index()])
    }

    /// A service, with its name around what it stands for. Services are not in a circle: the
    /// checks said so.
    pub(crate) fn service(&mut self, at: usize) -> TargetId {
        if let Some(id) = self.services[at] {
            return id;
        }
        let document = self.document;
        let inner = self.target(&document.services.0[at].1);
        let id = self.intern(TargetKindPlan::Service(ServiceId::new(at), inner));
        self.services[at] = Some(id);
        id
    }

    pub(crate) fn target(&mut self, target: &Target) -> TargetId {
        let kind = match &target.kind {
            TargetKind::Name(name) => match self.names.get(name.value.as_str()) {
                Some(Definition::Service(at)) => return self.service(at),
                Some(Definition::Pool(at)) => TargetKindPlan::Pool(PoolId::new(at)),
                None => unreachable!("the checks found every name"),
            },
            TargetKind::Split(members) => TargetKindPlan::Split(
                members
                    .iter()
                    .map(|member| SplitMemberPlan {
                        to: self.target(&member.to),
                        weight: member.weight.value.get(),
                        if_down: member.if_down.value,
                    })
                    .collect(),
            ),
            TargetKind::Tiers(members) => TargetKindPlan::Tiers(self.all(members)),
            TargetKind::Nearest(members) => TargetKindPlan::Nearest(self.all(members)),
            TargetKind::Fastest(members) => TargetKindPlan::Fastest(self.all(members)),
            TargetKind::LeastLoaded(members) => TargetKindPlan::LeastLoaded(self.all(members)),
            TargetKind::Geo(rules) => TargetKindPlan::Geo(
                rules
                    .iter()
                    .map(|rule| GeoRulePlan {
                        clients: rule
                            .clients
                            .as_ref()
                            .map(|c| ClientSet::new(c, self.locations)),
                        to: self.target(&rule.to),
                    })
                    .collect(),
            ),
        };
        self.intern(kind)
    }

    /// What leads to no pool.
    pub(crate) fn nowhere(&mut self) -> TargetId {
        self.intern(TargetKindPlan::Tiers(Vec::new()))
    }

    fn all(&mut self, members: &[Target]) -> Vec<TargetId> {
        members.iter().map(|member| self.target(member)).collect()
    }
}
