//! What can be asked of the command, and how.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use portolan_config::scalar::FromScalar as _;
use portolan_config::units::{TimeSpan, Weight};
use portolan_control::overrides::Reason;

/// A global traffic manager: one binary at the edge that sends every request to the right cloud.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve.
    Run(RunArgs),
    /// Three pretend clouds on loopback and the real proxy in front of them, to play with.
    Demo(DemoArgs),
    /// Find every problem of a configuration, and run its tests.
    Check(CheckArgs),
    /// Print a configuration, and where each value comes from.
    Show(ShowArgs),
    /// Say where a request would go, and why.
    Explain(ExplainArgs),
    /// What runs now.
    Status(InstanceArgs),
    /// Pools, their endpoints, and how healthy they are.
    Pools(InstanceArgs),
    /// Send no new request to a pool or an endpoint, for a while; those under way finish.
    Drain(DrainArgs),
    /// End a drain before its time.
    Undrain(UndrainArgs),
    /// Give the members of a service's split other weights, for a while.
    Weights(WeightsArgs),
    /// What happened, and why.
    Events(EventsArgs),
    /// Read the configuration again and apply it, as SIGHUP does.
    Reload(InstanceArgs),
    /// Hand everything to a new process, without refusing a connection.
    Upgrade(UpgradeArgs),
    /// Print the JSON Schema of the configuration file.
    Schema,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArg {
    /// The configuration file [default: ./portolan.yaml, then /etc/portolan/portolan.yaml]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct FormatArg {
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

impl FormatArg {
    /// Whether results are printed for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.json || self.format == Format::Json
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs: one document on standard output.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// If the file cannot be used, start with the last configuration that ran
    #[arg(long)]
    pub(crate) last_known_good: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where the demo's configuration is written
    #[arg(long, value_name = "FOLDER", default_value = "portolan-demo")]
    pub(crate) folder: PathBuf,
    /// The port of the proxy (0: any)
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// The port of the admin API (0: any)
    #[arg(long, default_value_t = 9470)]
    pub(crate) admin_port: u16,
    /// The port where the pretend clouds are killed, slowed and mended (0: any)
    #[arg(long, default_value_t = 9480)]
    pub(crate) clouds_port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArg,
    /// With every default filled in
    #[arg(long)]
    pub(crate) effective: bool,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Decide by this file, with every endpoint healthy; without it, the running instance decides
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    pub(crate) client_ip: Option<IpAddr>,
    /// The method
    #[arg(long, short = 'X', default_value = "GET")]
    pub(crate) method: String,
    /// A header, as `Name: value`; may be given several times
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// What is asked for: `https://api.example.com/v1/users`
    pub(crate) url: String,
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UpgradeArgs {
    /// The binary to start [default: where the running one was started from]
    #[arg(long, value_name = "FILE")]
    pub(crate) binary: Option<PathBuf>,
    /// How long the new process may take until it could serve
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time_span)]
    pub(crate) timeout: TimeSpan,
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The pool, or one endpoint of it: aws-virginia, or aws-virginia/10.1.0.10:8080
    #[arg(value_name = "POOL[/ENDPOINT]")]
    pub(crate) subject: String,
    /// For how long; then it ends by itself
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = time_span)]
    pub(crate) lease: TimeSpan,
    /// Why, for whoever looks at it later
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UndrainArgs {
    /// The pool, or one endpoint of it, as it was drained
    #[arg(value_name = "POOL[/ENDPOINT]")]
    pub(crate) subject: String,
    /// Why, for the log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WeightsArgs {
    /// The service
    pub(crate) service: String,
    /// Every member of its split and its weight: aws-virginia=60 gcp-iowa=40
    #[arg(value_name = "MEMBER=WEIGHT", value_parser = member, required_unless_present = "clear")]
    pub(crate) weights: Vec<(String, u64)>,
    /// Go back to the weights of the configuration
    #[arg(long, conflicts_with_all = ["weights", "lease"])]
    pub(crate) clear: bool,
    /// For how long; then it ends by itself
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = time_span)]
    pub(crate) lease: TimeSpan,
    /// Why, for whoever looks at it later
    #[arg(long, value_name = "TEXT", value_parser = reason, required_unless_present = "clear")]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on, until interrupted
    #[arg(short, long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) instance: InstanceArgs,
}

/// A member of a split and its weight.
fn member(text: &str) -> Result<(String, u64), String> {
    let help = "write MEMBER=WEIGHT, like aws-virginia=60";
    let (name, weight) = text.split_once('=').ok_or(help)?;
    if name.is_empty() {
        return Err(help.to_owned());
    }
    match Weight::parse(weight) {
        Ok(weight) => Ok((name.to_owned(), weight.get().into())),
        Err(wrong) => Err(match wrong.help {
            Some(help) => format!("`{weight}` {}: {help}", wrong.message),
            None => format!("`{weight}` {}", wrong.message),
        }),
    }
}

/// A length of time, as in the configuration.
fn time_span(text: &str) -> Result<TimeSpan, String> {
    match TimeSpan::parse(text) {
        Ok(span) if span.duration().is_zero() => Err("it must be more than nothing".to_owned()),
        Ok(span) => Ok(span),
        Err(wrong) => Err(match wrong.help {
            Some(help) => format!("it {}: {help}", wrong.message),
            None => format!("it {}", wrong.message),
        }),
    }
}

fn reason(text: &str) -> Result<String, String> {
    Reason::new(text).map(|reason| reason.as_str().to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct InstanceArgs {
    /// Where the running instance's admin API is
    #[arg(
        long,
        env = "PORTOLAN_ADMIN",
        value_name = "URL",
        default_value = "http://127.0.0.1:9470"
    )]
    pub(crate) admin: String,
    /// A token of the admin API
    #[arg(
        long,
        env = "PORTOLAN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}
