//! A made-up estate of any size: five pools to a service, and routes that share the services out
//! among themselves.
//!
//! Every service is a `geo` of three rules, and every rule has three tiers: a 70/30 split near the
//! client, the nearer of two pools further away, and a last resort.

use std::fmt::Write as _;

/// The clouds and regions of a service's five pools: two in Europe, two in America, one in Asia.
const REGIONS: [(&str, &str); 5] = [
    ("aws", "eu-central-1"),
    ("gcp", "europe-west1"),
    ("aws", "us-east-1"),
    ("azure", "westus2"),
    ("gcp", "asia-northeast1"),
];

/// What there is of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Estate {
    pub(crate) routes: usize,
    /// A multiple of five.
    pub(crate) pools: usize,
    /// How many endpoints a pool has, if they are made up.
    pub(crate) endpoints_per_pool: usize,
    /// Whether endpoints are probed. Those that are not count as healthy.
    pub(crate) probes: bool,
}

impl Estate {
    /// Its pools, services and routes, as a part of a configuration file. The endpoints of all
    /// pools are `endpoints`, or made up if there are none.
    pub(crate) fn yaml(&self, endpoints: &[String]) -> String {
        let mut text = String::new();
        if !self.probes {
            text.push_str("defaults: { health: off }\n");
        }
        self.write(endpoints, &mut text)
            .expect("a text takes whatever is written to it");
        text
    }

    fn write(&self, endpoints: &[String], out: &mut String) -> std::fmt::Result {
        out.push_str("pools:\n");
        for pool in 0..self.pools {
            let (cloud, region) = REGIONS[pool % REGIONS.len()];
            let made_up = (1..=self.endpoints_per_pool)
                .map(|n| format!("10.{}.{}.{n}:8080", pool / 250, pool % 250));
            let endpoints = match endpoints {
                [] => made_up.collect::<Vec<_>>().join(", "),
                given => given.join(", "),
            };
            writeln!(
                out,
                "  p{pool}: {{ cloud: {cloud}, region: {region}, endpoints: [ {endpoints} ] }}"
            )?;
        }
        out.push_str("services:\n");
        for service in 0..self.services() {
            let [a, b, c, d, e] = std::array::from_fn(|n| format!("p{}", service * 5 + n));
            write!(
                out,
                "  s{service}:
    geo:
      - clients: {{ continents: [EU] }}
        to: {{ tiers: [ {{ split: {{ {a}: 70, {b}: 30 }} }}, {{ nearest: [ {c}, {d} ] }}, {e} ] }}
      - clients: {{ continents: [NA, SA] }}
        to: {{ tiers: [ {{ split: {{ {c}: 70, {d}: 30 }} }}, {{ nearest: [ {a}, {b} ] }}, {e} ] }}
      - to: {{ tiers: [ {e}, {{ nearest: [ {a}, {b} ] }}, {{ nearest: [ {c}, {d} ] }} ] }}
"
            )?;
        }
        out.push_str("routes:\n");
        for route in 0..self.routes {
            let service = route % self.services();
            writeln!(
                out,
                "  - {{ host: {}, path: /v1, to: s{service} }}",
                host(route)
            )?;
        }
        Ok(())
    }

    fn services(&self) -> usize {
        self.pools / REGIONS.len()
    }
}

/// The host of a route.
pub(crate) fn host(route: usize) -> String {
    format!("h{route}.example.com")
}
