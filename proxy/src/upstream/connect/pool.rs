//! Connections to endpoints, new ones and kept ones.
//!
//! A connection is never shared between pools or between TLS identities (see [`crate::upstream::connect::peer`]). Each
//! worker keeps its own: those over HTTP/1.1 while nobody uses them ([`crate::upstream::connect::idle`]), those over
//! HTTP/2 for many requests at a time ([`crate::upstream::session::http2`]). The engine only connects.

use std::sync::{Arc, Weak};
use std::time::Duration;

use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::protocols::ALPN;
use pingora::{Error, ErrorType, Result};
use portolan_control::counters::Amount;
use portolan_control::health::exhaustion::Shortage;
use tokio::time::Instant;

use super::http2::connection::Connection;
use super::http2::pool::{Arrived, Joined, Maker};
use super::http2::state::Need;
use super::place::{ConnectionStore, Own};
use super::stream::EndpointStream;
use crate::descriptors;
use crate::upstream::connect::idle;
use crate::upstream::connect::idle::HOUSEKEEPING;
use crate::upstream::connect::peer::Target;
use crate::upstream::fault;

pub(crate) use crate::upstream::connect::http2::connected::{Connected, Opened};

/// Connections to endpoints.
pub(crate) struct Upstream {
    connector: TransportConnector,
    place: ConnectionStore,
    /// Idle connections over HTTP/1.1 that are kept in one place.
    most: usize,
    /// What the process holds of bodies over HTTP/2.
    held: Arc<Amount>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upstream")
    }
}

/// The engine's word for a connection that there is no descriptor for.
fn no_descriptor(error: std::io::Error) -> Box<Error> {
    Error::because(
        ErrorType::SocketError,
        "no descriptor for an endpoint",
        error,
    )
}

impl Upstream {
    /// Keeps so many idle connections, in all, divided among the workers, in a process that holds so
    /// much.
    pub(crate) fn new(kept: usize, workers: usize, held: Arc<Amount>) -> Self {
        Self {
            connector: connector(),
            place: ConnectionStore::Worker,
            most: (kept / workers).max(1),
            held,
        }
    }

    /// Keeps so many idle connections, for whoever asks on whichever thread.
    pub(crate) fn of_its_own(kept: usize) -> Self {
        Self {
            connector: connector(),
            place: ConnectionStore::Own(Arc::<Own>::default()),
            most: kept.max(1),
            held: Arc::default(),
        }
    }

    /// What the process holds of bodies over HTTP/2.
    pub(crate) fn held(&self) -> &Arc<Amount> {
        &self.held
    }

    /// Where its connections are kept.
    pub(crate) fn place(&self) -> &ConnectionStore {
        &self.place
    }

