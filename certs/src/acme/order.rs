//! One order: account → order → challenges answered → a new key → a chain, checked and kept.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Identifier, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use portolan_config::document::KeyKind;
use portolan_config::plan::{AcmeIssuerPlan, ChallengePlan, DnsHookPlan, ManagedCertificate};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::answers::{Answers, Presented};
use super::directory::Client;
use super::issued::Issued;
use super::moment::Moment;
use super::records::{Action, Record};
use super::renewal::Validity;
use super::storage::Storage;
use super::{account, records, storage};
use crate::acme::error::OrderError;

/// The first wait until an authority is asked whether it has looked; it grows.
const POLL: Duration = Duration::from_millis(250);
const POLL_GROWTH: f32 = 1.5;

/// What an order needs.
#[derive(Debug)]
pub struct Desk {
    /// Where accounts and certificates are kept.
    pub storage: Storage,
    /// What is answered to authorities.
    pub answers: Arc<Answers>,
}

impl Desk {
    /// Orders a certificate and keeps it.
    ///
    /// # Errors
    /// When there is none. What was there before is still there.
    pub async fn order(
        &self,
        issuer: &AcmeIssuerPlan,
        certificate: &ManagedCertificate,
        replaces: Option<&CertificateIdentifier<'static>>,
        client: &Client,
    ) -> Result<Issued, OrderError> {
        let names = &certificate.names;
        let mut given = Given::new(issuer);
        let ordering = self.converse(issuer, names, replaces, client, &mut given);
        let ordered = tokio::time::timeout(issuer.timeout, ordering).await;
        // Whatever came of it.
        given.take_back().await;
        let pem = ordered.unwrap_or(Err(OrderError::TooSlow(issuer.timeout)))?;
        let issued = Issued::parse(pem.as_bytes())?;
        issued.check_names(names)?;
        let kept = certificate.clone();
        let saving = tokio::task::spawn_blocking(move || storage::save(&kept, &pem));
        let saved = saving.await.map_err(std::io::Error::other);
        saved.flatten().map_err(|error| OrderError::Storage {
            path: storage::certificate_file(certificate),
            error,
        })?;
        Ok(issued)
    }

