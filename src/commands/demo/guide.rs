//! What to try while the demo runs.

use std::net::SocketAddr;
use std::path::Path;

use crate::assemble::Serving;
use crate::machine;

/// An address in Germany, as the built-in geo database knows it.
const GERMAN: &str = "85.214.132.117";

/// The guide, with the addresses as they really are.
pub(super) fn text(config: &Path, serving: &Serving, switchboard: SocketAddr) -> String {
    let Some(proxy) = serving.listeners.first() else {
        return String::new();
    };
    let admin = serving.admin;
    let command = machine::command();
    let config = config.display();
    format!(
        "\
Portolan serves on http://{proxy}, its admin API on http://{admin}. Try, in another terminal:

  Ask once, and look at who answered and why
    curl -i http://{proxy}/

  Ask a hundred times: about 70 answers come from AWS, 30 from GCP
    for i in $(seq 100); do curl -s http://{proxy}/; done | cut -d, -f1 | sort | uniq -c

  Ask as somebody in Germany: Azure in the Netherlands answers
    curl -s -H 'X-Forwarded-For: {GERMAN}' http://{proxy}/
    {command} explain --admin http://{admin} --client-ip {GERMAN} http://demo.example/

  Kill a cloud, see its traffic go elsewhere, and bring it back
    curl -X POST http://{switchboard}/aws-virginia/kill
    {command} pools --admin http://{admin}
    curl -X POST http://{switchboard}/aws-virginia/revive

  Break or slow down one endpoint only
    curl -X POST http://{switchboard}/gcp-iowa/1/fail
    curl -X POST 'http://{switchboard}/gcp-iowa/2/slow?ms=250'
    curl -X POST http://{switchboard}/gcp-iowa/revive

  Edit the weights and save: the next request follows them
    sed -i 's/aws-virginia: 70, gcp-iowa: 30/aws-virginia: 10, gcp-iowa: 90/' {config}
    {command} status --admin http://{admin}

  Break the file and save: the running configuration stays
    sed -i 's/region: us-east-1/region: us-esat-1/' {config}
    {command} status --admin http://{admin}

Ctrl-C stops everything.
"
    )
}
