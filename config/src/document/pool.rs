//! Pools and their endpoints.

use std::net::SocketAddr;
use std::path::PathBuf;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::clients::CountryCode;
use super::health::{Health, Outlier};
use crate::decode::collections::Shared;
use crate::decode::document;
use crate::decode::encode::Encode;
use crate::decode::omitted::Omitted;
use crate::decode::reader::Decode;
use crate::decode::reader::Reader;
use crate::decode::switch::Switch;
use crate::diagnostic::{Code, Diagnostic};
use crate::names::DnsEndpoint;
use crate::node::{Node, Value};
use crate::scalar::keywords;
use crate::source::{At, Origin};
use crate::units::{Count, Quota, TimeSpan, Weight};

document! {
    /// Interchangeable endpoints, normally those of one cloud region.
    pub struct Pool as "a pool" {
        /// Whose cloud it is: aws, azure, gcp, oci, alibaba, linode, digitalocean, ovh, hetzner, or
        /// any other word for places that are none of these.
        pub cloud: Option<At<String>>,
        /// The region's own code (`us-east-1`); needs `cloud`. The regions of known clouds bring
        /// their country and coordinates.
        pub region: Option<At<String>>,
        /// Where it is, for pools outside the known regions (and to correct those inside): degrees
        /// north of the equator, -90 to 90. Goes together with `longitude`.
        pub latitude: Option<At<f64>>,
        /// Degrees east of Greenwich, -180 to 180.
        pub longitude: Option<At<f64>>,
        /// The country it stands in.
        pub country: Option<At<CountryCode>>,
        /// The addresses that serve requests, at least one.
        pub endpoints: Vec<Endpoint>,
        /// Which endpoint gets the next request.
        pub balance: Balance = "least_requests",
        /// What endpoints speak.
        pub protocol: At<Protocol> = "auto",
        /// TLS towards endpoints: `true`, or how.
        pub tls: Option<Shared<UpstreamTls>>,
        /// How endpoints are probed. `off`: they are not, and count as healthy at once.
        pub health: Switch<Shared<Health>> = "{}",
        /// With fewer healthy endpoints than this (a number, or a share of all) the pool is down.
        pub min_healthy: At<Quota> = "1",
        /// What requests themselves tell about endpoints. `off`: only probes decide.
        pub outlier: Switch<Shared<Outlier>> = "{}",
        /// What becomes of requests that wait for an endpoint when it is found dead: when its probes, or
        /// its requests, are not answered in time. What may be repeated is tried elsewhere at once.
        pub on_down: At<OnDown> = "release",
        /// How long an endpoint that recovers (or is new while the pool serves), and a pool that
        /// comes back, take until they get their whole share: from a tenth of it upwards, evenly.
        pub slow_start: Switch<At<TimeSpan>> = "off",
        /// How much more than its share the healthy part of a pool may carry: with 1.4, a pool
        /// takes all its traffic until less than 71% of its weight is healthy. From 1.0 to 10.0.
        pub overprovision: At<f64> = "1.4",
        /// Takes no new requests; those in flight finish.
        pub drain: At<bool> = "false",
        /// The Host sent to endpoints. By default the client's.
        pub host: Option<At<String>>,
        /// How long Portolan waits for endpoints.
        pub timeouts: Shared<Timeouts> = "{}",
        /// What the pool can do at most.
        pub capacity: Option<Capacity>,
        /// Begin every connection to an endpoint with a PROXY protocol header that says which
        /// client it is for. Such connections serve one client each. Probes say that they come from
        /// Portolan itself.
        pub send_proxy: Option<At<ProxyVersion>>,
    }
}

/// One address, or one name with all its addresses. Short: `10.1.0.10:8080`.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub place: EndpointPlace,
    /// How much of the pool's traffic it gets, relative to its peers.
    pub weight: At<Weight>,
    /// Serves only when no other endpoint can.
    pub backup: At<bool>,
    /// Where it stood.
    pub origin: Origin,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointPlace {
    /// At this address.
    Address(At<SocketAddr>),
    /// At every address of this name.
    Dns(At<DnsEndpoint>),
}

