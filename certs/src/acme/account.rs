//! The account at an authority: made once, found again after a restart.

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, NewAccount};
use portolan_config::plan::AcmeIssuerPlan;
use serde::{Deserialize, Serialize};

use super::directory::Client;
use super::storage;
use super::storage::Storage;
use crate::acme::error::OrderError;

/// The account as it is kept.
#[derive(Serialize, Deserialize)]
struct StoredAccount {
    /// Whom the authority may write to, as it was told.
    contact: Vec<String>,
    /// The account and its key.
    credentials: AccountCredentials,
}

/// The account at this authority; made if there is none yet.
///
/// # Errors
/// When the authority does not answer or refuses, or the account cannot be kept.
pub async fn open(
    issuer: &AcmeIssuerPlan,
    storage: &Storage,
    client: &Client,
) -> Result<Account, OrderError> {
    // Two certificates at once must not make two accounts.
    let _alone = storage.account_lock(issuer).lock_owned().await;
    let contact: Vec<String> = issuer
        .email
        .iter()
        .map(|mail| format!("mailto:{mail}"))
        .collect();
    let contact_text: Vec<&str> = contact.iter().map(String::as_str).collect();
    match read(issuer)? {
        Some(kept) => {
            let told = kept.contact;
            let account = restore(client, kept.credentials).await?;
            if told != contact {
                account.update_contacts(&contact_text).await?;
                // The credentials cannot be copied: they are read once more.
                if let Some(mut kept) = read(issuer)? {
                    kept.contact = contact;
                    write(issuer, &kept)?;
                }
            }
            Ok(account)
        }
        None => {
            let external = issuer.external_account.as_ref().map(external_key);
            let new = NewAccount {
                contact: &contact_text,
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let builder = Account::builder_with_http(Box::new(client.clone()));
            let directory = issuer.directory.to_string();
            let (account, credentials) = builder
                .create(&new, directory, external.transpose()?.as_ref())
                .await?;
            let kept = StoredAccount {
                contact,
                credentials,
            };
            write(issuer, &kept)?;
            tracing::info!(
                "account {} made at {} ({})",
                account.id(),
                issuer.name,
                issuer.directory
            );
            Ok(account)
        }
    }
}

/// The account at this authority, if there is one already.
///
/// # Errors
/// When the authority does not answer, or the file cannot be read.
pub async fn existing(
    issuer: &AcmeIssuerPlan,
    client: &Client,
) -> Result<Option<Account>, OrderError> {
    match read(issuer)? {
        Some(kept) => restore(client, kept.credentials).await.map(Some),
        None => Ok(None),
    }
}

async fn restore(client: &Client, credentials: AccountCredentials) -> Result<Account, OrderError> {
    let builder = Account::builder_with_http(Box::new(client.clone()));
    Ok(builder.from_credentials(credentials).await?)
}

fn external_key(
    account: &portolan_config::plan::ExternalAccountPlan,
) -> Result<ExternalAccountKey, OrderError> {
    use base64::Engine as _;
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    // Some give it out in the other alphabet.
    let text = account
        .hmac_key
        .expose()
        .replace('+', "-")
        .replace('/', "_");
    let key = engine.decode(text).map_err(|_| OrderError::ExternalKey)?;
    Ok(ExternalAccountKey::new(account.key_id.to_string(), &key))
}

fn read(issuer: &AcmeIssuerPlan) -> Result<Option<StoredAccount>, OrderError> {
    let path = storage::account_file(issuer);
    match std::fs::read(&path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(kept) => Ok(Some(kept)),
            // The reader's own words would hold what it has found: there is a key in it.
            Err(error) => Err(OrderError::Storage {
                path,
                error: std::io::Error::other(crate::shown::no_json(&error)),
            }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OrderError::Storage { path, error }),
    }
}

fn write(issuer: &AcmeIssuerPlan, kept: &StoredAccount) -> Result<(), OrderError> {
    let failed = |error| OrderError::Storage {
        path: storage::account_file(issuer),
        error,
    };
    let text = serde_json::to_vec_pretty(kept).map_err(|error| failed(error.into()))?;
    storage::save_account(issuer, &text).map_err(failed)
}
