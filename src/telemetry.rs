//! The process's own log: on standard error, as text or JSON, as loud as configured.
//!
//! Nobody waits for whoever reads it: a thread writes the lines, and what it cannot write in time is
//! lost and counted.

use std::panic::PanicHookInfo;
use std::sync::Arc;

use portolan_config::diagnostic::{Colours, Report};
use portolan_config::document::LogFormat;
use portolan_config::plan::{LogPlan, LogSink};
use portolan_control::telemetry::lines::{Lines, Loss};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use crate::output;

/// Changes the log while the process runs. There is a layer for each format, and the one that is not
/// wanted lets nothing through: layers themselves cannot be exchanged while they run.
#[derive(Clone)]
pub(crate) struct Telemetry {
    text: reload::Handle<EnvFilter, Registry>,
    json: reload::Handle<EnvFilter, Registry>,
    /// `RUST_LOG`, which wins over the configuration.
    directives: Option<Arc<str>>,
    lines: Lines,
}

/// Entries that may wait to be written.
const QUEUE: usize = 1_024;

/// As long as there is one, the log is written. Dropping it waits for the last line, but not for ever.
pub(crate) struct LogWriter(Lines);

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Telemetry {
    /// Starts the log. Called once. What is lost of it is counted in `loss`.
    ///
    /// # Errors
    /// When no thread can be had that writes it.
    pub(crate) fn start(
        plan: &LogPlan,
        directives: Option<String>,
        loss: Arc<Loss>,
    ) -> std::io::Result<(Self, LogWriter)> {
        let lines = Lines::new("log", QUEUE, loss);
        lines.redirect(Some(&LogSink::Stderr))?;
        let (to_text, to_json) = (lines.clone(), lines.clone());
        let directives = directives.map(Arc::from);
        let filters = Filters::new(plan, directives.as_deref());
        let (text_filter, text) = reload::Layer::new(filters.text);
        let (json_filter, json) = reload::Layer::new(filters.json);
        let colours = output::has_colours(&std::io::stderr());
        let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![
            fmt::layer()
                .with_writer(move || to_text.clone())
                .with_ansi(colours)
                .with_target(false)
                .with_filter(text_filter)
                .boxed(),
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(move || to_json.clone())
                .with_filter(json_filter)
                .boxed(),
        ];
        // It fails when there is a log already, and then that one is as good.
        let _ = tracing_subscriber::registry().with(layers).try_init();
        std::panic::set_hook(Box::new(say_panic));
        let writer = LogWriter(lines.clone());
        let telemetry = Self {
            text,
            json,
            directives,
            lines,
        };
        Ok((telemetry, writer))
    }

    /// Writes a text beside the log's entries, as it is.
    pub(crate) fn note(&self, text: &str) {
        self.lines.send(format!("{text}\n").into_bytes());
    }

    /// Writes what was found in a configuration beside the log's entries.
    pub(crate) fn report(&self, report: &Report) {
        let text = report.render(Colours::Off);
        self.note(text.trim_end());
    }

    /// Logs as this says from now on.
    pub(crate) fn set(&self, plan: &LogPlan) {
        let filters = Filters::new(plan, self.directives.as_deref());
        let _ = self.text.reload(filters.text);
        let _ = self.json.reload(filters.json);
    }
}

/// Tells of a panic where everything else is told: the hook of the standard library would wait for
/// whoever reads standard error.
fn say_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let what = panic.payload_as_str().unwrap_or("no message");
    let thread = std::thread::current();
    tracing::error!(
        "a fault of Portolan's: {what} ({}, thread {})",
        place.unwrap_or_default(),
        thread.name().unwrap_or("without a name")
    );
}

struct Filters {
    text: EnvFilter,
    json: EnvFilter,
}

impl Filters {
    fn new(plan: &LogPlan, directives: Option<&str>) -> Self {
        let wanted = wanted(plan, directives);
        let nothing = EnvFilter::new("off");
        match plan.format {
            LogFormat::Text => Self {
                text: wanted,
                json: nothing,
            },
            LogFormat::Json => Self {
                text: nothing,
                json: wanted,
            },
        }
    }
}

fn wanted(plan: &LogPlan, directives: Option<&str>) -> EnvFilter {
    if let Some(filter) = directives.and_then(|directives| EnvFilter::try_new(directives).ok()) {
        return filter;
    }
    let level = plan.level.as_str();
    // The engine and the TLS library speak of every client that goes away and every scanner that
    // knocks; what they speak of is counted.
    let engine = match level {
        "debug" | "trace" => level,
        _ => "off",
    };
    EnvFilter::new(format!(
        "{level},rustls={engine},pingora={engine},pingora_core={engine},pingora_proxy={engine},\
         pingora_pool={engine},h2=off,hyper=off,hickory_resolver=off,hickory_proto=off"
    ))
}
