//! Names: unique, known, and not in a circle.

use std::collections::{BTreeSet, HashMap};

use crate::diagnostic::{Code, Diagnostic};
use crate::document::{Document, Target, TargetKind};
use crate::names::Name;
use crate::source::{At, Origin};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Definition {
    /// The pool at this index.
    Pool(usize),
    /// The service at this index.
    Service(usize),
}

/// Every name of a document.
#[derive(Debug, Default)]
pub(crate) struct Names<'a> {
    map: HashMap<&'a str, (Definition, Origin)>,
}

impl<'a> Names<'a> {
    /// What this name stands for.
    pub(crate) fn get(&self, name: &str) -> Option<Definition> {
        self.map.get(name).map(|(definition, _)| *definition)
    }

    /// The names of all pools, or of everything.
    pub(crate) fn iter(&self, pools_only: bool) -> impl Iterator<Item = &'a str> {
        self.map
            .iter()
            .filter(move |(_, (d, _))| !pools_only || matches!(d, Definition::Pool(_)))
            .map(|(name, _)| *name)
    }

    /// Adds a name, or complains that it is taken.
    fn define(&mut self, name: &'a At<Name>, what: Definition, found: &mut Vec<Diagnostic>) {
        let text = name.value.as_str();
        match self.map.get(text) {
            None => {
                self.map.insert(text, (what, name.origin));
            }
            Some((other, first)) => {
                let kind = match other {
                    Definition::Pool(_) => "pool",
                    Definition::Service(_) => "service",
                };
                found.push(
                    Diagnostic::error(
                        Code::DuplicateName,
                        name.origin,
                        format!("there is a {kind} named `{text}` already"),
                    )
                    .related(*first, "here")
                    .help("pools and services share one name space"),
                );
            }
        }
    }
}

/// Every name of a document that has passed the checks.
pub(crate) fn names(document: &Document) -> Names<'_> {
    check(document, &mut Vec::new())
}

/// Collects every name and checks every use of one.
pub(crate) fn check<'a>(document: &'a Document, found: &mut Vec<Diagnostic>) -> Names<'a> {
    let mut names = Names::default();
    for (at, (name, _)) in document.pools.iter().enumerate() {
        names.define(name, Definition::Pool(at), found);
    }
    for (at, (name, _)) in document.services.iter().enumerate() {
        names.define(name, Definition::Service(at), found);
    }
    let targets = document.services.iter().map(|(_, target)| target);
    let of_routes = document.routes.iter().filter_map(|route| route.to.as_ref());
    for target in targets.chain(of_routes) {
        each_name(target, &mut |name| {
            if names.get(name.value.as_str()).is_none() {
                found.push(
                    Diagnostic::error(
                        Code::UnknownName,
                        name.origin,
                        format!("there is no pool or service named `{name}`"),
                    )
                    .suggest(name.value.as_str(), names.iter(false)),
                );
            }
        });
    }
    for name in authorizers(document) {
        let text = name.value.as_str();
        let diagnostic = match names.get(text) {
            Some(Definition::Pool(_)) => continue,
            Some(Definition::Service(_)) => {
                let message = format!("`{name}` is a service, and a pool belongs here");
                Diagnostic::error(Code::BadValue, name.origin, message)
            }
            None => {
                let message = format!("there is no pool named `{name}`");
                Diagnostic::error(Code::UnknownName, name.origin, message)
                    .suggest(text, names.iter(true))
            }
        };
        found.push(diagnostic);
    }
    cycles(document, &names, found);
    names
}

/// The pools that are asked who may pass.
fn authorizers(document: &Document) -> impl Iterator<Item = &At<Name>> {
    let auth = document.routes.iter().filter_map(|route| route.auth.on());
    auth.filter_map(|auth| Some(&auth.forward_auth.as_ref()?.to))
}

/// Calls `visit` with every name that a target mentions, in the order written.
pub(crate) fn each_name<'a>(target: &'a Target, visit: &mut dyn FnMut(&'a At<Name>)) {
    match &target.kind {
        TargetKind::Name(name) => visit(name),
        TargetKind::Split(members) => {
            for member in members {
                each_name(&member.to, visit);
            }
        }
        TargetKind::Tiers(members)
        | TargetKind::Nearest(members)
        | TargetKind::Fastest(members)
        | TargetKind::LeastLoaded(members) => {
            for member in members {
                each_name(member, visit);
            }
        }
        TargetKind::Geo(rules) => {
            for rule in rules {
                each_name(&rule.to, visit);
            }
        }
    }
}

