//! Who writes records in the DNS for us: a program, or whoever answers a webhook.

use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use portolan_config::plan::{DnsHookKind, DnsHookPlan};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::directory::{Client, RequestError, Schemes};

/// As much of a program's output is kept for the log.
const OUTPUT: u64 = 8 << 10;

/// A TXT record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name that is to be proved, without a star.
    pub name: String,
    /// The value.
    pub value: String,
}

impl Record {
    /// The record for a name, by the digest of the key authorization.
    pub fn new(name: &str, digest: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            value: base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(digest),
        }
    }

    /// The full name of the record.
    pub fn full_name(&self) -> String {
        format!("_acme-challenge.{}", self.name)
    }
}

/// What is done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is written.
    Present,
    /// It is taken away.
    Cleanup,
}

impl Action {
    /// As programs and webhooks get it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Cleanup => "cleanup",
        }
    }
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The program could not be started.
    #[error("cannot run `{program}`: {error}")]
    Start {
        /// Which.
        program: String,
        /// Why.
        error: std::io::Error,
    },
    /// The program did not end well.
    #[error("`{program}` ended with {status}{said}")]
    Ended {
        /// Which.
        program: String,
        /// How.
        status: std::process::ExitStatus,
        /// What it said, if it said anything.
        said: String,
    },
    /// It took too long.
    #[error("no answer from whoever writes records within {} s", .0.as_secs_f64())]
    TooSlow(Duration),
    /// The webhook cannot be asked.
    #[error("cannot ask the webhook: {0}")]
    Webhook(#[from] RequestError),
    /// The webhook refused.
    #[error("the webhook answered with {status}{said}")]
    Refused {
        /// Its status.
        status: u16,
        /// What it said, if it said anything.
        said: String,
    },
    /// The request for the webhook cannot be made.
    #[error("cannot ask the webhook: its URL or its token cannot be sent")]
    Request(#[from] http::Error),
}

/// Has a record written, or taken away.
///
/// # Errors
/// When it was not.
pub async fn perform(
    hook: &DnsHookPlan,
    action: Action,
    record: &Record,
) -> Result<(), RecordError> {
    match &hook.by {
        DnsHookKind::Exec(command) => run(command, hook.timeout, action, record).await,
        DnsHookKind::Webhook { url, token } => {
            let body = serde_json::json!({
                "action": action.as_str(),
                "name": record.name,
                "fqdn": record.full_name(),
                "value": record.value,
            });
            let mut request = Request::builder()
                .method(Method::POST)
                .uri(&**url)
                .header(CONTENT_TYPE, "application/json");
            if let Some(token) = token {
                let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                    .map_err(http::Error::from)?;
                bearer.set_sensitive(true);
                request = request.header(AUTHORIZATION, bearer);
            }
            let request = request.body(Full::new(Bytes::from(body.to_string())))?;
            let client = webhook_client(url)?;
            let answer = client.send(request, hook.timeout).await?;
            if answer.status().is_success() {
                return Ok(());
            }
            Err(RecordError::Refused {
                status: answer.status().as_u16(),
                said: said(answer.body()),
            })
        }
    }
}

/// A webhook without TLS needs nobody to trust.
fn webhook_client(url: &str) -> Result<Client, RequestError> {
    match Client::new(None, Schemes::Any) {
        Err(RequestError::NoRoots(_)) if url.starts_with("http://") => {
            Ok(Client::without_roots(Schemes::Any))
        }
        other => other,
    }
}

async fn run(
    command: &[String],
    patience: Duration,
    action: Action,
    record: &Record,
) -> Result<(), RecordError> {
    let program = command.first().cloned().unwrap_or_default();
    let name = record.full_name();
    let started = Command::new(&program)
        .args(command.iter().skip(1))
        .args([action.as_str(), &name, &record.value])
        .env("PORTOLAN_ACME_ACTION", action.as_str())
        .env("PORTOLAN_ACME_NAME", &record.name)
        .env("PORTOLAN_ACME_FQDN", &name)
        .env("PORTOLAN_ACME_VALUE", &record.value)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // One that takes too long is ended.
        .kill_on_drop(true)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return Err(RecordError::Start { program, error }),
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let running = async { tokio::join!(child.wait(), listen(out), listen(err)) };
    let Ok((status, out, err)) = tokio::time::timeout(patience, running).await else {
        return Err(RecordError::TooSlow(patience));
    };
    let said = said(&[out, err].concat());
    match status {
        Ok(status) if status.success() => {
            tracing::debug!("`{program}` {} {name}: done{said}", action.as_str());
            Ok(())
        }
        Ok(status) => Err(RecordError::Ended {
            program,
            status,
            said,
        }),
        Err(error) => Err(RecordError::Start { program, error }),
    }
}

/// The beginning of what somebody says; they may say more.
async fn listen(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut from) = from {
        let _ = (&mut from).take(OUTPUT).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    kept
}

/// As the end of a sentence, on one line.
fn said(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(OUTPUT as usize)];
    let text = String::from_utf8_lossy(bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(": {}", words.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portolan_config::decode::Secret;
    use portolan_config::scalar::FromScalar as _;

    fn hook(script: &str, timeout: Duration) -> DnsHookPlan {
        let command = ["/bin/sh", "-c", script, "hook"];
        DnsHookPlan {
            by: DnsHookKind::Exec(command.map(str::to_owned).to_vec()),
            timeout,
            wait: Duration::ZERO,
        }
    }

    fn record() -> Record {
        Record::new("example.com", &[0; 32])
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_program_gets_the_record_as_arguments_and_in_its_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("said");
        let script = format!(
            "echo \"$@\" $PORTOLAN_ACME_ACTION $PORTOLAN_ACME_NAME $PORTOLAN_ACME_FQDN \
             $PORTOLAN_ACME_VALUE > {}",
            path.display()
        );
        perform(&hook(&script, LONG), Action::Present, &record())
            .await
            .unwrap();
        let value = &record().value;
        assert_eq!(value.len(), 43);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!(
                "present _acme-challenge.example.com {value} present example.com \
                 _acme-challenge.example.com {value}\n"
            )
        );
    }

    #[tokio::test]
    async fn what_a_program_says_when_it_fails_is_told() {
        let failing = hook("echo no such zone >&2; exit 3", LONG);
        let error = perform(&failing, Action::Present, &record()).await;
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "`/bin/sh` ended with exit status: 3: no such zone");
        let nowhere = DnsHookPlan {
            by: DnsHookKind::Exec(vec!["/nowhere/hook".to_owned()]),
            ..failing
        };
        let error = perform(&nowhere, Action::Cleanup, &record()).await;
        assert!(error.unwrap_err().to_string().contains("/nowhere/hook"));
    }

    /// Answers one request, and gives back what was asked.
    async fn webhook(status: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        use tokio::io::AsyncWriteExt as _;
        let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/records", socket.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = socket.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"}") {
                assert!(stream.read_buf(&mut asked).await.unwrap() > 0);
            }
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 7\r\n\r\nno zone");
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        (url, asked)
    }

    #[tokio::test]
    async fn a_webhook_gets_the_record_as_json_and_says_by_its_status_whether_it_is_written() {
        let hook = |url: String| DnsHookPlan {
            by: DnsHookKind::Webhook {
                url: url.into(),
                token: Secret::parse("hunter2").ok(),
            },
            timeout: LONG,
            wait: Duration::ZERO,
        };
        let (url, asked) = webhook("200 OK").await;
        let written = perform(&hook(url), Action::Present, &record()).await;
        written.unwrap();
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /records HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.contains("authorization: Bearer hunter2\r\n"),
            "{asked}"
        );
        let body = asked.split("\r\n\r\n").nth(1).unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "action": "present",
                "name": "example.com",
                "fqdn": "_acme-challenge.example.com",
                "value": record().value,
            })
        );
        let (url, _) = webhook("500 Broken").await;
        let error = perform(&hook(url), Action::Present, &record()).await;
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "the webhook answered with 500: no zone");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_and_one_that_talks_a_lot_is_not_held_up() {
        let hanging = hook("exec sleep 600", Duration::from_millis(100));
        let error = perform(&hanging, Action::Present, &record()).await;
        assert!(matches!(error, Err(RecordError::TooSlow(_))));
        let talking = hook("yes | head -c 1000000", LONG);
        perform(&talking, Action::Present, &record()).await.unwrap();
    }
}
