//! Steering expressions: weights that add up, tiers that can be reached, rules for everybody.

use std::collections::BTreeSet;

use super::clients;
use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Document, GeoRule, Target, TargetKind};
use crate::resolve::Names;
use crate::source::Origin;

/// Checks every target. With names that are unknown or go round in a circle (`unresolved`), what
/// depends on the pools behind them is not judged.
pub(super) fn check(
    document: &Document,
    names: &Names<'_>,
    unresolved: bool,
    found: &mut Vec<Diagnostic>,
) {
    let services = document.services.iter().map(|(_, target)| target);
    let mut check = Check {
        document,
        names,
        unresolved,
        found,
    };
    let of_routes = document.routes.iter().filter_map(|route| route.to.as_ref());
    for target in services.chain(of_routes) {
        check.target(target);
    }
}

struct Check<'a, 'b> {
    document: &'a Document,
    names: &'b Names<'a>,
    unresolved: bool,
    found: &'b mut Vec<Diagnostic>,
}

impl<'a> Check<'a, '_> {
    fn target(&mut self, target: &'a Target) {
        match &target.kind {
            TargetKind::Name(_) => {}
            TargetKind::Split(members) => {
                if members.iter().all(|member| member.weight.value.get() == 0) {
                    self.found.push(Diagnostic::error(
                        Code::ZeroWeights,
                        target.origin,
                        "every member of this split has weight 0",
                    ));
                } else {
                    for member in members.iter().filter(|m| m.weight.value.get() == 0) {
                        self.found.push(Diagnostic::warning(
                            Code::WeightZero,
                            member.weight.origin,
                            "this member has weight 0 and gets no requests",
                        ));
                    }
                }
                for member in members {
                    self.target(&member.to);
                }
            }
            TargetKind::Tiers(members) => {
                self.useless_tiers(members);
                members.iter().for_each(|member| self.target(member));
            }
            TargetKind::Nearest(members) => {
                for member in members {
                    self.has_place(member);
                    self.target(member);
                }
            }
            TargetKind::Fastest(members) => members.iter().for_each(|member| self.target(member)),
            TargetKind::LeastLoaded(members) => {
                for member in members {
                    self.has_capacity(member);
                    self.target(member);
                }
            }
            TargetKind::Geo(rules) => self.geo(rules, target.origin),
        }
    }

    /// Every pool a target can lead to, or `None` if that cannot be said.
    fn pools(&self, target: &'a Target) -> Option<BTreeSet<usize>> {
        (!self.unresolved).then(|| crate::resolve::pools_of(target, self.document, self.names))
    }

    /// A tier all of whose pools stand in earlier tiers can never get a request: when those cannot
    /// serve, it cannot either.
    fn useless_tiers(&mut self, members: &'a [Target]) {
        let mut earlier: BTreeSet<usize> = BTreeSet::new();
        for (at, member) in members.iter().enumerate() {
            let Some(pools) = self.pools(member) else {
                return;
            };
            if at > 0 && pools.is_subset(&earlier) {
                let of: Vec<_> = pools
                    .iter()
                    .map(|pool| format!("`{}`", self.document.pools.0[*pool].0))
                    .collect();
                self.found.push(
                    Diagnostic::error(
                        Code::UselessTier,
                        member.origin,
                        format!(
                            "tier {} can never serve: {} stands in earlier tiers",
                            at + 1,
                            of.join(", ")
                        ),
                    )
                    .help("leave it out, or put a pool in it that the earlier tiers do not have"),
                );
            }
            earlier.extend(pools);
        }
    }

    /// A member of `nearest` must be somewhere.
    fn has_place(&mut self, member: &'a Target) {
        let Some(pools) = self.pools(member) else {
            return;
        };
        let missing: Vec<_> = pools
            .iter()
            .map(|at| &self.document.pools.0[*at])
            .filter(|(_, pool)| pool.latitude.is_none() || pool.longitude.is_none())
            .collect();
        if let Some((name, _)) = missing.first()
            && missing.len() == pools.len()
        {
            self.found.push(
                Diagnostic::error(
                    Code::NoCoordinates,
                    member.origin,
                    format!("how near is `{name}`? Its pool says no place"),
                )
                .related(name.origin, "this pool")
                .help("give it `cloud` and `region`, or `latitude` and `longitude`"),
            );
        }
    }

    /// A member of `least_loaded` must have a capacity.
    fn has_capacity(&mut self, member: &'a Target) {
        for at in self.pools(member).unwrap_or_default() {
            let (name, pool) = &self.document.pools.0[at];
            if pool.capacity.is_none() {
                self.found.push(
                    Diagnostic::error(
                        Code::NoCapacity,
                        member.origin,
                        format!("how loaded is `{name}`? Its pool says no capacity"),
                    )
                    .related(name.origin, "this pool")
                    .help("give it `capacity: { in_flight: 800 }`"),
                );
            }
        }
    }

    fn geo(&mut self, rules: &'a [GeoRule], origin: Origin) {
        let everybody = rules.iter().position(|rule| rule.clients.is_none());
        match everybody {
            None => self.found.push(
                Diagnostic::error(
                    Code::GeoCatchAll,
                    origin,
                    "this `geo` says nothing about clients that no rule names",
                )
                .help("end it with a rule without `clients`: `- to: TARGET`"),
            ),
            Some(at) if at + 1 < rules.len() => self.found.push(
                Diagnostic::error(
                    Code::GeoCatchAll,
                    rules[at + 1].origin,
                    "this rule is never reached: the one before takes everybody",
                )
                .related(rules[at].origin, "takes everybody"),
            ),
            Some(_) => {}
        }
        for rule in rules {
            if let Some(clients) = &rule.clients {
                clients::check(clients, "clients", self.document, self.found);
            }
            self.target(&rule.to);
        }
    }
}