document! {
    /// One address, or one name with all its addresses. Exactly one of `address` and `dns`.
    pub struct EndpointLong as "an endpoint" {
        /// `IP:port`.
        pub address: Option<At<SocketAddr>>,
        /// `name:port`: every A and AAAA record, asked for again when its time to live is over.
        /// While the resolver fails, the last good answer stays.
        pub dns: Option<At<DnsEndpoint>>,
        /// How much of the pool's traffic it gets, relative to its peers. A name's addresses have
        /// this weight each.
        pub weight: At<Weight> = "1",
        /// Serve only when no other endpoint of the pool can.
        pub backup: At<bool> = "false",
    }
    not_yet { "drain" unless "false" }
}

impl Decode for Endpoint {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(_) = node.value {
            static WEIGHT: Omitted<At<Weight>> = Omitted::new(Some("1"));
            let address = At::<SocketAddr>::decode(node, reader)?;
            return Some(Self {
                place: EndpointPlace::Address(address),
                weight: WEIGHT.default()?,
                backup: At::default_value(false),
                origin: node.origin,
            });
        }
        let long = EndpointLong::decode(node, reader)?;
        let place = match (long.address, long.dns) {
            (Some(address), None) => EndpointPlace::Address(address),
            (None, Some(dns)) => EndpointPlace::Dns(dns),
            (None, None) => {
                reader.report(Diagnostic::error(
                    Code::MissingKey,
                    node.origin,
                    "an endpoint needs `address` or `dns`",
                ));
                return None;
            }
            (Some(_), Some(dns)) => {
                reader.report(Diagnostic::error(
                    Code::BadValue,
                    dns.origin,
                    "an endpoint has `address` or `dns`, not both",
                ));
                return None;
            }
        };
        Some(Self {
            place,
            weight: long.weight,
            backup: long.backup,
            origin: long.origin,
        })
    }
}

impl Endpoint {
    /// The same in full.
    fn long(&self) -> EndpointLong {
        let (address, dns) = match &self.place {
            EndpointPlace::Address(address) => (Some(address.clone()), None),
            EndpointPlace::Dns(dns) => (None, Some(dns.clone())),
        };
        EndpointLong {
            address,
            dns,
            weight: self.weight.clone(),
            backup: self.backup.clone(),
            origin: self.origin,
        }
    }
}

impl Encode for Endpoint {
    fn encode(&self) -> Option<Node> {
        self.long().encode()
    }

    fn canonical(&self, out: &mut Vec<u8>) {
        self.long().canonical(out);
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let address = At::<SocketAddr>::json_schema(generator);
        let long = EndpointLong::json_schema(generator);
        json_schema!({ "anyOf": [ address, long ] })
    }
}

/// Which endpoint gets the next request.
#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    /// One of the simple ways.
    Word(At<BalanceWord>),
    /// By a property of the request.
    Hash {
        /// The property.
        on: HashKey,
        /// Where it stood.
        origin: Origin,
    },
}

keywords! {
    /// Which endpoint gets the next request.
    pub enum BalanceWord {
        /// By weight, but not one with more requests in flight for its weight than another one has: that
        /// one gets the request, and the busy one gets one of the next.
        LeastRequests = "least_requests",
        /// In turn, by weight.
        RoundRobin = "round_robin",
        /// At random, by weight.
        Random = "random",
        /// By weight, but not one that is clearly slower than another one: whose latency, times the
        /// requests in flight, is more than one and a half times as high.
        Fastest = "fastest",
    }
}

/// The property of a request that a hash is taken of. Requests without it are spread at random.
#[derive(Clone, Debug, PartialEq)]
pub enum HashKey {
    /// The client's address.
    ClientIp(Origin),
    /// The path, without the query.
    Path(Origin),
    /// A header's value.
    Header(At<HeaderName>),
    /// A cookie's value.
    Cookie(At<String>),
}

document! {
    /// Requests that are alike in one property go to the same endpoint, as long as it is there and
    /// has no more than a quarter above its share of the requests in flight.
    pub struct BalanceLong as "`balance`" {
        /// How the property is used.
        pub hash: HashOn,
    }
}