    /// When the authority would like a certificate to be renewed: from when until when, and how long
    /// until it wants to be asked again. Nothing if it does not say.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn ask_when(
        &self,
        issuer: &AcmeIssuerPlan,
        certificate: &CertificateIdentifier<'static>,
        client: &Client,
    ) -> Result<Option<(Validity, Duration)>, OrderError> {
        let Some(account) = account::existing(issuer, client).await? else {
            return Ok(None);
        };
        let (info, again) = match account.renewal_info(certificate).await {
            Ok(info) => info,
            Err(instant_acme::Error::Unsupported(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let window = Validity {
            from: Moment::from_seconds(info.suggested_window.start.unix_timestamp()),
            until: Moment::from_seconds(info.suggested_window.end.unix_timestamp()),
        };
        // A window that ends before it begins is nobody's advice (RFC 9773, section 4.2).
        Ok((window.from < window.until).then_some((window, again)))
    }

    /// From the account to the key and the chain, in one PEM text.
    async fn converse(
        &self,
        issuer: &AcmeIssuerPlan,
        names: &[String],
        replaces: Option<&CertificateIdentifier<'static>>,
        client: &Client,
        given: &mut Given,
    ) -> Result<String, OrderError> {
        let mut order = match self.begin(issuer, names, replaces, client).await {
            Err(error) if error.no_account() => {
                tracing::warn!(
                    "{} does not know our account any more: making a new one",
                    issuer.name
                );
                let forgotten = storage::forget_account(issuer);
                forgotten.map_err(|error| OrderError::Storage {
                    path: storage::account_file(issuer),
                    error,
                })?;
                self.begin(issuer, names, replaces, client).await?
            }
            begun => begun?,
        };
        if self.answer(&mut order, issuer, given).await? > 0 {
            if let ChallengePlan::Dns01(hook) = &issuer.challenge {
                tokio::time::sleep(hook.wait).await;
            }
            invite(&mut order, issuer).await?;
        }
        let polling = RetryPolicy::new()
            .initial_delay(POLL)
            .backoff(POLL_GROWTH)
            .timeout(issuer.timeout);
        match order.poll_ready(&polling).await {
            Ok(OrderStatus::Invalid) => return Err(unconvinced(&mut order, None).await),
            Err(error @ instant_acme::Error::Api(_)) => {
                return Err(unconvinced(&mut order, Some(error)).await);
            }
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let key = KeyPair::generate_for(match issuer.key {
            KeyKind::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        })?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?;
        order.finalize_csr(request.der()).await?;
        let chain = order.poll_certificate(&polling).await?;
        Ok(key.serialize_pem() + &chain)
    }

    async fn begin(
        &self,
        issuer: &AcmeIssuerPlan,
        names: &[String],
        replaces: Option<&CertificateIdentifier<'static>>,
        client: &Client,
    ) -> Result<Order, OrderError> {
        let account: Account = account::open(issuer, &self.storage, client).await?;
        let identifiers: Vec<Identifier> = names.iter().cloned().map(Identifier::Dns).collect();
        let mut new = NewOrder::new(&identifiers);
        if let Some(replaces) = replaces {
            new = new.replaces(replaces.clone());
        }
        match account.new_order(&new).await {
            // One that has no use for it is asked without.
            Err(instant_acme::Error::Unsupported(_)) => {
                Ok(account.new_order(&NewOrder::new(&identifiers)).await?)
            }
            order => Ok(order?),
        }
    }

    /// Gets every answer ready that the authority still wants. How many.
    async fn answer(
        &self,
        order: &mut Order,
        issuer: &AcmeIssuerPlan,
        given: &mut Given,
    ) -> Result<usize, OrderError> {
        let mut wanted = 0;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = bare_name(&authorization.identifier().to_string());
            let challenge = authorization
                .challenge(challenge_type(issuer))
                .ok_or_else(|| OrderError::NotOffered {
                    kind: issuer.challenge.kind().as_str(),
                    name: name.clone(),
                })?;
            wanted += 1;
            let proof = challenge.key_authorization();
            match &issuer.challenge {
                ChallengePlan::Http01 => {
                    let presented = self.answers.present_http(&challenge.token, proof.as_str());
                    given.answers.push(presented);
                }
                ChallengePlan::TlsAlpn01 => {
                    let presented = self.answers.present_tls(&name, proof.digest().as_ref());
                    given
                        .answers
                        .push(presented.map_err(|error| OrderError::Answer { name, error })?);
                }
                ChallengePlan::Dns01(hook) => {
                    let record = Record::new(&name, proof.digest().as_ref());
                    // Before it is written: half of it may be when that fails.
                    given.records.push(record.clone());
                    let written = records::perform(hook, Action::Present, &record).await;
                    written.map_err(|error| OrderError::Record { name, error })?;
                }
            }
        }
        Ok(wanted)
    }
}

/// Tells the authority that it can look.
async fn invite(order: &mut Order, issuer: &AcmeIssuerPlan) -> Result<(), OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        if let Some(mut challenge) = authorization.challenge(challenge_type(issuer)) {
            challenge.set_ready().await?;
        }
    }
    Ok(())
}

/// What the authority says about the names it was not convinced of; if there are none, what it said.
async fn unconvinced(order: &mut Order, said: Option<instant_acme::Error>) -> OrderError {
    let mut words = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        for error in state.challenges.iter().filter_map(|one| one.error.as_ref()) {
            let detail = error.detail.as_deref().unwrap_or("no reason given");
            words.push(format!("{name}: {detail}"));
        }
    }
    match (words.is_empty(), said) {
        (false, _) => OrderError::Unconvinced(format!(
            "the authority was not convinced: {}",
            words.join("; ")
        )),
        (true, Some(error)) => error.into(),
        (true, None) => OrderError::Unconvinced(
            "the authority was not convinced, and does not say why".to_owned(),
        ),
    }
}

fn challenge_type(issuer: &AcmeIssuerPlan) -> ChallengeType {
    match issuer.challenge {
        ChallengePlan::Http01 => ChallengeType::Http01,
        ChallengePlan::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengePlan::Dns01(_) => ChallengeType::Dns01,
    }
}

/// A wildcard is proved by what is below its star.
fn bare_name(name: &str) -> String {
    name.strip_prefix("*.").unwrap_or(name).to_owned()
}

/// What was got ready for an authority, to be taken back.
struct Given {
    hook: Option<DnsHookPlan>,
    /// They are taken back when they are dropped.
    answers: Vec<Presented>,
    records: Vec<Record>,
}

impl Given {
    fn new(issuer: &AcmeIssuerPlan) -> Self {
        let hook = match &issuer.challenge {
            ChallengePlan::Dns01(hook) => Some(hook.clone()),
            _ => None,
        };
        Self {
            hook,
            answers: Vec::new(),
            records: Vec::new(),
        }
    }

    async fn take_back(self) {
        drop(self.answers);
        let Some(hook) = self.hook else {
            return;
        };
        for record in &self.records {
            if let Err(error) = records::perform(&hook, Action::Cleanup, record).await {
                // The order may have ended well all the same.
                tracing::warn!(
                    "the record {} was not taken away: {error}",
                    record.full_name()
                );
            }
        }
    }
}
