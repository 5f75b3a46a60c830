//! Weights: what operators give to the members of a service's split instead of the configuration's
//! weights.
//!
//! # Which split
//! The service's target is the split, or tiers whose first member is: what stands first is what
//! serves as long as it can. Anything else (`geo`, `nearest`, another service …) has no *one* split
//! that an operator could mean, and is refused.
//!
//! # Every member
//! An override names every member, those that are to get nothing with 0. If the others kept their
//! weights, `a=100` beside a configured `b: 30` would leave a quarter of the traffic where it was;
//! if they got nothing, `canary=5` would send everybody there. Neither is what was meant by
//! whoever forgot a member, so nothing is guessed.
//!
//! When another configuration has other members, the override waits and says why; the
//! configuration's weights serve.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use portolan_config::diagnostic::{nearest, quoted_list};
use portolan_config::names::Name;
use portolan_config::plan::{Plan, ServicePlan, SplitMemberPlan, TargetId, TargetKindPlan};
use portolan_config::scalar::FromScalar as _;
use portolan_config::units::Weight;

/// The weight of every member of a split, by name. At least one is above 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights(BTreeMap<Name, u32>);

impl Weights {
    /// Takes what somebody wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new<'a>(weights: impl IntoIterator<Item = (&'a str, u64)>) -> Result<Self, String> {
        let mut taken = BTreeMap::new();
        for (name, weight) in weights {
            let parsed =
                Name::parse(name).map_err(|wrong| format!("`{name}` {}", wrong.message))?;
            let weight = u32::try_from(weight)
                .ok()
                .filter(|weight| *weight <= Weight::MAX)
                .ok_or_else(|| {
                    format!(
                        "{weight} for `{name}`: weights are whole numbers from 0 to {}",
                        Weight::MAX
                    )
                })?;
            taken.insert(parsed, weight);
        }
        if taken.is_empty() {
            return Err("`weights` names nobody: every member of the split has to be named".into());
        }
        if taken.values().all(|weight| *weight == 0) {
            return Err("every weight is 0: somebody has to serve".into());
        }
        Ok(Self(taken))
    }

    /// Every member's name and weight.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, u32)> {
        self.0.iter().map(|(name, weight)| (name, *weight))
    }

    /// As data.
    pub fn to_map(&self) -> BTreeMap<String, u32> {
        self.iter()
            .map(|(name, weight)| (name.to_string(), weight))
            .collect()
    }

    /// The weights in the order of the split's members, if these are its members.
    ///
    /// # Errors
    /// Why they are not.
    pub fn fit(&self, plan: &Plan, service: &ServicePlan) -> Result<Vec<u32>, Misfit> {
        let members = members(plan, service)?;
        let names: Vec<&Name> = members.iter().map(|(name, _)| *name).collect();
        if let Some(stranger) = self.0.keys().find(|name| !names.contains(name)) {
            return Err(Misfit::Stranger {
                service: service.name.clone(),
                stranger: stranger.clone(),
                members: names.into_iter().cloned().collect(),
            });
        }
        let missing: Vec<Name> = names
            .iter()
            .filter(|name| !self.0.contains_key(name))
            .map(|name| Name::clone(name))
            .collect();
        if !missing.is_empty() {
            return Err(Misfit::Missing {
                service: service.name.clone(),
                missing,
            });
        }
        Ok(names.iter().map(|name| self.0[*name]).collect())
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, weight)) in self.iter().enumerate() {
            let between = if at == 0 { "" } else { " " };
            write!(f, "{between}{name}={weight}")?;
        }
        Ok(())
    }
}

/// The members of the split that overrides of a service are about, and their configured weights.
///
/// # Errors
/// Why there is none.
pub fn members<'a>(plan: &'a Plan, service: &ServicePlan) -> Result<Vec<(&'a Name, u32)>, Misfit> {
    let split = split(plan, service)?;
    let mut seen = BTreeSet::new();
    split
        .iter()
        .enumerate()
        .map(|(at, member)| {
            let name = match &plan.targets.node(member.to).kind {
                TargetKindPlan::Pool(pool) => &plan.pools[pool.index()].name,
                TargetKindPlan::Service(service, _) => &plan.services[service.index()].name,
                _ => {
                    return Err(Misfit::Nameless {
                        service: service.name.clone(),
                        number: at + 1,
                    });
                }
            };
            if !seen.insert(name) {
                return Err(Misfit::Twice {
                    service: service.name.clone(),
                    member: name.clone(),
                });
            }
            Ok((name, member.weight))
        })
        .collect()
}

