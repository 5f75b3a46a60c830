//! The control plane of Portolan: it knows the state of every pool, judges, and publishes what
//! requests are steered by. It opens no connection of its own: who accepts clients and who probes
//! endpoints is behind the borders [`reload::listeners`] and [`pool::dial`].
//!
//! The rooms stand on each other; one may use those above it in this list, and none below it:
//!
//! - [`clock`], [`counters`] and [`refusal`]: time as data, atomics to count with, every reason to
//!   refuse a request;
//! - [`geo`] says where a client is, [`steering`] turns targets and the state of pools into shares;
//! - [`health`] judges endpoints: by probes ([`health::verdict`]), by requests ([`health::outlier`]), by
//!   silence ([`health::stall`]); [`health::partition`] asks whether the fault is our own;
//! - [`auth`] knows what clients must prove;
//! - [`pool`] holds endpoints, says how much of its traffic a pool can take, and takes an endpoint;
//!   [`overrides`] are what operators decide beside the configuration;
//! - [`snapshot`] is what follows for requests: immutable, published as one;
//! - [`events`] are the facts that operators are told, and the journal that remembers them;
//! - [`telemetry`] counts for the process, and writes metrics and logs;
//! - [`decision`] says what becomes of a request, also for `explain` and for a file's tests;
//! - [`supervisor`] begins tasks again that have panicked;
//! - [`engine`] is the one loop that owns the state; its core is pure: (state, event, now) → (state,
//!   effects);
//! - [`reload`] replaces the configuration as a whole, or not at all;
//! - [`background`] holds the tasks that run beside the engine;
//! - [`api`] has the types that travel, and [`admin`] serves them.
//!
//! A change of the world comes in as a probe's result, an answer of a name server, a new configuration or
//! a request of an operator; the [`engine`] judges it and publishes a [`snapshot`]. A request reads that
//! snapshot and nothing else.
//!
//! ```
//! use std::sync::Arc;
//!
//! use portolan_config::{Machine, check_text};
//! use portolan_control::geo::Locator;
//! use portolan_control::decision::explain::question::Asked;
//! use portolan_control::decision::explain::{explain, hypothetical};
//!
//! let text = "
//! listeners: [ { bind: '127.0.0.1:8080' } ]
//! pools:
//!   aws: { endpoints: [ '10.0.0.1:80' ] }
//!   azure: { endpoints: [ '10.1.0.1:80' ] }
//! routes: [ { to: { tiers: [ aws, azure ] } } ]
//! ";
//! let plan = check_text("demo.yaml", text.to_owned(), &Machine::default()).plan.unwrap();
//! let asked = Asked::new(None, "GET", "http://api.example.com/", [])?;
//!
//! // What becomes of a request when AWS is down?
//! let aws = plan.pools[0].id;
//! let world = hypothetical(&plan, &Arc::new(Locator::default()), &[aws], &[]);
//! let explained = explain(&world, &asked.question());
//! assert_eq!(&*explained.pools[0].pool, "azure");
//! assert_eq!(explained.pools[0].share, 1.0);
//! # Ok::<(), String>(())
//! ```

pub mod admin;
pub mod api;
pub mod auth;
pub mod background;
pub mod clock;
pub mod counters;
pub mod decision;
pub mod engine;
pub mod events;
pub mod geo;
pub mod health;
pub mod overrides;
pub mod pool;
pub mod refusal;
pub mod reload;
pub mod snapshot;
pub mod steering;
pub mod supervisor;
pub mod telemetry;
