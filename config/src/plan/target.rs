//! Targets as a graph of distinct nodes: two routes with the same target share one node, and with
//! it everything that is computed for it.

use std::collections::{BTreeSet, HashMap};

use super::id::{PoolId, ServiceId, TargetId};
use super::location::ClientSet;
use crate::document::IfDown;
use crate::geography::Coordinates;

/// Every distinct target.
#[derive(Clone, Debug, Default)]
pub struct TargetGraph {
    nodes: Vec<TargetNode>,
    ids: HashMap<TargetKindPlan, TargetId>,
}

/// A target and what follows from its shape alone.
#[derive(Clone, Debug)]
pub struct TargetNode {
    /// What it is.
    pub kind: TargetKindPlan,
    /// Every pool it can lead to, ascending; also by a member of weight 0, to which an operator may
    /// give another weight.
    pub pools: Vec<PoolId>,
    /// Those of them that it leads to by the weights of the configuration.
    pub weighted: Vec<PoolId>,
    /// Where those are (if they have a place): a target is as near as its nearest pool.
    pub places: Vec<Coordinates>,
    /// Whether it leads through `fastest` or `least_loaded`, whose shares move with measurements.
    pub measured: bool,
}

/// The kinds of targets, by id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetKindPlan {
    /// A pool.
    Pool(PoolId),
    /// A service: the same as what it stands for, but with a name to explain it by.
    Service(ServiceId, TargetId),
    /// Shares by weight. At least one is above 0.
    Split(Vec<SplitMemberPlan>),
    /// The first that can carry the load.
    Tiers(Vec<TargetId>),
    /// Tiers by distance.
    Nearest(Vec<TargetId>),
    /// Tiers by latency.
    Fastest(Vec<TargetId>),
    /// Shares by free capacity.
    LeastLoaded(Vec<TargetId>),
    /// By who the client is. The last rule takes everybody.
    Geo(Vec<GeoRulePlan>),
}

/// A member of a split.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SplitMemberPlan {
    /// Where this share goes.
    pub to: TargetId,
    /// How large it is; 0 is nothing.
    pub weight: u32,
    /// What happens to it when the member cannot carry it.
    pub if_down: IfDown,
}

/// A rule of `geo`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GeoRulePlan {
    /// Whom it is for; `None` is everybody.
    pub clients: Option<ClientSet>,
    /// Where they go.
    pub to: TargetId,
}

impl TargetKindPlan {
    /// The targets directly below.
    pub fn children(&self) -> Vec<TargetId> {
        match self {
            Self::Pool(_) => Vec::new(),
            Self::Service(_, to) => vec![*to],
            Self::Split(members) => members.iter().map(|member| member.to).collect(),
            Self::Tiers(members)
            | Self::Nearest(members)
            | Self::Fastest(members)
            | Self::LeastLoaded(members) => members.clone(),
            Self::Geo(rules) => rules.iter().map(|rule| rule.to).collect(),
        }
    }
}

impl TargetGraph {
    /// The id of this target: an old one if it stood before. Its children are there already.
    pub(crate) fn intern(
        &mut self,
        kind: TargetKindPlan,
        place_of_pool: impl Fn(PoolId) -> Option<Coordinates>,
    ) -> TargetId {
        if let Some(id) = self.ids.get(&kind) {
            return *id;
        }
        if let TargetKindPlan::Pool(pool) = kind {
            return self.add(TargetNode {
                kind,
                pools: vec![pool],
                weighted: vec![pool],
                places: place_of_pool(pool).into_iter().collect(),
                measured: false,
            });
        }
        let children = kind.children();
        let pools: BTreeSet<PoolId> = children
            .iter()
            .flat_map(|child| self.node(*child).pools.iter().copied())
            .collect();
        let leading: Vec<TargetId> = match &kind {
            TargetKindPlan::Split(members) => {
                let weighted = members.iter().filter(|member| member.weight > 0);
                weighted.map(|member| member.to).collect()
            }
            _ => children.clone(),
        };
        let weighted: BTreeSet<PoolId> = leading
            .into_iter()
            .flat_map(|child| self.node(child).weighted.iter().copied())
            .collect();
        let measured = matches!(
            kind,
            TargetKindPlan::Fastest(_) | TargetKindPlan::LeastLoaded(_)
        ) || children.iter().any(|child| self.node(*child).measured);
        self.add(TargetNode {
            places: weighted
                .iter()
                .filter_map(|pool| place_of_pool(*pool))
                .collect(),
            pools: pools.into_iter().collect(),
            weighted: weighted.into_iter().collect(),
            measured,
            kind,
        })
    }

    /// Nothing is added any more: what that needs is given back.
    pub(crate) fn finished(mut self) -> Self {
        self.ids = HashMap::new();
        self.nodes.shrink_to_fit();
        self
    }

    fn add(&mut self, node: TargetNode) -> TargetId {
        let id = TargetId::new(self.nodes.len());
        self.ids.insert(node.kind.clone(), id);
        self.nodes.push(node);
        id
    }

    /// A target.
    pub fn node(&self, id: TargetId) -> &TargetNode {
        &self.nodes[id.index()]
    }

    /// How many distinct targets there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The target and everything below it, each once, outer before inner.
    pub fn reachable(&self, from: TargetId) -> Vec<TargetId> {
        if let TargetKindPlan::Pool(_) = self.node(from).kind {
            return vec![from];
        }
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        let mut open = vec![from];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                order.push(id);
                open.extend(self.node(id).kind.children().into_iter().rev());
            }
        }
        order
    }

    /// How far a target is from a place: the distance of its nearest pool.
    pub fn distance_km(&self, id: TargetId, from: Coordinates) -> f64 {
        self.node(id)
            .places
            .iter()
            .map(|place| place.distance_km(from))
            .fold(f64::INFINITY, f64::min)
    }
}