/// Every pool that a target can lead to, by index.
pub(crate) fn pools_of<'a>(
    target: &'a Target,
    document: &'a Document,
    names: &Names<'a>,
) -> BTreeSet<usize> {
    let mut pools = BTreeSet::new();
    let mut services = BTreeSet::new();
    let mut open = vec![target];
    while let Some(target) = open.pop() {
        each_name(target, &mut |name| match names.get(name.value.as_str()) {
            Some(Definition::Pool(at)) => {
                pools.insert(at);
            }
            Some(Definition::Service(at)) if services.insert(at) => {
                open.push(&document.services.0[at].1);
            }
            _ => {}
        });
    }
    pools
}

/// Finds services that lead back to themselves.
fn cycles(document: &Document, names: &Names<'_>, found: &mut Vec<Diagnostic>) {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    struct Search<'a, 'b> {
        document: &'a Document,
        names: &'b Names<'a>,
        marks: Vec<Mark>,
        path: Vec<usize>,
        found: &'b mut Vec<Diagnostic>,
    }
    impl Search<'_, '_> {
        fn visit(&mut self, at: usize) {
            self.marks[at] = Mark::Open;
            self.path.push(at);
            let mut uses = Vec::new();
            each_name(&self.document.services.0[at].1, &mut |name| uses.push(name));
            for name in uses {
                let Some(Definition::Service(next)) = self.names.get(name.value.as_str()) else {
                    continue;
                };
                match self.marks[next] {
                    Mark::New => self.visit(next),
                    Mark::Open => self.report(next, name),
                    Mark::Done => {}
                }
            }
            self.path.pop();
            self.marks[at] = Mark::Done;
        }

        fn report(&mut self, first: usize, name: &At<Name>) {
            let start = self.path.iter().position(|at| *at == first).unwrap_or(0);
            let mut way: Vec<String> = self.path[start..]
                .iter()
                .map(|at| self.document.services.0[*at].0.to_string())
                .collect();
            way.push(name.to_string());
            self.found.push(Diagnostic::error(
                Code::Cycle,
                name.origin,
                format!("services go round in a circle: {}", way.join(" → ")),
            ));
        }
    }
    let mut search = Search {
        document,
        names,
        marks: vec![Mark::New; document.services.0.len()],
        path: Vec::new(),
        found,
    };
    for at in 0..document.services.0.len() {
        if search.marks[at] == Mark::New {
            search.visit(at);
        }
    }
}

/// Finds pools and services that no route leads to.
pub(crate) fn check_use(document: &Document, names: &Names<'_>, found: &mut Vec<Diagnostic>) {
    let mut used_pools = vec![false; document.pools.0.len()];
    let mut used_services = vec![false; document.services.0.len()];
    let of_routes = document.routes.iter().filter_map(|route| route.to.as_ref());
    let mut open: Vec<&Target> = of_routes.collect();
    while let Some(target) = open.pop() {
        each_name(target, &mut |name| match names.get(name.value.as_str()) {
            Some(Definition::Pool(at)) => used_pools[at] = true,
            Some(Definition::Service(at)) if !used_services[at] => {
                used_services[at] = true;
                open.push(&document.services.0[at].1);
            }
            _ => {}
        });
    }
    for name in authorizers(document) {
        if let Some(Definition::Pool(at)) = names.get(name.value.as_str()) {
            used_pools[at] = true;
        }
    }
    // A pool that only an unused service leads to is as good as named: the service says enough.
    let mut named = used_pools;
    for (_, target) in &document.services {
        each_name(target, &mut |name| {
            if let Some(Definition::Pool(at)) = names.get(name.value.as_str()) {
                named[at] = true;
            }
        });
    }
    for (at, (name, _)) in document.pools.iter().enumerate() {
        if !named[at] {
            found.push(Diagnostic::warning(
                Code::UnusedPool,
                name.origin,
                format!("no route leads to the pool `{name}`"),
            ));
        }
    }
    for (at, (name, _)) in document.services.iter().enumerate() {
        if !used_services[at] {
            found.push(Diagnostic::warning(
                Code::UnusedService,
                name.origin,
                format!("no route leads to the service `{name}`"),
            ));
        }
    }
}