document! {
    /// The property that decides.
    pub struct HashOn as "`hash`" {
        /// `client_ip`, `path`, `{ header: x-session }` or `{ cookie: session }`. Of several cookies of
        /// that name, which browsers send in any order, it is the one whose value sorts first.
        pub on: HashKey,
    }
}

document! {
    /// A header or a cookie.
    pub struct HashKeyLong as "`on`" {
        /// The header's name.
        pub header: Option<At<HeaderName>>,
        /// The cookie's name. Of several of that name it is the one whose value sorts first.
        pub cookie: Option<At<String>>,
    }
}

impl Decode for HashKey {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(scalar) = &node.value {
            return match scalar.text.as_str() {
                "client_ip" => Some(Self::ClientIp(node.origin)),
                "path" => Some(Self::Path(node.origin)),
                text => {
                    reader.report(
                        Diagnostic::error(
                            Code::BadValue,
                            node.origin,
                            format!("`{text}` is not a property to hash"),
                        )
                        .help(
                            "write `client_ip`, `path`, `{ header: NAME }` or `{ cookie: NAME }`",
                        ),
                    );
                    None
                }
            };
        }
        let long = HashKeyLong::decode(node, reader)?;
        match (long.header, long.cookie) {
            (Some(header), None) => Some(Self::Header(header)),
            (None, Some(cookie)) => Some(Self::Cookie(cookie)),
            _ => {
                reader.report(Diagnostic::error(
                    Code::BadValue,
                    node.origin,
                    "`on` needs `header` or `cookie`, one of them",
                ));
                None
            }
        }
    }
}

impl Encode for HashKey {
    fn encode(&self) -> Option<Node> {
        match self {
            Self::ClientIp(origin) => Some(Node::scalar("client_ip", *origin)),
            Self::Path(origin) => Some(Node::scalar("path", *origin)),
            Self::Header(header) => HashKeyLong {
                origin: header.origin,
                header: Some(header.clone()),
                cookie: None,
            }
            .encode(),
            Self::Cookie(cookie) => HashKeyLong {
                origin: cookie.origin,
                header: None,
                cookie: Some(cookie.clone()),
            }
            .encode(),
        }
    }
}

impl JsonSchema for HashKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HashKey".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = HashKeyLong::json_schema(generator);
        json_schema!({ "anyOf": [ { "enum": ["client_ip", "path"] }, long ] })
    }
}

impl Decode for Balance {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(_) = node.value {
            return At::decode(node, reader).map(Self::Word);
        }
        let long = BalanceLong::decode(node, reader)?;
        Some(Self::Hash {
            on: long.hash.on,
            origin: node.origin,
        })
    }
}

impl Encode for Balance {
    fn encode(&self) -> Option<Node> {
        match self {
            Self::Word(word) => word.encode(),
            Self::Hash { on, origin } => BalanceLong {
                hash: HashOn {
                    on: on.clone(),
                    origin: *origin,
                },
                origin: *origin,
            }
            .encode(),
        }
    }
}

impl JsonSchema for Balance {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Balance".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = At::<BalanceWord>::json_schema(generator);
        let long = BalanceLong::json_schema(generator);
        json_schema!({ "anyOf": [ word, long ] })
    }
}

keywords! {
    /// What endpoints speak.
    pub enum Protocol {
        /// With `tls`, HTTP/2 if the endpoint takes it (ALPN), else HTTP/1.1; without, HTTP/1.1.
        Auto = "auto",
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2 over TLS, nothing else. Needs `tls`.
        H2 = "h2",
        /// HTTP/2 without TLS, with prior knowledge.
        H2c = "h2c",
    }
}

keywords! {
    /// Which PROXY protocol header endpoints get.
    pub enum ProxyVersion {
        /// The line of text.
        V1 = "v1",
        /// The binary header, with a checksum.
        V2 = "v2",
    }
}

/// TLS towards endpoints: switched on (`true`), switched off (`false`), or in detail.
#[derive(Clone, Debug, PartialEq)]
pub enum UpstreamTls {
    /// `false`: none, though `defaults` may say otherwise.
    Off(Origin),
    /// With these settings.
    On(Box<UpstreamTlsFiles>),
}

