//! What is said about certificates that look after themselves, to whoever asks for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portolan_certs::acme::error::OrderError;
use portolan_certs::acme::renewal::Level;
use portolan_config::names::Name;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A certificate that is asked of an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ManagedEntry {
    /// Of which.
    pub issuer: String,
    /// For these names.
    pub names: Vec<String>,
    /// `pending` (the first is being ordered), `fine`, or how bad it is that there is no newer one:
    /// `failing`, `urgent` or `expired`.
    pub state: String,
    /// Until when the one that is there is valid, in seconds since 1970.
    pub not_after: Option<u64>,
    /// The serial number of the one that is there, in hexadecimal.
    pub serial: Option<String>,
    /// When the next one is ordered, in seconds since 1970. Nothing while it is being ordered.
    pub next_order: Option<u64>,
    /// Orders that failed since the last that did not.
    pub failures: u32,
    /// Why the last one failed.
    pub error: Option<String>,
}

/// The state of a certificate whose first order has not ended.
pub(crate) const PENDING: &str = "pending";

/// Every state that a certificate can be in.
const STATES: [&str; 5] = [
    PENDING,
    Level::Fine.as_str(),
    Level::Failing.as_str(),
    Level::Urgent.as_str(),
    Level::Expired.as_str(),
];

/// The state of every certificate, and what became of orders.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    entries: Arc<[ManagedEntry]>,
    orders: BTreeMap<(Name, &'static str), u64>,
}

impl Ledger {
    /// Every certificate.
    pub fn entries(&self) -> Arc<[ManagedEntry]> {
        self.pages().entries.clone()
    }

    /// Orders by issuer and outcome.
    pub fn orders(&self) -> Vec<([String; 2], u64)> {
        let pages = self.pages();
        let orders = pages.orders.iter();
        orders
            .map(|((issuer, outcome), n)| ([issuer.to_string(), (*outcome).to_owned()], *n))
            .collect()
    }

    /// Certificates by issuer and state.
    pub fn states(&self) -> Vec<([String; 2], f64)> {
        let mut states: BTreeMap<[String; 2], f64> = BTreeMap::new();
        for entry in &*self.entries() {
            for state in STATES {
                let key = [entry.issuer.clone(), state.to_owned()];
                let n = states.entry(key).or_default();
                if entry.state == state {
                    *n += 1.0;
                }
            }
        }
        states.into_iter().collect()
    }

    /// An order has ended.
    pub(crate) fn count(&self, issuer: &Name, outcome: &'static str) {
        let mut pages = self.pages();
        for known in OrderError::OUTCOMES {
            pages.orders.entry((issuer.clone(), known)).or_default();
        }
        *pages.orders.entry((issuer.clone(), outcome)).or_default() += 1;
    }

    pub(crate) fn replace(&self, entries: Arc<[ManagedEntry]>) {
        self.pages().entries = entries;
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::scalar::FromScalar as _;

    #[test]
    fn orders_and_states_are_counted() {
        let ledger = Ledger::default();
        let issuer = Name::parse("one").unwrap();
        ledger.count(&issuer, "issued");
        ledger.count(&issuer, "refused");
        ledger.count(&issuer, "refused");
        let orders = ledger.orders();
        assert_eq!(orders.len(), OrderError::OUTCOMES.len());
        let of = |outcome: &str| orders.iter().find(|(key, _)| key[1] == outcome).unwrap().1;
        assert_eq!((of("issued"), of("refused"), of("unusable")), (1, 2, 0));
        let entry = |state: Level| ManagedEntry {
            issuer: "one".to_owned(),
            names: Vec::new(),
            state: state.as_str().to_owned(),
            not_after: None,
            serial: None,
            next_order: None,
            failures: 0,
            error: None,
        };
        ledger.replace([entry(Level::Fine), entry(Level::Urgent), entry(Level::Fine)].into());
        let counts: Vec<(String, f64)> = ledger
            .states()
            .into_iter()
            .map(|(key, n)| (key[1].clone(), n))
            .collect();
        let wanted = [
            ("expired", 0.0),
            ("failing", 0.0),
            ("fine", 2.0),
            ("pending", 0.0),
            ("urgent", 1.0),
        ];
        assert_eq!(counts, wanted.map(|(state, n)| (state.to_owned(), n)));
    }
}
