//! Requests at fixed times: what a proxy adds to an answer that is not waiting for others.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_control::clock::{Clock, Tick};
use serde_json::{Value, json};

use crate::contest::{self, Endpoints, Runs, SETTLE, turns};
use crate::load::{self, Kind};
use crate::peers::{Peer, Serving};
use crate::process::{Cores, Process};
use crate::report;
use crate::{origin, role};

/// Requests a second, by so many clients, each with a connection of its own.
pub(crate) const PER_SECOND: u32 = 4_000;
const CLIENTS: u32 = 32;

const WARM_UP: Duration = Duration::from_secs(1);
const MEASURE: Duration = Duration::from_secs(4);

/// In the results, the endpoint itself.
const DIRECT: &str = "no proxy";

/// Every proxy in turn, and an endpoint without any; a table.
pub(crate) async fn compare(peers: &[&'static dyn Peer], rounds: usize, cores: &Cores) -> String {
    let names: Vec<&'static str> = peers.iter().map(|peer| peer.name()).collect();
    let names = [&[DIRECT][..], &names].concat();
    let mut runs = Runs::create("rate", &names);
    for round in 0..rounds {
        for at in turns(round, names.len()) {
            let peer = at.checked_sub(1).map(|at| peers[at]);
            let mut line = measure(peer, cores).await;
            line["proxy"] = json!(names[at]);
            line["round"] = json!(round);
            runs.add(at, line);
        }
    }
    let rows: Vec<[String; 6]> = (0..names.len())
        .map(|at| {
            let added = |key: &str| match at {
                0 => runs.show(at, key, 3),
                _ => runs.added(at, DIRECT, key, 3),
            };
            [
                names[at].to_owned(),
                added("p50_ms"),
                added("p99_ms"),
                added("p999_ms"),
                runs.show(at, "cpu_us", 1),
                runs.show(at, "lost", 0),
            ]
        })
        .collect();
    report::table(
        [
            "proxy",
            "adds at p50, ms",
            "at p99, ms",
            "at p99.9, ms",
            "CPU µs/request",
            "failed",
        ],
        &rows,
    )
}

async fn measure(peer: Option<&'static dyn Peer>, cores: &Cores) -> Value {
    let endpoints = Endpoints::start(cores);
    let task = contest::task(&endpoints, false, false);
    let serving = match peer {
        Some(peer) => Some(Serving::start(peer, &task, cores.proxy()).await),
        None => None,
    };
    tokio::time::sleep(SETTLE).await;
    let to = match serving {
        Some(_) => task.listen,
        None => endpoints.clouds[0].endpoints[0],
    };
    let mut clients = start(to, PER_SECOND, WARM_UP, MEASURE, cores);
    clients.line();
    let cpu = || {
        serving
            .as_ref()
            .map_or(0.0, |serving| serving.process.cpu())
    };
    let before = cpu();
    let mut line: Value = serde_json::from_str(&clients.line()).expect("what they saw");
    let used = cpu() - before;
    let requests = line["requests"].as_f64().expect("a number");
    assert!(requests > 0.0, "no answers at all");
    line["cpu_us"] = json!(used * 1e6 / requests);
    line
}

/// Clients that send requests at fixed times. They say `measuring` when they are warm, and what they
/// saw when they are done.
pub(crate) fn start(
    to: SocketAddr,
    per_second: u32,
    warm_up: Duration,
    measure: Duration,
    cores: &Cores,
) -> Process {
    Process::start(
        role("rate").args([
            to.to_string(),
            per_second.to_string(),
            warm_up.as_millis().to_string(),
            measure.as_millis().to_string(),
        ]),
        cores.others(),
    )
}

/// What became of the requests of one client, and when they were to leave.
type Answers = Vec<(Duration, Option<Duration>)>;

/// Threads that wait, because timers of a runtime are too coarse. A request that finds its client
/// waiting for the one before leaves late, and what it takes counts from when it was to leave.
pub(crate) fn run(to: SocketAddr, per_second: u32, warm_up: Duration, measure: Duration) {
    // As punctual as the kernel can; threads take it over.
    nix::sys::prctl::set_timerslack(1).expect("this is Linux");
    let clock = Clock::start();
    // All connections stand by then.
    let begin = Duration::from_millis(200);
    let end = begin + warm_up + measure;
    let every = Duration::from_secs(1) * CLIENTS / per_second;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let first = begin + every * number / CLIENTS;
            std::thread::spawn(move || client(to, number, clock, [first, every, end]))
        })
        .collect();
    sleep_until(clock, begin + warm_up);
    load::say("measuring");
    let answers = clients
        .into_iter()
        .flat_map(|client| client.join().expect("a client does its work"))
        .filter(|(intended, _)| *intended >= begin + warm_up);
    let (answered, lost): (Vec<_>, Vec<_>) = answers.partition(|(_, took)| took.is_some());
    let took = answered.into_iter().filter_map(|(_, took)| took).collect();
    let mut line = load::told(took, measure);
    line["lost"] = json!(lost.len());
    load::say(&line.to_string());
}

fn client(to: SocketAddr, seed: u32, clock: Clock, [first, every, end]: [Duration; 3]) -> Answers {
    let requests = load::requests(Kind::Small, &(0..0), u64::from(seed));
    let mut answers = Vec::new();
    let mut stream = None;
    for (number, request) in (0..).zip(requests.iter().cycle()) {
        let intended = first + every * number;
        if intended >= end {
            break;
        }
        sleep_until(clock, intended);
        let answer = ask(&mut stream, to, request);
        if answer.is_err() {
            stream = None;
        }
        let took = clock.now().since(Tick::after(intended));
        answers.push((intended, answer.is_ok().then_some(took)));
    }
    answers
}

fn ask(
    stream: &mut Option<std::net::TcpStream>,
    to: SocketAddr,
    request: &[u8],
) -> std::io::Result<()> {
    use std::io::{Error, Read as _, Write as _};
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let new = std::net::TcpStream::connect(to)?;
            new.set_nodelay(true)?;
            new.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.insert(new)
        }
    };
    stream.write_all(request)?;
    let mut answer = [0; 4096];
    let mut length = 0;
    loop {
        let read = stream.read(&mut answer[length..])?;
        length += read;
        if read == 0 || !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(Error::other("another answer"));
        }
        let head = origin::end_of_head(&answer[..length]);
        if head.is_some_and(|head| length >= head + origin::SMALL) {
            return Ok(());
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "requests at fixed times are made of waiting for them"
)]
fn sleep_until(clock: Clock, since_start: Duration) {
    std::thread::sleep(Tick::after(since_start).since(clock.now()));
}