fn split<'a>(plan: &'a Plan, service: &ServicePlan) -> Result<&'a [SplitMemberPlan], Misfit> {
    let kind = |target: TargetId| &plan.targets.node(target).kind;
    let mut at = match kind(service.target) {
        TargetKindPlan::Service(_, to) => *to,
        _ => service.target,
    };
    loop {
        match kind(at) {
            TargetKindPlan::Split(members) => return Ok(members),
            TargetKindPlan::Tiers(tiers) if !tiers.is_empty() => at = tiers[0],
            other => {
                return Err(Misfit::NoSplit {
                    service: service.name.clone(),
                    instead: match other {
                        TargetKindPlan::Service(inner, _) => {
                            Some(plan.services[inner.index()].name.clone())
                        }
                        _ => None,
                    },
                });
            }
        }
    }
}

/// The service of a name.
///
/// # Errors
/// There is none, or it is a pool.
pub fn service<'a>(plan: &'a Plan, name: &str) -> Result<&'a ServicePlan, Misfit> {
    let mut services = plan.services.iter();
    if let Some(found) = services.find(|service| service.name.as_str() == name) {
        return Ok(found);
    }
    let names = plan.services.iter().map(|service| service.name.as_str());
    Err(Misfit::NoService {
        name: name.to_owned(),
        is_pool: plan.pool_named(name).is_some(),
        nearest: nearest(name, names).map(str::to_owned),
    })
}

/// Why weights cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// There is no such service.
    NoService {
        /// What was asked for.
        name: String,
        /// A pool has this name.
        is_pool: bool,
        /// A service that may have been meant.
        nearest: Option<String>,
    },
    /// The service's target is no split and does not begin with one.
    NoSplit {
        /// The service.
        service: Name,
        /// It begins with another service.
        instead: Option<Name>,
    },
    /// A member of the split is an expression without a name.
    Nameless {
        /// The service.
        service: Name,
        /// Which member, counted from 1.
        number: usize,
    },
    /// The same target stands twice in the split.
    Twice {
        /// The service.
        service: Name,
        /// Which.
        member: Name,
    },
    /// A name that is no member of the split.
    Stranger {
        /// The service.
        service: Name,
        /// The name.
        stranger: Name,
        /// The members.
        members: Vec<Name>,
    },
    /// Members that were not named.
    Missing {
        /// The service.
        service: Name,
        /// Which.
        missing: Vec<Name>,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &[Name]| {
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            names.join(", ")
        };
        match self {
            Self::NoService {
                name,
                is_pool: true,
                ..
            } => write!(
                f,
                "`{name}` is a pool, and weights are those of a service's split"
            ),
            Self::NoService {
                name,
                nearest: Some(nearest),
                ..
            } => write!(f, "there is no service {name}: did you mean `{nearest}`?"),
            Self::NoService { name, .. } => write!(f, "there is no service {name}"),
            Self::NoSplit {
                service,
                instead: Some(inner),
            } => write!(
                f,
                "service {service} leads to service {inner}: override the weights of that one"
            ),
            Self::NoSplit { service, .. } => write!(
                f,
                "service {service} is no split, nor tiers that begin with one: there are no \
                 weights to override"
            ),
            Self::Nameless { service, number } => write!(
                f,
                "member {number} of the split of service {service} has no name: make it a service \
                 of its own"
            ),
            Self::Twice { service, member } => write!(
                f,
                "`{member}` stands twice in the split of service {service}: which is meant cannot \
                 be said"
            ),
            Self::Stranger {
                service,
                stranger,
                members,
            } => {
                write!(
                    f,
                    "`{stranger}` is no member of the split of service {service}"
                )?;
                match nearest(stranger.as_str(), members.iter().map(Name::as_str)) {
                    Some(nearest) => write!(f, ": did you mean `{nearest}`?"),
                    None => write!(
                        f,
                        ": write {}",
                        quoted_list(members.iter().map(Name::as_str))
                    ),
                }
            }
            Self::Missing { service, missing } => write!(
                f,
                "the split of service {service} has {}, too: name every member, with 0 if it is \
                 to get nothing",
                list(missing)
            ),
        }
    }
}

/// The weights of services, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightsOf(BTreeMap<Name, Weights>);

impl WeightsOf {
    /// Those of a service.
    pub fn of(&self, service: &Name) -> Option<&Weights> {
        self.0.get(service)
    }
}

impl FromIterator<(Name, Weights)> for WeightsOf {
    fn from_iter<T: IntoIterator<Item = (Name, Weights)>>(weights: T) -> Self {
        Self(weights.into_iter().collect())
    }
}

/// What becomes of the weights under one configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fitted {
    /// By the service's id: the weights of its split's members, in their order.
    services: Vec<Option<Vec<u32>>>,
    /// Those that cannot be applied, and why.
    misfits: BTreeMap<Name, Misfit>,
}