    /// Closes what is of no use any more, from time to time, as long as this is there. For connections
    /// that are no worker's.
    pub(crate) fn maintain(self: &Arc<Self>) {
        let upstream = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(HOUSEKEEPING).await;
                match upstream.upgrade() {
                    Some(upstream) => upstream.place.tidy(Instant::now()),
                    None => return,
                }
            }
        });
    }

    /// A connection that is there already, or a place on one.
    pub(crate) fn kept(&self, target: &Target, need: Need) -> Option<Connected> {
        if target.speaks_http2() {
            let key = target.key();
            let slot = self.place.with_h2(|pool| pool.take(key, need)).flatten();
            if let Some(slot) = slot {
                return Some(Connected::H2(slot));
            }
            if !target.speaks_http1() {
                return None;
            }
        }
        self.place.take_h1(target, need.once).map(Connected::H1)
    }

    /// Connects, and says whether the connection was there already.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        target: &Target,
        need: Need,
    ) -> Result<(Connected, bool)> {
        if let Some(connected) = self.kept(target, need) {
            return Ok((connected, true));
        }
        if target.speaks_http2() {
            return self.join(target, need).await;
        }
        match self.open(target).await {
            Ok(Opened::H1(stream) | Opened::H2(stream)) => Ok((Connected::H1(stream), false)),
            // Over HTTP/1.1 is how requests that ask for an upgrade are sent if they can be.
            Err(error) if need.upgrade && wants_another_protocol(&error) => {
                self.join(&target.over_http2(), need).await
            }
            Err(error) => Err(error),
        }
    }

    /// A place on a connection over HTTP/2, or, if that is what the endpoint chooses, a connection over
    /// HTTP/1.1.
    async fn join(self: &Arc<Self>, target: &Target, need: Need) -> Result<(Connected, bool)> {
        let over = || Error::explain(ErrorType::InternalError, "nobody connects any more");
        let maker: Weak<dyn Maker> = Arc::<Self>::downgrade(self);
        let joined = self
            .place
            .with_h2(|pool| pool.join(maker.clone(), target, need));
        match joined.ok_or_else(over)? {
            Joined::Place(slot) => Ok((Connected::H2(slot), true)),
            Joined::Waits(told) => {
                let connected = told.await.map_err(|_| over())??;
                let kept = match &connected {
                    Connected::H1(_) => false,
                    Connected::H2(slot) => slot.is_kept(),
                };
                Ok((connected, kept))
            }
        }
    }

    /// Connects, and no more.
    pub(crate) async fn try_connect(&self, target: &Target) -> Result<()> {
        self.open(target).await.map(drop)
    }

    /// Makes a connection. When this process has run out of what that takes, connections that are kept and
    /// not in use are given up for it.
    pub(crate) async fn open(&self, target: &Target) -> Result<Opened> {
        match self.open_once(target).await {
            Err(error) if is_relieved(&error, target) => self.open_once(target).await,
            opened => opened,
        }
    }

    async fn open_once(&self, target: &Target) -> Result<Opened> {
        let stream = match target.plain() {
            Some(address) => {
                EndpointStream::open(target, address, self.place.may_use_last()).await?
            }
            None => {
                if !self.place.may_use_last() {
                    descriptors::one_for_endpoint().map_err(no_descriptor)?;
                }
                let stream = self.connector.new_stream(&target.peer()).await?;
                target.verify(&stream)?;
                match stream.selected_alpn_proto() {
                    Some(ALPN::H2) => return Ok(Opened::H2(EndpointStream::Engine(stream))),
                    Some(_) => return Ok(Opened::H1(EndpointStream::Engine(stream))),
                    None => EndpointStream::Engine(stream),
                }
            }
        };
        // Nobody has chosen: over TLS that is HTTP/1.1, in clear text what was configured.
        let http2 = !target.is_tls() && !target.speaks_http1();
        Ok(if http2 {
            Opened::H2(stream)
        } else {
            Opened::H1(stream)
        })
    }

    /// Keeps a connection for the next request. Its endpoint was last heard then, and may have said how
    /// long it keeps it.
    pub(crate) fn keep_h1(
        &self,
        stream: EndpointStream,
        target: Target,
        used: Instant,
        promise: Option<Duration>,
    ) {
        self.place.keep_h1(stream, target, used, promise, self.most);
    }
}

impl Maker for Upstream {
    fn make(self: Arc<Self>, target: Target) {
        tokio::spawn(attempt(self, target));
    }
}

/// Makes a connection.
async fn attempt(upstream: Arc<Upstream>, target: Target) {
    let key = target.key();
    let place = upstream.place().clone();
    let (made, driver) = match upstream.open(&target).await {
        Ok(Opened::H1(stream)) => (Ok(Arrived::H1(stream)), None),
        Ok(Opened::H2(stream)) => {
            let (patience, process) = (target.connect_timeout(), upstream.held().clone());
            let told = place.clone();
            let changed = Box::new(move || {
                told.with_h2(|pool| pool.serve(key));
            });
            let begun = Connection::begin(stream, changed, patience, process);
            match begun.await {
                Ok((connection, driver)) => (Ok(Arrived::H2(connection)), Some(driver)),
                Err(error) => (Err(error), None),
            }
        }
        Err(error) => (Err(error), None),
    };
    place.with_h2(|pool| pool.arrived(key, made));
    if let Some(driver) = driver {
        driver.await;
    }
}

/// Whether something was given up that may have been what was missing.
fn is_relieved(error: &Error, target: &Target) -> bool {
    match fault::shortage(error) {
        Some(Shortage::Files) => idle::give_up(),
        Some(Shortage::Ports) => target.address().is_some_and(idle::give_up_to),
        _ => false,
    }
}

/// It only connects: nothing is kept by it.
fn connector() -> TransportConnector {
    TransportConnector::new(Some(ConnectorOptions::new(1)))
}

/// Whether an endpoint has broken a handshake off because it speaks none of what it was offered
/// (RFC 7301, section 3.2). The engine says so in words alone.
fn wants_another_protocol(error: &Error) -> bool {
    let words = error.context.as_ref().map_or("", |words| words.as_str());
    *error.etype() == ErrorType::TLSHandshakeFailure && words.contains("NoApplicationProtocol")
}
