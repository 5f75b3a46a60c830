//! `portolan upgrade`: a new process takes over from the running one.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use portolan_control::api::status::Status;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::cli::UpgradeArgs;
use crate::client::Instance;
use crate::upgrade::{Question, UpgradeAnswer};
use crate::{exit, output};

/// What the running instance may take beside the new process's patience.
const BESIDE: Duration = Duration::from_secs(30);

pub(super) fn run(args: &UpgradeArgs) -> anyhow::Result<ExitCode> {
    crate::commands::runtime::block_on(async {
        let status: Status = Instance::new(&args.instance)?.get("/status").await?;
        let Some(socket) = &status.upgrade_socket else {
            bail!(
                "process {} cannot be upgraded: it has no socket for it, because its `state_dir` \
                 cannot be written or it is a demo",
                status.pid
            );
        };
        let binary = match &args.binary {
            Some(binary) => Some(std::path::absolute(binary).context("--binary")?),
            None => None,
        };
        let question = Question {
            pid: status.pid,
            binary,
            patience_ms: u64::try_from(args.timeout.duration().as_millis())?,
        };
        let answer = ask(
            &PathBuf::from(socket),
            &question,
            args.timeout.duration() + BESIDE,
        )
        .await?;
        if args.instance.format.is_json() {
            output::json(&serde_json::to_value(&answer)?);
        }
        Ok(match answer {
            UpgradeAnswer::Done {
                pid,
                version,
                before,
            } => {
                if !args.instance.format.is_json() {
                    output::result(&format!(
                        "process {pid} (portolan {version}) has taken over; process {before} lets \
                         its clients finish"
                    ));
                }
                exit::DONE
            }
            UpgradeAnswer::Failed { error } => {
                if !args.instance.format.is_json() {
                    output::note(&format!(
                        "portolan: not upgraded, process {} goes on: {error}",
                        status.pid
                    ));
                }
                exit::FAILED
            }
        })
    })
}

async fn ask(socket: &Path, question: &Question, limit: Duration) -> anyhow::Result<UpgradeAnswer> {
    let client = UnixStream::connect(socket).await;
    let client = client.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => {
            anyhow!("only root and the user that Portolan runs as may upgrade it")
        }
        _ => anyhow!(error).context(format!(
            "cannot reach {}: an instance is upgraded on the machine it runs on",
            socket.display()
        )),
    })?;
    let asking = async {
        let mut client = BufReader::new(client);
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        client.write_all(&line).await?;
        let mut answer = String::new();
        client.read_line(&mut answer).await?;
        if answer.is_empty() {
            bail!("the instance ended without an answer");
        }
        anyhow::Ok(serde_json::from_str(&answer)?)
    };
    match tokio::time::timeout(limit, asking).await {
        Ok(answer) => answer,
        Err(_) => bail!("the instance does not answer"),
    }
}
