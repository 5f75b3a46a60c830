//! The process's own log: on standard error, as text or JSON, as loud as configured.

use std::io::IsTerminal as _;
use std::sync::Arc;

use portolan_config::document::LogFormat;
use portolan_config::plan::LogPlan;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Changes the log while the process runs. There is a layer for each format, and the one that is not
/// wanted lets nothing through: layers themselves cannot be exchanged while they run.
#[derive(Clone)]
pub(crate) struct Telemetry {
    text: reload::Handle<EnvFilter, Registry>,
    json: reload::Handle<EnvFilter, Registry>,
    /// `RUST_LOG`, which wins over the configuration.
    directives: Option<Arc<str>>,
}

impl Telemetry {
    /// Starts the log. Called once.
    pub(crate) fn start(plan: &LogPlan, directives: Option<String>) -> Self {
        let directives = directives.map(Arc::from);
        let filters = Filters::new(plan, directives.as_deref());
        let (text_filter, text) = reload::Layer::new(filters.text);
        let (json_filter, json) = reload::Layer::new(filters.json);
        let terminal = std::io::stderr().is_terminal();
        let layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = vec![
            fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(terminal)
                .with_target(false)
                .with_filter(text_filter)
                .boxed(),
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr)
                .with_filter(json_filter)
                .boxed(),
        ];
        // It fails when there is a log already, and then that one is as good.
        let _ = tracing_subscriber::registry().with(layers).try_init();
        Self {
            text,
            json,
            directives,
        }
    }

    /// Logs as this says from now on.
    pub(crate) fn set(&self, plan: &LogPlan) {
        let filters = Filters::new(plan, self.directives.as_deref());
        let _ = self.text.reload(filters.text);
        let _ = self.json.reload(filters.json);
    }
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
