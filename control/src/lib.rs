//! The control plane of Portolan: it knows the state of every pool, judges, and publishes what
//! requests are steered by. It opens no connection of its own: who accepts clients and who probes
//! endpoints is behind the borders [`listeners`] and [`dial`].
//!
//! A change of the world goes through these rooms:
//!
//! 1. it comes in as a probe's result ([`dial`]), an answer of a name server ([`resolve`]), a new
//!    configuration ([`watch`] → [`configuration`] → [`reload`]) or a request of an operator
//!    ([`admin`]);
//! 2. [`engine`] is the one loop that owns the state; its core is pure: (state, event, now) →
//!    (state, effects);
//! 3. [`health`] gives an endpoint's verdict by its probes and [`outlier`] by its requests,
//!    [`slow_start`] brings it back little by little, [`suspicion`] asks whether the fault is our
//!    own; [`pool`] says how much of its traffic a pool can take,
//!    [`steering`] turns that into shares;
//! 4. [`snapshot`] is what follows for requests: immutable, published as one;
//!    [`overrides`] are what operators decided beside the configuration;
//! 5. [`notice`] tells operators what changed, and [`journal`] remembers it for a while.
//!
//! Every task of it is looked after by the [`supervisor`]. Nobody waits for whoever reads a log:
//! [`lines`] are handed over, and [`loss_watch`] tells when some are lost.
//!
//! A request reads the snapshot and nothing else: [`geo`] says where its client is, [`decide`] which
//! pool gets it ([`affinity`]: where its client was before), [`balance`] which endpoint there; what it was is counted in [`stats`] and in its
//! [`endpoint`], and written by [`access_log`]. [`metrics`] and [`status`] show what was counted,
//! [`rehearse`] tells what would become of a request that nobody has sent.
//!
//! ```
//! use std::sync::Arc;
//!
//! use portolan_config::{Machine, check_text};
//! use portolan_control::geo::Locator;
//! use portolan_control::rehearse::{Asked, explain, pretend};
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
//! let world = pretend(&plan, &Arc::new(Locator::default()), &[aws], &[]);
//! let explained = explain(&world, &asked.question());
//! assert_eq!(&*explained.pools[0].pool, "azure");
//! assert_eq!(explained.pools[0].share, 1.0);
//! # Ok::<(), String>(())
//! ```

pub mod access_log;
pub mod acme;
pub mod admin;
pub mod affinity;
pub mod auth;
pub mod authority;
pub mod balance;
pub mod clock;
pub mod configuration;
pub mod decide;
pub mod dial;
pub mod endpoint;
pub mod engine;
pub mod geo;
pub mod handover;
pub mod handshakes;
pub mod health;
pub mod journal;
pub mod last_known_good;
pub mod ledger;
pub mod lines;
pub mod listeners;
pub mod loss_watch;
pub mod metrics;
pub mod notice;
pub mod outlier;
pub mod overrides;
pub mod pool;
pub mod rate_limit;
pub mod refusal;
pub mod rehearse;
pub mod reload;
pub mod resolve;
pub mod retry;
pub mod shortage;
pub mod shortage_watch;
pub mod silence;
pub mod slow_start;
pub mod snapshot;
pub mod stats;
pub mod status;
pub mod steering;
pub mod supervisor;
pub mod suspicion;
pub mod token;
pub mod token_keys;
pub mod tries;
pub mod watch;
