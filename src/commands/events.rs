//! `portolan events`: what happened, and what happens.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use portolan_control::events::journal::Entry;
use serde_json::Value;

use crate::cli::EventsArgs;
use crate::client::Instance;
use crate::commands::instance::moment;
use crate::{exit, output};

/// How often an instance that has gone away is looked for, and how long in between: another process
/// may be about to take over.
const TRIES: u32 = 20;
const BETWEEN: Duration = Duration::from_millis(250);

/// What stands for no more than a line of text in a stream. A longer line is not ours.
const LONGEST_LINE: usize = 1 << 20;

pub(super) fn run(args: &EventsArgs) -> anyhow::Result<ExitCode> {
    let json = args.instance.format.is_json();
    crate::commands::runtime::block_on(async {
        if args.follow {
            return follow(args, json).await;
        }
        let instance = Instance::new(&args.instance)?;
        if json {
            output::json(&instance.get::<Value>("/events").await?);
        } else {
            for entry in instance.get::<Vec<Entry>>("/events").await? {
                output::result(&words(&entry));
            }
        }
        Ok(exit::DONE)
    })
}

/// Prints what comes, line by line, until there is nobody any more who tells.
async fn follow(args: &EventsArgs, json: bool) -> anyhow::Result<ExitCode> {
    let mut seen: Option<u64> = None;
    let mut tries = 0;
    loop {
        let instance = Instance::following(&args.instance)?;
        let last = seen.map(|id| id.to_string());
        match instance.events(last.as_deref()).await {
            Ok(mut response) => {
                tries = 0;
                let mut reader = EventReader::default();
                // An instance that stops, or hands over, ends the stream.
                while let Ok(Some(bytes)) = response.chunk().await {
                    for told in reader.read(&bytes)? {
                        print(&told, json)?;
                        seen = told.id.or(seen);
                    }
                }
            }
            Err(error) if seen.is_none() && tries == 0 => return Err(error),
            Err(error) if tries >= TRIES => return Err(error),
            Err(_) => {}
        }
        tries += 1;
        tokio::time::sleep(BETWEEN).await;
    }
}

fn print(told: &EventOutput, json: bool) -> anyhow::Result<()> {
    let unreadable = || format!("the event cannot be read: {}", told.data);
    if told.event == "missed" {
        let value: Value = serde_json::from_str(&told.data).with_context(unreadable)?;
        match value["missed"].as_u64() {
            Some(count) => output::note(&format!("portolan: {count} events were missed")),
            None => output::note("portolan: events of another process may have been missed"),
        }
        return Ok(());
    }
    if json {
        output::result(&told.data);
    } else {
        let entry: Entry = serde_json::from_str(&told.data).with_context(unreadable)?;
        output::result(&words(&entry));
    }
    Ok(())
}

fn words(entry: &Entry) -> String {
    // A reason that the sentence does not give.
    let reason = entry.reason.as_deref();
    let reason = reason.filter(|reason| !entry.message.contains(reason));
    let reason = reason
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let at = moment(entry.at);
    format!("{at}  {:<18}  {}{reason}", entry.kind, entry.message)
}

/// One event of the stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct EventOutput {
    id: Option<u64>,
    event: String,
    data: String,
}

/// Takes server-sent events apart, however they are cut into pieces.
#[derive(Debug, Default)]
struct EventReader {
    rest: Vec<u8>,
    told: EventOutput,
}

impl EventReader {
    fn read(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<EventOutput>> {
        let mut all = Vec::new();
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            if line.is_empty() {
                let told = std::mem::take(&mut self.told);
                if !told.data.is_empty() {
                    all.push(told);
                }
                continue;
            }
            // A line that begins with a colon is there to keep the connection alive.
            match line.split_once(": ") {
                Some(("id", id)) => self.told.id = id.parse().ok(),
                Some(("event", event)) => event.clone_into(&mut self.told.event),
                Some(("data", data)) => data.clone_into(&mut self.told.data),
                _ => {}
            }
        }
        if self.rest.len() > LONGEST_LINE {
            bail!("what answers there does not tell events");
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = ": still here\n\nid: 7\nevent: pool_down\ndata: {\"a\": \"b: c\"}\n\nevent: missed\ndata: {}\n\n";
        let expected = [
            EventOutput {
                id: Some(7),
                event: "pool_down".to_owned(),
                data: "{\"a\": \"b: c\"}".to_owned(),
            },
            EventOutput {
                id: None,
                event: "missed".to_owned(),
                data: "{}".to_owned(),
            },
        ];
        for size in 1..text.len() {
            let mut reader = EventReader::default();
            let mut told = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                told.extend(reader.read(piece).unwrap());
            }
            assert_eq!(told, expected, "{size}");
        }
        let long = vec![b'x'; LONGEST_LINE + 1];
        assert!(EventReader::default().read(&long).is_err());
    }
}
