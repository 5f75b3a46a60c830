//! `portolan demo`: three pretend clouds on loopback, and the real proxy in front of them with a
//! real configuration file.

mod cloud;
mod config;
mod guide;
mod switchboard;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;

use crate::assemble::{Start, serve};
use crate::cli::DemoArgs;
use crate::output;
use cloud::Cloud;

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    // The clouds have threads of their own, as real ones would: the proxy shares nothing with them.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("pretend-clouds")
        .enable_all()
        .build()
        .context("cannot start the pretend clouds")?;
    let (clouds, switchboard) = runtime.block_on(async {
        let clouds = Arc::new(Cloud::start_all().await?);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.clouds_port));
        let switchboard = switchboard::start(address, clouds.clone()).await?;
        anyhow::Ok((clouds, switchboard))
    })?;
    let written = config::write(&args.folder, args.port, args.admin_port, &clouds)?;
    output::result(&format!(
        "Three pretend clouds run on this machine. {} says how to steer between them:\n\n{}",
        written.path.display(),
        indented(&written.text)
    ));
    let config = written.path.clone();
    serve(Start {
        config: written.path,
        last_known_good: false,
        // The pretend clouds would end with this process.
        program: None,
        ready: Box::new(move |serving| {
            output::result(&guide::text(&config, &serving, switchboard));
        }),
    })
}

fn indented(text: &str) -> String {
    text.lines()
        .map(|line| format!("    {line}").trim_end().to_owned() + "\n")
        .collect()
}