document! {
    /// TLS towards endpoints. Their certificates are verified against `ca`, or against the CAs that
    /// the system trusts.
    pub struct UpstreamTlsFiles as "`tls`" {
        /// The name that is asked for (SNI) and that the certificate must have. By default the
        /// pool's `host`, else the endpoint's name or address.
        pub server_name: Option<At<String>>,
        /// CAs to trust instead of the system's, as a PEM file; or the very certificate that the
        /// endpoint shows, if it has signed it itself.
        pub ca: Option<At<PathBuf>>,
        /// A certificate to show when an endpoint asks for one, as a PEM file.
        pub client_cert: Option<At<PathBuf>>,
        /// Its private key, as a PEM file.
        pub client_key: Option<At<PathBuf>>,
        /// Do not verify certificates at all. Whoever can reach the network in between can then
        /// read and change everything; warned about at every start.
        pub insecure: At<bool> = "false",
    }
}

impl Decode for UpstreamTls {
    fn decode(node: &Node, reader: &mut Reader) -> Option<Self> {
        if let Value::Scalar(_) = node.value {
            let on: bool = reader.leaf(node)?;
            if !on {
                return Some(Self::Off(node.origin));
            }
            let mut files = UpstreamTlsFiles::decode(&Node::from_default("{}"), reader)?;
            files.origin = node.origin;
            return Some(Self::On(Box::new(files)));
        }
        UpstreamTlsFiles::decode(node, reader).map(|files| Self::On(Box::new(files)))
    }
}

impl Encode for UpstreamTls {
    fn encode(&self) -> Option<Node> {
        match self {
            Self::Off(origin) => Some(Node::scalar("false", *origin)),
            Self::On(files) => files.encode(),
        }
    }
}

impl JsonSchema for UpstreamTls {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "UpstreamTls".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = UpstreamTlsFiles::json_schema(generator);
        json_schema!({ "anyOf": [ { "type": "boolean" }, long ] })
    }
}

keywords! {
    /// What becomes of a request that waits for an endpoint which is found dead, and must not be
    /// repeated.
    pub enum OnDown {
        /// It is answered at once with 504.
        Release = "release",
        /// It waits until its own deadlines, in case the endpoint answers after all.
        Wait = "wait",
    }
}

document! {
    /// How long Portolan waits for endpoints.
    pub struct Timeouts as "`timeouts`" {
        /// For a connection, and again for its TLS handshake.
        pub connect: At<TimeSpan> = "1s",
        /// For response headers, once a request was sent. By default half of the route's `timeout`, so
        /// that a request of which nothing is heard can be tried once more; all of it if it would not be
        /// tried again, or no other endpoint is there.
        pub first_byte: Option<At<TimeSpan>>,
        /// For the next byte, in either direction, once a request is under way.
        pub idle: At<TimeSpan> = "60s",
        /// For the next request, on a connection that nobody uses: then it is closed. An endpoint that
        /// says how long it waits itself (`Keep-Alive: timeout=5`) is believed, less a second. Shorter
        /// than the 60 s after which the load balancers of the large clouds close theirs; an endpoint
        /// that closes connections sooner without saying so wants a value below its own. With `0s`
        /// every request has a connection of its own (over HTTP/2: unless others are under way).
        pub keep_alive: At<TimeSpan> = "50s",
        /// The same for connections that were upgraded (WebSocket). Over HTTP/2 endpoints have to offer
        /// extended CONNECT (RFC 8441) for that; where they do not, clients get 501.
        pub upgrade_idle: At<TimeSpan> = "1h",
        /// For an upgraded connection as a whole, however much is said on it: then both sides are
        /// closed, and clients come again. By default it lasts as long as both sides like.
        pub upgrade_lifetime: Option<At<TimeSpan>>,
    }
}

document! {
    /// What a pool can do at most.
    pub struct Capacity as "`capacity`" {
        /// Requests at the same time, over all endpoints. What is free of it decides
        /// `least_loaded`.
        pub in_flight: At<Count>,
    }
    not_yet { "requests_per_second" }
}
