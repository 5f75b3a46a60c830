//! Endpoints that speak HTTP/2 in clear text, where many requests share a connection: readers that are
//! slow, connections that announce their end, and heads that are too large.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use http::Request;
use http_body_util::Full;
use portolan_control::clock::Clock;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::clouds::{self, Cloud};
use crate::load::{Clients, End, Kind, Plan, Record, Report, single};
use crate::peers::{self, Peer, Serving, Task, free_address};
use crate::process::{Cores, Process};
use crate::report::{self, Raw};
use crate::requests::tally;

/// Probes give their first verdicts.
const SETTLE: Duration = Duration::from_secs(2);

/// How long clients wait before they give up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What nobody is to be cut short by.
const LIMIT: Duration = Duration::from_secs(30);

fn plan(listen: SocketAddr, gets: u32, posts: u32, span: Duration) -> Plan {
    Plan {
        listen,
        gets_per_second: gets,
        posts_per_second: posts,
        deletes_per_second: 0,
        path: "/",
        patience: PATIENCE,
        span,
        downloads: 0,
        download_every: Duration::ZERO,
        chats: 0,
    }
}

fn lost(report: &Report, kind: Kind) -> usize {
    let good = |end: &End| matches!(end, End::Answered { status: 200, .. });
    let records = report.records.iter().filter(|record| record.kind == kind);
    records.filter(|record| !good(&record.end)).count()
}

