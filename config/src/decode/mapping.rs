//! Mappings with fixed keys.

use crate::decode::omitted::Omitted;
use crate::decode::reader::{Decode, Reader};
use crate::diagnostic::{Code, Diagnostic, quoted_list};
use crate::node::{Entry, Node, Value};
use crate::source::Origin;

/// A key that the contract names but this version cannot do yet.
#[derive(Clone, Copy, Debug)]
pub struct NotYet {
    /// The key.
    pub key: &'static str,
    /// The one value that says "without it", which is the truth already.
    pub unless: Option<&'static str>,
}

/// A key that had another name, which is still taken.
#[derive(Clone, Copy, Debug)]
pub struct Renamed {
    /// What it was called.
    pub old: &'static str,
    /// What it is called now.
    pub new: &'static str,
}

/// A mapping being read key by key.
#[derive(Debug)]
pub struct Fields<'a> {
    entries: &'a [Entry],
    origin: Origin,
    what: &'static str,
    /// Which of the entries were taken, and how many were not.
    taken: Marks,
    left: usize,
    /// What it inherits, among all that is inherited.
    legacy: Option<usize>,
    /// Keys that had other names.
    renamed: &'static [Renamed],
}

/// A mark for some of many things, without a list as long as there are few.
#[derive(Debug, Default)]
struct Marks {
    first: u64,
    others: std::collections::BTreeSet<usize>,
}

impl Marks {
    fn set(&mut self, at: usize) {
        match at {
            0..64 => self.first |= 1 << at,
            _ => {
                self.others.insert(at);
            }
        }
    }

    fn has(&self, at: usize) -> bool {
        match at {
            0..64 => self.first & (1 << at) != 0,
            _ => self.others.contains(&at),
        }
    }
}

impl<'a> Fields<'a> {
    /// Begins with a mapping; anything else is reported.
    pub fn open(
        node: &'a Node,
        what: &'static str,
        renamed: &'static [Renamed],
        reader: &mut Reader,
    ) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            reader.wrong_type(node, "a mapping");
            return None;
        };
        let legacy = reader.legacies.of(what);
        Some(Self {
            entries,
            origin: node.origin,
            what,
            taken: Marks::default(),
            left: entries.len(),
            legacy,
            renamed,
        })
    }

    /// Reads what stands under `key`, or what is inherited or its default, or complains that it is
    /// missing.
    pub fn take<T: Decode + Clone + 'static>(
        &mut self,
        key: &'static str,
        omitted: &Omitted<T>,
        reader: &mut Reader,
    ) -> Option<T> {
        if let Some(at) = self.find(key).or_else(|| self.find_renamed(key, reader)) {
            let entry = &self.entries[at];
            if let Value::Null = entry.value.value {
                reader.nothing_given::<T>(&entry.key, omitted.text);
                return None;
            }
            return T::decode(&entry.value, reader);
        } else if let Some(legacy) = self.legacy
            && let Some(inherited) = reader.inherited(legacy, key)
        {
            return inherited;
        }
        if omitted.text.is_some() {
            return omitted.default();
        }
        let absent = T::absent();
        if absent.is_none() {
            reader.report(Diagnostic::error(
                Code::MissingKey,
                self.origin,
                format!("{} needs `{key}`", self.what),
            ));
        }
        absent
    }

    /// Which entry has this key: the first, which is then taken.
    fn find(&mut self, key: &str) -> Option<usize> {
        if self.left == 0 {
            return None;
        }
        let at = self.entries.iter().position(|e| e.key.value == key)?;
        self.left -= 1;
        self.taken.set(at);
        Some(at)
    }

    /// Which entry has a name that this key once had: that is said.
    fn find_renamed(&mut self, key: &str, reader: &mut Reader) -> Option<usize> {
        let renamed = self.renamed.iter().find(|renamed| renamed.new == key)?;
        let at = self.find(renamed.old)?;
        reader.report(
            Diagnostic::warning(
                Code::RenamedKey,
                self.entries[at].key.origin,
                format!("`{}` is called `{key}` now", renamed.old),
            )
            .help(format!("write `{key}`: the old name still means the same")),
        );
        Some(at)
    }

    /// Complains about every key that nobody took.
    pub fn close(self, keys: &[&'static str], not_yet: &[NotYet], reader: &mut Reader) {
        if self.left == 0 {
            return;
        }
        for (at, entry) in self.entries.iter().enumerate() {
            if self.taken.has(at) {
                continue;
            }
            let key = entry.key.value.as_str();
            if let Some(later) = not_yet.iter().find(|later| later.key == key) {
                let off = later.unless.is_some_and(
                    |off| matches!(&entry.value.value, Value::Scalar(s) if s.text == off),
                );
                if !off {
                    reader.report(not_available_yet(entry.key.origin, key));
                }
                continue;
            }
            let known = || {
                keys.iter()
                    .copied()
                    .chain(not_yet.iter().map(|later| later.key))
            };
            let mut diagnostic = Diagnostic::error(
                Code::UnknownKey,
                entry.key.origin,
                format!("{} has no key `{key}`", self.what),
            )
            .suggest(key, known());
            if diagnostic.help.is_none() {
                diagnostic =
                    diagnostic.help(format!("it can have {}", quoted_list(keys.iter().copied())));
            }
            reader.report(diagnostic);
        }
    }
}

/// The refusal of something that the contract names but this version cannot do.
pub fn not_available_yet(origin: Origin, what: &str) -> Diagnostic {
    Diagnostic::error(
        Code::NotAvailableYet,
        origin,
        format!("`{what}` is not available yet"),
    )
    .help("this version of Portolan refuses what it would otherwise ignore: leave it out")
}
