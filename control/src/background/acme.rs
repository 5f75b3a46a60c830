//! Certificates that look after themselves: the hands of [`renewal`], which decides.
//!
//! One task owns what is known of every certificate. It sleeps until one of them wants to be woken,
//! and performs what comes out: orders and questions run beside it, and come back as events. A
//! certificate that was issued is in `state_dir` before anybody hears of it; then the listeners read
//! it like any other file.
//!
//! [`renewal`]: portolan_certs::acme::renewal

pub use crate::events::certificate::Said;
pub use crate::telemetry::managed_certificates::{Ledger, ManagedEntry};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portolan_certs::acme::directory::{Client, Schemes};
use portolan_certs::acme::error::OrderError;
use portolan_certs::acme::issued::Issued;
use portolan_certs::acme::order::Desk;
use portolan_certs::acme::renewal::{Effect, Level, Policy, Renewal, RenewalEvent};
use portolan_certs::acme::{Answers, Moment, storage};
use portolan_config::plan::{AcmeIssuerPlan, ManagedCertificate, Plan};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::events::event::Event;
use crate::reload::Reloader;
use crate::supervisor::caught;

/// Orders at the same time. Hundreds of names at a first start must not be hundreds of orders.
const AT_ONCE: usize = 8;

/// The longest sleep: the calendar may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(600);

/// How often it is looked whether another process is done with a certificate.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Looks after certificates.
#[derive(Debug)]
pub struct CertificateManager {
    desk: Arc<Desk>,
    reloader: Arc<Reloader>,
    clock: Clock,
    known: BTreeMap<ManagedCertificate, Known>,
    tasks: JoinSet<Done>,
    room: Arc<Semaphore>,
}

/// What is known of one certificate.
#[derive(Debug)]
struct Known {
    issuer: Arc<AcmeIssuerPlan>,
    renewal: Renewal,
    /// The one that is there.
    issued: Option<Issued>,
    /// Why there is no newer one.
    error: Option<String>,
}

/// A task that has ended.
#[derive(Debug)]
struct Done {
    certificate: ManagedCertificate,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// Ordered and kept.
    Issued(Issued),
    /// Another process was faster.
    Found(Issued),
    Failed {
        error: OrderError,
        not_before: Option<Moment>,
    },
    Advised {
        window: (Moment, Moment),
        again: Duration,
    },
    NotAdvised,
}

