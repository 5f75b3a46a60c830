//! The control plane of Portolan: it judges the endpoints, decides where requests go, and replaces
//! the configuration while requests pass.
//!
//! - [`engine`] holds what changes (health, names, configuration) and publishes one immutable
//!   [`snapshot`] after every change; a request sees one from its start to its end;
//! - [`steering`] turns targets and health into shares, [`decide`] draws a pool for a request,
//!   [`balance`] an endpoint of it; [`geo`] says where a client is;
//! - [`health`], [`endpoint`] and [`pool`] are what is known about those who serve; [`dial`] and
//!   [`resolve`] are how it is found out, done by others;
//! - [`configuration`] makes a file ready to be used, [`reload`] replaces what runs by it, [`watch`]
//!   notices when to, [`last_known_good`] keeps it, [`rehearse`] runs its tests and explains;
//! - [`admin`] is the API for operators, [`status`] and [`metrics`] are what it shows, [`stats`] what
//!   was counted, [`access_log`] the line of every request.
//!
//! Nothing here names the proxy engine: what the control plane needs of it are the traits of
//! [`dial`] and [`listeners`].

pub mod access_log;
pub mod admin;
pub mod balance;
pub mod clock;
pub mod configuration;
pub mod decide;
pub mod dial;
pub mod endpoint;
pub mod engine;
pub mod geo;
pub mod health;
pub mod last_known_good;
pub mod listeners;
pub mod metrics;
pub mod notice;
pub mod pool;
pub mod rehearse;
pub mod reload;
pub mod resolve;
pub mod snapshot;
pub mod stats;
pub mod status;
pub mod steering;
pub mod watch;