impl Fitted {
    /// Fits weights to a configuration.
    pub fn new(plan: &Plan, weights: &WeightsOf) -> Self {
        let mut fitted = Self {
            services: vec![None; plan.services.len()],
            misfits: BTreeMap::new(),
        };
        for (name, weights) in &weights.0 {
            let at = plan.services.iter().position(|it| it.name == *name);
            let outcome = match at {
                Some(at) => weights
                    .fit(plan, &plan.services[at])
                    .map(|weights| fitted.services[at] = Some(weights)),
                None => service(plan, name.as_str()).map(|_| ()),
            };
            if let Err(misfit) = outcome {
                fitted.misfits.insert(name.clone(), misfit);
            }
        }
        fitted
    }

    /// The weights of a service's members, if they are overridden.
    pub fn of(&self, service: portolan_config::plan::ServiceId) -> Option<&[u32]> {
        self.services.get(service.index())?.as_deref()
    }

    /// Those that cannot be applied, and why.
    pub fn misfits(&self) -> &BTreeMap<Name, Misfit> {
        &self.misfits
    }

    /// Whether nothing is overridden.
    pub fn is_empty(&self) -> bool {
        self.misfits.is_empty() && self.services.iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::{Machine, check_text};
    use std::sync::Arc;

    fn plan(services: &str) -> Arc<Plan> {
        let text = format!(
            "listeners: [ {{ bind: '127.0.0.1:0' }} ]
pools:
  aws: {{ endpoints: [ '10.0.0.1:80' ] }}
  azure: {{ endpoints: [ '10.0.0.2:80' ] }}
  gcp: {{ endpoints: [ '10.0.0.3:80' ] }}
services: {services}
routes: [ {{ to: api }} ]"
        );
        let checked = check_text("t", text.clone(), &Machine::default());
        checked
            .plan
            .unwrap_or_else(|| panic!("{text}: {:?}", checked.report.first_error()))
    }

    fn fit(services: &str, weights: &[(&str, u64)]) -> Result<Vec<u32>, String> {
        let plan = plan(services);
        let weights = Weights::new(weights.iter().copied())?;
        let service = service(&plan, "api").unwrap();
        weights
            .fit(&plan, service)
            .map_err(|misfit| misfit.to_string())
    }

    #[test]
    fn weights_fit_the_split_that_comes_first() {
        let both = [("azure", 10), ("aws", 0)];
        for services in [
            "{ api: { split: { aws: 70, azure: 30 } } }",
            "{ api: { split: { aws: 70, azure: 0 } } }",
            "{ api: { tiers: [ { split: { aws: 70, azure: 30 } }, gcp ] } }",
            "{ api: { tiers: [ { tiers: [ { split: { aws: 1, azure: 2 } } ] }, gcp ] } }",
        ] {
            assert_eq!(fit(services, &both), Ok(vec![0, 10]), "{services}");
        }
        let nested = "{ api: { split: { aws: 70, west: 30 } }, west: { tiers: [ azure, gcp ] } }";
        assert_eq!(fit(nested, &[("west", 1), ("aws", 2)]), Ok(vec![2, 1]));
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let split = "{ api: { split: { aws: 70, azure: 30 } } }";
        for (services, weights, words) in [
            (
                split,
                &[("aws", 1), ("azur", 2)][..],
                "did you mean `azure`?",
            ),
            (split, &[("aws", 1), ("zzz", 2)], "write `aws` or `azure`"),
            (split, &[("aws", 1)], "has `azure`, too: name every member"),
            (split, &[("aws", 0), ("azure", 0)], "every weight is 0"),
            (split, &[], "names nobody"),
            (
                split,
                &[("aws", 1_000_001), ("azure", 0)],
                "from 0 to 1000000",
            ),
            (split, &[("a b", 1), ("azure", 0)], "`a b` is not a name"),
            ("{ api: aws }", &[("aws", 1)], "is no split"),
            (
                "{ api: { tiers: [ aws, { split: { azure: 1, gcp: 1 } } ] } }",
                &[("azure", 1)],
                "is no split",
            ),
            (
                "{ api: { tiers: [ b, gcp ] }, b: { split: { aws: 1, azure: 1 } } }",
                &[("aws", 1)],
                "service api leads to service b: override the weights of that one",
            ),
            (
                "{ api: { split: [ { to: { tiers: [ aws, gcp ] }, weight: 1 }, { to: azure, weight: 2 } ] } }",
                &[("azure", 1)],
                "member 1 of the split of service api has no name",
            ),
        ] {
            let said = fit(services, weights).unwrap_err();
            assert!(said.contains(words), "{services} {weights:?}: {said}");
        }
        let plan = plan(split);
        for (name, words) in [
            ("apis", "there is no service apis: did you mean `api`?"),
            ("nothing-like-it", "there is no service nothing-like-it"),
            ("aws", "`aws` is a pool"),
        ] {
            let said = service(&plan, name).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }
}