impl CertificateManager {
    /// One for what the reloader runs. `answers` are those that the data plane gives.
    pub fn new(reloader: Arc<Reloader>, answers: Arc<Answers>, clock: Clock) -> Self {
        let desk = Desk {
            storage: Default::default(),
            answers,
        };
        Self {
            desk: Arc::new(desk),
            reloader,
            clock,
            known: BTreeMap::new(),
            tasks: JoinSet::new(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Looks after them, until it is dropped or the process stops.
    pub async fn run(mut self) {
        let mut plans = self.reloader.plans();
        let plan = plans.borrow_and_update().clone();
        self.adopt(&plan).await;
        loop {
            let sleep = tokio::time::sleep(self.rest());
            tokio::select! {
                () = sleep => self.wake(),
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.done(done).await,
                    Err(error) => tracing::error!("an order broke off: {error}"),
                },
                changed = plans.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let plan = plans.borrow_and_update().clone();
                    self.adopt(&plan).await;
                }
            }
            self.tell_ledger();
        }
    }

    fn ledger(&self) -> &Ledger {
        &self.reloader.totals().acme
    }

    fn now(&self) -> Moment {
        Moment::after_1970(self.clock.wall())
    }

    /// How long nothing is due.
    fn rest(&self) -> Duration {
        let now = self.now();
        let wakes = self.known.values().filter_map(|known| {
            let wake = known.renewal.wake(&policy(&known.issuer))?;
            Some(wake.since(now))
        });
        // A little more, so that it really is due then.
        let rest = wakes.min().unwrap_or(LONGEST_SLEEP) + Duration::from_millis(1);
        rest.min(LONGEST_SLEEP)
    }

    /// Takes over a configuration: begins with what is new, forgets what is gone.
    async fn adopt(&mut self, plan: &Plan) {
        let mut before = std::mem::take(&mut self.known);
        for certificate in plan.managed() {
            let mut issuers = plan.acme.iter();
            let Some(issuer) = issuers.find(|issuer| issuer.name == certificate.issuer) else {
                continue;
            };
            let (known, event) = match before.remove(certificate) {
                Some(known) if known.issuer == *issuer => (known, RenewalEvent::Woken),
                Some(known) => {
                    let issuer = issuer.clone();
                    (Known { issuer, ..known }, RenewalEvent::Changed)
                }
                None => {
                    let issued = look(certificate).await;
                    let event = match &issued {
                        Some(issued) => RenewalEvent::Found(issued.validity),
                        None => RenewalEvent::Woken,
                    };
                    let known = Known {
                        issuer: issuer.clone(),
                        renewal: Renewal::default(),
                        issued,
                        error: None,
                    };
                    (known, event)
                }
            };
            self.known.insert(certificate.clone(), known);
            self.step(certificate, event);
        }
        self.tell_ledger();
    }

    fn wake(&mut self) {
        let all: Vec<ManagedCertificate> = self.known.keys().cloned().collect();
        for certificate in &all {
            self.step(certificate, RenewalEvent::Woken);
        }
    }

    async fn done(&mut self, done: Done) {
        let Done {
            certificate,
            outcome,
        } = done;
        let Some(known) = self.known.get_mut(&certificate) else {
            return;
        };
        let issuer = known.issuer.name.clone();
        let event = match outcome {
            Outcome::Issued(issued) => {
                let validity = issued.validity;
                known.issued = Some(issued);
                known.error = None;
                // In use before anybody hears of it.
                self.reloader.refresh_certificates().await;
                self.ledger().count(&issuer, "issued");
                self.reloader.emit(&Event::Certificate(Said::Issued {
                    certificate: certificate.clone(),
                    until: validity.until,
                    now: self.now(),
                }));
                RenewalEvent::Issued(validity)
            }
            Outcome::Found(issued) => {
                let validity = issued.validity;
                known.issued = Some(issued);
                known.error = None;
                self.reloader.refresh_certificates().await;
                tracing::info!("another process has a certificate for {certificate}: using it");
                RenewalEvent::Issued(validity)
            }
            Outcome::Failed { error, not_before } => {
                known.error = Some(error.to_string());
                self.ledger().count(&issuer, error.outcome());
                RenewalEvent::Failed { not_before }
            }
            Outcome::Advised { window, again } => RenewalEvent::Advised {
                window,
                again: self.now() + again,
            },
            Outcome::NotAdvised => RenewalEvent::NotAdvised,
        };
        self.step(&certificate, event);
    }

    /// One step of one certificate, and what comes of it.
    fn step(&mut self, certificate: &ManagedCertificate, event: RenewalEvent) {
        let now = self.now();
        let Some(known) = self.known.get_mut(certificate) else {
            return;
        };
        let policy = policy(&known.issuer);
        let renewal = std::mem::take(&mut known.renewal);
        let (renewal, effects) = renewal.step(&policy, event, now, fastrand::f64());
        known.renewal = renewal;
        let failed = matches!(event, RenewalEvent::Failed { .. });
        let louder = effects.iter().find_map(|effect| match effect {
            Effect::Tell(level) => Some(*level),
            _ => None,
        });
        if failed || louder.is_some() {
            let level = louder.unwrap_or_else(|| known.renewal.level(now));
            let said = said(certificate, known, level, now);
            self.reloader.emit(&Event::Certificate(said));
        }
        for effect in effects {
            match effect {
                Effect::Tell(_) => {}
                Effect::Order { replacing } => self.order(certificate, replacing),
                Effect::AskWhen => self.ask(certificate),
            }
        }
    }

    fn order(&mut self, certificate: &ManagedCertificate, replacing: bool) {
        let Some(known) = self.known.get(certificate) else {
            return;
        };
        let held = known.issued.clone();
        let issuer = known.issuer.clone();
        let certificate = certificate.clone();
        let (desk, room, clock) = (self.desk.clone(), self.room.clone(), self.clock);
        self.tasks.spawn(async move {
            let _room = room.acquire().await;
            let client = client(&issuer);
            let ordering = order(&desk, &issuer, &certificate, held, replacing, &client);
            // Whatever happens, somebody must say how it ended, or it is never tried again.
            let ordering = caught(ordering).await;
            let outcome = match ordering.unwrap_or(Err(OrderError::Own)) {
                Ok(outcome) => outcome,
                Err(error) => {
                    let now = Moment::after_1970(clock.wall());
                    let client = client.as_ref().ok();
                    let not_before = client.and_then(|client| client.left_alone_until(now));
                    Outcome::Failed { error, not_before }
                }
            };
            Done {
                certificate,
                outcome,
            }
        });
    }

    fn ask(&mut self, certificate: &ManagedCertificate) {
        let Some(known) = self.known.get(certificate) else {
            return;
        };
        let identifier = known.issued.as_ref().and_then(|it| it.identifier.clone());
        let issuer = known.issuer.clone();
        let certificate = certificate.clone();
        let (desk, room) = (self.desk.clone(), self.room.clone());
        self.tasks.spawn(async move {
            let _room = room.acquire().await;
            let advice = match (&identifier, client(&issuer)) {
                (Some(identifier), Ok(client)) => {
                    let asking = desk.ask_when(&issuer, identifier, &client);
                    let asked = caught(asking).await;
                    asked.unwrap_or(Err(OrderError::Own))
                }
                _ => Ok(None),
            };
            let outcome = match advice {
                Ok(Some((window, again))) => Outcome::Advised {
                    window: (window.from, window.until),
                    again,
                },
                Ok(None) => Outcome::NotAdvised,
                Err(error) => {
                    // Not worth a warning: without advice there is a time for it all the same.
                    tracing::info!("{} does not say when to renew: {error}", issuer.name);
                    Outcome::NotAdvised
                }
            };
            Done {
                certificate,
                outcome,
            }
        });
    }

    fn tell_ledger(&self) {
        let now = self.now();
        let entries = self.known.iter().map(|(certificate, known)| {
            let held = known.renewal.held();
            let next = known.renewal.order_at(&policy(&known.issuer));
            ManagedEntry {
                issuer: certificate.issuer.to_string(),
                names: certificate.names.to_vec(),
                state: match (held, known.renewal.failures()) {
                    (None, 0) => crate::telemetry::managed_certificates::PENDING.to_owned(),
                    _ => known.renewal.level(now).as_str().to_owned(),
                },
                not_after: held.map(|held| held.until.seconds()),
                serial: known.issued.as_ref().map(|issued| issued.serial.clone()),
                next_order: (!known.renewal.is_ordering()).then_some(next.max(now).seconds()),
                failures: known.renewal.failures(),
                error: known.error.clone(),
            }
        });
        self.ledger().replace(entries.collect());
    }
}

/// When and how often.
fn policy(issuer: &AcmeIssuerPlan) -> Policy {
    Policy {
        renew_after: issuer.renew_after,
        retry_min: issuer.retry_min,
        retry_max: issuer.retry_max,
    }
}

fn said(certificate: &ManagedCertificate, known: &Known, level: Level, now: Moment) -> Said {
    let next = known.renewal.order_at(&policy(&known.issuer));
    Said::NotIssued {
        certificate: certificate.clone(),
        level,
        error: known.error.clone(),
        until: known.renewal.held().map(|held| held.until),
        again: next.since(now),
        now,
    }
}

fn client(issuer: &AcmeIssuerPlan) -> Result<Client, OrderError> {
    let ca = issuer.ca.as_ref().map(|ca| ca.value.as_path());
    Ok(Client::new(ca, Schemes::Https)?)
}

/// The certificate in `state_dir`.
async fn look(certificate: &ManagedCertificate) -> Option<Issued> {
    let certificate = certificate.clone();
    let looking = tokio::task::spawn_blocking(move || storage::load(&certificate));
    looking.await.ok().flatten()
}

/// Orders a certificate, unless another process has done so, or is at it.
async fn order(
    desk: &Desk,
    issuer: &AcmeIssuerPlan,
    certificate: &ManagedCertificate,
    held: Option<Issued>,
    replacing: bool,
    client: &Result<Client, OrderError>,
) -> Result<Outcome, OrderError> {
    let mut waited = Duration::ZERO;
    let _turn = loop {
        let turn = storage::try_turn(certificate).map_err(|error| OrderError::Storage {
            path: certificate.folder.clone(),
            error,
        })?;
        if let Some(there) = look(certificate).await {
            let newer = held
                .as_ref()
                .is_none_or(|held| there.validity.until > held.validity.until);
            if newer {
                return Ok(Outcome::Found(there));
            }
        }
        if let Some(turn) = turn {
            break turn;
        }
        if waited >= issuer.timeout {
            return Err(OrderError::TooSlow(issuer.timeout));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        waited += LOOK_AGAIN;
    };
    let client = match client {
        Ok(client) => client,
        Err(error) => return Err(OrderError::Unprepared(error.to_string())),
    };
    let replaces = held.filter(|_| replacing).and_then(|held| held.identifier);
    let ordering = desk.order(issuer, certificate, replaces.as_ref(), client);
    ordering.await.map(Outcome::Issued)
}
