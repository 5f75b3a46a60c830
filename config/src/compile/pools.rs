//! Pools, their endpoints and their probes.

use crate::compile::files::file;
use crate::document::{
    Balance, BalanceWord, Endpoint, EndpointPlace, Expect, HashKey, Health, OnDown, Pool,
    UpstreamTls,
};
use crate::geography::Coordinates;
use crate::names::Name;
use crate::plan::{
    BalancePlan, EndpointPlan, HashProperty, OutlierPlan, PoolId, PoolPlan, ProbeExpect, ProbeKind,
    ProbePlan, TimeoutsPlan, UpstreamTlsPlan,
};
use crate::source::{At, Sources};

pub(crate) fn pool(id: PoolId, name: &At<Name>, pool: &Pool, sources: &Sources) -> PoolPlan {
    PoolPlan {
        id,
        name: name.value.clone(),
        cloud: pool.cloud.as_ref().map(|cloud| cloud.value.as_str().into()),
        region: pool
            .region
            .as_ref()
            .map(|region| region.value.as_str().into()),
        place: pool
            .latitude
            .as_ref()
            .zip(pool.longitude.as_ref())
            .map(|(latitude, longitude)| Coordinates {
                latitude: latitude.value,
                longitude: longitude.value,
            }),
        endpoints: pool.endpoints.iter().map(endpoint).collect(),
        balance: balance(&pool.balance),
        protocol: pool.protocol.value,
        tls: match pool.tls.as_deref() {
            Some(UpstreamTls::On(tls)) => Some(UpstreamTlsPlan {
                server_name: tls
                    .server_name
                    .as_ref()
                    .map(|name| name.value.as_str().into()),
                ca: tls.ca.as_ref().map(|path| file(path, sources)),
                client: tls
                    .client_cert
                    .as_ref()
                    .zip(tls.client_key.as_ref())
                    .map(|(cert, key)| (file(cert, sources), file(key, sources))),
                insecure: tls.insecure.value,
                origin: tls.origin,
            }),
            _ => None,
        },
        probe: pool.health.on().map(|health| probe(health)),
        outlier: pool.outlier.on().map(|outlier| OutlierPlan {
            consecutive_failures: outlier.consecutive_failures.value.get(),
            eject_for: outlier.eject_for.value.duration(),
            max_ejected: outlier.max_ejected.value.fraction(),
        }),
        releases: pool.on_down.value == OnDown::Release,
        slow_start: pool.slow_start.on().map(|span| span.value.duration()),
        min_healthy: pool.min_healthy.value,
        overprovision: pool.overprovision.value,
        drain: pool.drain.value,
        host: pool.host.as_ref().and_then(|host| host.value.parse().ok()),
        timeouts: TimeoutsPlan {
            connect: pool.timeouts.connect.value.duration(),
            first_byte: pool
                .timeouts
                .first_byte
                .as_ref()
                .map(|time| time.value.duration()),
            idle: pool.timeouts.idle.value.duration(),
            keep_alive: pool.timeouts.keep_alive.value.duration(),
            upgrade_idle: pool.timeouts.upgrade_idle.value.duration(),
            upgrade_lifetime: pool
                .timeouts
                .upgrade_lifetime
                .as_ref()
                .map(|lifetime| lifetime.value.duration()),
        },
        capacity_in_flight: pool
            .capacity
            .as_ref()
            .map(|capacity| capacity.in_flight.value.get()),
        send_proxy: pool.send_proxy.as_ref().map(|version| version.value),
    }
}

fn endpoint(endpoint: &Endpoint) -> EndpointPlan {
    let weight = endpoint.weight.value.get();
    let backup = endpoint.backup.value;
    match &endpoint.place {
        EndpointPlace::Address(address) => EndpointPlan::Address {
            address: address.value,
            weight,
            backup,
        },
        EndpointPlace::Dns(dns) => EndpointPlan::Dns {
            host: dns.value.host.as_str().into(),
            port: dns.value.port,
            weight,
            backup,
        },
    }
}

fn balance(balance: &Balance) -> BalancePlan {
    match balance {
        Balance::Word(word) => match word.value {
            BalanceWord::LeastRequests => BalancePlan::LeastRequests,
            BalanceWord::RoundRobin => BalancePlan::RoundRobin,
            BalanceWord::Random => BalancePlan::Random,
            BalanceWord::Fastest => BalancePlan::Fastest,
        },
        Balance::Hash { on, .. } => BalancePlan::Hash(match on {
            HashKey::ClientIp(_) => HashProperty::ClientIp,
            HashKey::Path(_) => HashProperty::Path,
            HashKey::Header(name) => HashProperty::Header(name.value.clone()),
            HashKey::Cookie(name) => HashProperty::Cookie(name.value.as_str().into()),
        }),
    }
}

pub(crate) fn probe(health: &Health) -> ProbePlan {
    let kind = match (&health.http, &health.grpc) {
        (Some(path), _) => ProbeKind::Http {
            path: path.value.as_str().into(),
            expect: expect(&health.expect),
        },
        (None, Some(service)) => ProbeKind::Grpc {
            service: service.value.as_str().into(),
        },
        (None, None) => ProbeKind::Tcp,
    };
    let every = health.every.value.duration();
    ProbePlan {
        kind,
        port: health.port.as_ref().map(|port| port.value.get()),
        host: health
            .host
            .as_ref()
            .and_then(|host| host.value.parse().ok()),
        every,
        fast_every: health
            .fast_every
            .as_ref()
            .map_or(every, |fast| fast.value.duration()),
        timeout: health.timeout.value.duration(),
        down_after: health.down_after.value.get(),
        up_after: health.up_after.value.get(),
    }
}

pub(crate) fn expect(expect: &Expect) -> ProbeExpect {
    ProbeExpect {
        status: expect.status.0.iter().map(|range| range.value).collect(),
        headers: expect
            .headers
            .iter()
            .map(|(name, value)| (name.value.clone(), value.value.as_str().into()))
            .collect(),
        json: expect
            .json
            .iter()
            .map(|(pointer, value)| (pointer.value.as_str().into(), value.value.as_str().into()))
            .collect(),
        body_contains: expect
            .body_contains
            .as_ref()
            .map(|text| text.value.as_str().into()),
    }
}