/// A client that asks for much and reads 20 KB a second.
async fn read_slowly(listen: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // What the system would take for it, it does not get.
    socket.set_recv_buffer_size(8 << 10)?;
    socket.connect(&listen.into())?;
    socket.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(socket.into())?;
    stream
        .write_all(b"GET /large HTTP/1.1\r\nhost: bench.test\r\n\r\n")
        .await?;
    let mut piece = [0; 4_000];
    while stream.read(&mut piece).await? > 0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// So many slow readers, and 50 small requests a second beside them.
async fn slow_readers(peer: &'static dyn Peer, readers: usize, cores: &Cores) -> Value {
    let clouds = [
        Cloud::speaking_http2("aws", cores),
        Cloud::speaking_http2("azure", cores),
    ];
    let task = clouds::tiers(clouds[0].described(100), clouds[1].described(0));
    let task = Task {
        limit: LIMIT,
        h2c: true,
        ..task
    };
    let serving = Serving::start(peer, &task, cores.proxy()).await;
    tokio::time::sleep(SETTLE).await;
    let before = clouds[0].connections();
    let mut slow = JoinSet::new();
    for _ in 0..readers {
        slow.spawn(read_slowly(task.listen));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let span = Duration::from_secs(15);
    let clients = Clients::start(
        plan(task.listen, 50, 0, span),
        Clock::start(),
        cores.others(),
    );
    let report = clients.done().await;
    let mut times: Vec<Duration> = report.records.iter().map(|record| record.took).collect();
    times.sort_unstable();
    let quantile = |part: f64| {
        let at = (times.len() as f64 * part) as usize;
        times[at.min(times.len() - 1)].as_secs_f64() * 1e3
    };
    let stalled = |record: &&Record| record.took > Duration::from_secs(1);
    let line = json!({
        "proxy": peer.name(),
        "readers": readers,
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "stalled": report.records.iter().filter(stalled).count(),
        "lost": lost(&report, Kind::Get),
        "moved": report.records.iter()
            .filter(|r| matches!(&r.end, End::Answered { cloud, .. } if cloud == "azure"))
            .count(),
        "connections": clouds[0].connections() - before,
        "rss_mib": serving.process.memory(),
    });
    slow.abort_all();
    line
}

/// nginx as a cloud's two endpoints, in front of one that counts.
struct Nginx {
    cloud: Cloud,
    addresses: Vec<SocketAddr>,
    _process: Process,
}

impl Nginx {
    async fn start(name: &'static str, keepalive_requests: u32, cores: &Cores) -> Self {
        let cloud = Cloud::start(name, cores);
        let addresses = vec![free_address(), free_address()];
        let folder = folder(name);
        let servers: String = cloud
            .described(1)
            .endpoints
            .iter()
            .map(|endpoint| format!("        server {endpoint};\n"))
            .collect();
        let listens: String = addresses
            .iter()
            .map(|address| format!("        listen {address} http2;\n"))
            .collect();
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let text = format!(
            "{user}
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path client;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests {keepalive_requests};
    upstream behind {{
{servers}        keepalive 64;
        keepalive_requests 1000000;
    }}
    server {{
{listens}        location / {{
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
        }}
    }}
}}
"
        );
        let mut file = std::fs::File::create(folder.join("nginx.conf")).expect("a file");
        file.write_all(text.as_bytes()).expect("a file");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).args(["-e", "stderr"]);
        command.arg("-c").arg(folder.join("nginx.conf"));
        let process = Process::start(&mut command, cores.others());
        for address in &addresses {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Self {
            cloud,
            addresses,
            _process: process,
        }
    }

    fn described(&self, weight: u32) -> peers::Cloud {
        peers::Cloud {
            endpoints: self.addresses.clone(),
            ..self.cloud.described(weight)
        }
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = report::folder().join(format!("nginx-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for its files");
    folder
}

/// Connections that end after so many requests, and 500 POSTs a second.
async fn goaway(peer: &'static dyn Peer, after: u32, cores: &Cores) -> Value {
    let first = Nginx::start("aws", after, cores).await;
    let second = Nginx::start("azure", after, cores).await;
    let task = Task {
        h2c: true,
        ..clouds::tiers(first.described(100), second.described(0))
    };
    let _serving = Serving::start(peer, &task, cores.proxy()).await;
    tokio::time::sleep(SETTLE).await;
    let span = Duration::from_secs(8);
    let plan = Plan {
        // Some are under way when a connection ends.
        path: "/20ms",
        ..plan(task.listen, 0, 500, span)
    };
    let clients = Clients::start(plan, Clock::start(), cores.others());
    let report = clients.done().await;
    let mut seen = [first.cloud.numbers(), second.cloud.numbers()].concat();
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    json!({
        "proxy": peer.name(),
        "after": after,
        "posts": report.records.len(),
        "lost": lost(&report, Kind::Post),
        "twice": all - seen.len(),
    })
}

/// One client with a cookie that is larger than the endpoints take, once a second, among others.
async fn cookie(peer: &'static dyn Peer, cores: &Cores) -> Value {
    const SPAN: Duration = Duration::from_secs(12);
    let first = Nginx::start("aws", 1_000_000, cores).await;
    let second = Nginx::start("azure", 1_000_000, cores).await;
    let task = Task {
        h2c: true,
        ..clouds::tiers(first.described(100), second.described(0))
    };
    let _serving = Serving::start(peer, &task, cores.proxy()).await;
    tokio::time::sleep(SETTLE).await;
    let clients = Clients::start(
        plan(task.listen, 100, 20, SPAN),
        Clock::start(),
        cores.others(),
    );
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut ends = Vec::new();
    while ends.len() < SPAN.as_secs() as usize {
        every.tick().await;
        let request = Request::builder()
            .uri("/")
            .header("host", "bench.test")
            .header("cookie", format!("session={}", "x".repeat(12_000)))
            .body(Full::default())
            .expect("a request");
        ends.push(single(task.listen, request, PATIENCE).await);
    }
    let report = clients.done().await;
    json!({
        "proxy": peer.name(),
        "answers": tally(ends),
        "gets_lost": lost(&report, Kind::Get),
        "posts_lost": lost(&report, Kind::Post),
        "moved": report.records.iter()
            .filter(|r| matches!(&r.end, End::Answered { cloud, .. } if cloud == "azure"))
            .count(),
    })
}

/// What is compared here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Case {
    SlowReaders,
    Goaway,
    Cookie,
}

impl Case {
    pub(crate) const ALL: [(&'static str, Self); 3] = [
        ("slow-readers", Self::SlowReaders),
        ("goaway", Self::Goaway),
        ("cookie", Self::Cookie),
    ];
}

pub(crate) async fn compare(
    peers: &[&'static dyn Peer],
    (name, case): (&str, Case),
    cores: &Cores,
) -> String {
    let mut raw = Raw::create(&format!("{name}.jsonl"));
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let whole = |line: &Value, key: &str| line[key].as_u64().unwrap_or_default().to_string();
    let number = |line: &Value, key: &str| format!("{:.1}", line[key].as_f64().unwrap_or_default());
    match case {
        Case::SlowReaders => {
            let mut rows = Vec::new();
            for readers in [8, 32, 100] {
                for peer in peers {
                    let line = slow_readers(*peer, readers, cores).await;
                    raw.write(&line);
                    rows.push([
                        text(&line, "proxy"),
                        whole(&line, "readers"),
                        number(&line, "p50_ms"),
                        number(&line, "p99_ms"),
                        whole(&line, "stalled"),
                        whole(&line, "lost"),
                        whole(&line, "connections"),
                        number(&line, "rss_mib"),
                    ]);
                }
            }
            let head = [
                "proxy",
                "slow readers",
                "p50 ms",
                "p99 ms",
                "over 1 s",
                "lost",
                "connections",
                "memory, MiB",
            ];
            report::table(head, &rows)
        }
        Case::Goaway => {
            let mut rows = Vec::new();
            for after in [20, 100, 1_000] {
                for peer in peers {
                    let line = goaway(*peer, after, cores).await;
                    raw.write(&line);
                    rows.push([
                        text(&line, "proxy"),
                        whole(&line, "after"),
                        whole(&line, "posts"),
                        whole(&line, "lost"),
                        whole(&line, "twice"),
                    ]);
                }
            }
            let head = ["proxy", "connections end after", "POSTs", "lost", "twice"];
            report::table(head, &rows)
        }
        Case::Cookie => {
            let mut rows = Vec::new();
            for peer in peers {
                let line = cookie(*peer, cores).await;
                raw.write(&line);
                rows.push([
                    text(&line, "proxy"),
                    text(&line, "answers"),
                    whole(&line, "gets_lost"),
                    whole(&line, "posts_lost"),
                    whole(&line, "moved"),
                ]);
            }
            let head = [
                "proxy",
                "its answers",
                "GETs lost",
                "POSTs lost",
                "others moved",
            ];
            report::table(head, &rows)
        }
    }
}
