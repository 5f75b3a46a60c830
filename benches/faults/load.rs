//! Clients, as many independent ones: requests leave at fixed times, whatever becomes of those
//! before, and what counts is the time from when a request was to leave.
//!
//! A request takes the connection that has been idle for longest, or opens a new one. One that the
//! proxy has closed meanwhile is replaced, and counted as that, not as a failure; a connection that
//! breaks when the request is on its way is a failure.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portolan_control::clock::{Clock, Tick};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::task::LocalSet;
use tokio_tungstenite::tungstenite::Message;

use crate::origin::{BODY, PART, PARTS};

/// A client that waits longer gives up, where nothing else is said.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Between two messages of a conversation over WebSocket.
const CHAT_EVERY: Duration = Duration::from_millis(500);

/// How long any of its messages may take: this is about breaking, not about speed.
const CHAT_PATIENCE: Duration = Duration::from_secs(10);

/// A download that is not done after so long is broken.
const DOWNLOAD_PATIENCE: Duration = Duration::from_secs(60);

/// What clients do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) listen: SocketAddr,
    pub(crate) gets_per_second: u32,
    pub(crate) posts_per_second: u32,
    pub(crate) deletes_per_second: u32,
    /// What is asked for.
    pub(crate) path: &'static str,
    /// How long a client waits for its answer.
    pub(crate) patience: Duration,
    pub(crate) span: Duration,
    /// Long downloads, one begun after the other.
    pub(crate) downloads: u32,
    pub(crate) download_every: Duration,
    /// Conversations over WebSocket, from the beginning to the end.
    pub(crate) chats: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    Post,
    Delete,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answered {
        status: u16,
        /// Who answered, by the name of the cloud.
        cloud: String,
        /// The configuration that it was answered by.
        generation: u32,
    },
    Failed(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    /// When it was to leave.
    pub(crate) intended: Tick,
    /// From then to the last byte of its answer.
    pub(crate) took: Duration,
    pub(crate) end: End,
}

impl Record {
    /// Answered with 200, within a second.
    pub(crate) fn is_good(&self) -> bool {
        matches!(self.end, End::Answered { status: 200, .. }) && self.took <= Duration::from_secs(1)
    }

    pub(crate) fn line(&self) -> String {
        let (status, cloud, generation) = match &self.end {
            End::Answered {
                status,
                cloud,
                generation,
            } => (status.to_string(), cloud.as_str(), *generation),
            End::Failed(why) => ((*why).to_owned(), "", 0),
        };
        let mut line = String::new();
        let _ = write!(
            line,
            "{:?},{},{},{status},{cloud},{generation}",
            self.kind,
            self.intended.since_start().as_micros(),
            self.took.as_micros(),
        );
        line
    }
}

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) records: Vec<Record>,
    /// Connections that the proxy had closed, and others took the place of.
    pub(crate) replaced: u64,
    /// Downloads that came to their end, and why others did not.
    pub(crate) downloads: u64,
    /// Conversations likewise.
    pub(crate) chats: u64,
    pub(crate) broken: Vec<String>,
}

/// Clients at work, in a thread of their own.
pub(crate) struct Clients(JoinHandle<Report>);

impl Clients {
    /// Begins at once.
    pub(crate) fn start(plan: Plan, clock: Clock, cores: &CpuSet) -> Self {
        let cores = *cores;
        Self(std::thread::spawn(move || {
            sched_setaffinity(Pid::from_raw(0), &cores).expect("cores that this process may use");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            LocalSet::new().block_on(&runtime, run(plan, clock))
        }))
    }

    /// What they saw, when they are done.
    pub(crate) async fn done(self) -> Report {
        while !self.0.is_finished() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.0.join().expect("clients do not panic")
    }
}

/// A connection that can take a request.
type Connection = SendRequest<Full<Bytes>>;

/// What all clients share.
struct Shared {
    plan: Plan,
    clock: Clock,
    idle: RefCell<VecDeque<Connection>>,
    report: RefCell<Report>,
    under_way: Cell<u64>,
}

async fn run(plan: Plan, clock: Clock) -> Report {
    let shared = Rc::new(Shared {
        plan: plan.clone(),
        clock,
        idle: RefCell::default(),
        report: RefCell::default(),
        under_way: Cell::new(0),
    });
    let mut long = Vec::new();
    for number in 0..plan.downloads {
        let (shared, wait) = (shared.clone(), plan.download_every * number);
        long.push(tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            let ended = tokio::time::timeout(DOWNLOAD_PATIENCE, download(plan.listen)).await;
            let mut report = shared.report.borrow_mut();
            match ended.unwrap_or_else(|_| Err("it does not end".to_owned())) {
                Ok(()) => report.downloads += 1,
                Err(why) => report.broken.push(format!("download {number}: {why}")),
            }
        }));
    }
    let until = clock.now() + plan.span;
    for number in 0..plan.chats {
        let shared = shared.clone();
        long.push(tokio::task::spawn_local(async move {
            let ended = chat(plan.listen, clock, until).await;
            let mut report = shared.report.borrow_mut();
            match ended {
                Ok(()) => report.chats += 1,
                Err(why) => report.broken.push(format!("conversation {number}: {why}")),
            }
        }));
    }
    pace(&shared).await;
    while shared.under_way.get() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for stream in long {
        stream.await.expect("clients do not panic");
    }
    let report = shared.report.take();
    shared.idle.take();
    report
}

/// Sends requests at their times.
async fn pace(shared: &Rc<Shared>) {
    let plan = &shared.plan;
    let rate = plan.gets_per_second + plan.posts_per_second + plan.deletes_per_second;
    let rate = u64::from(rate);
    let timer = timer(Duration::from_nanos(1_000_000_000 / rate)).expect("a timer");
    let began = shared.clock.now();
    let total = rate * plan.span.as_millis() as u64 / 1_000;
    // Posts and deletes so far.
    let mut others = [0, 0];
    let mut sent = 0;
    while sent < total {
        timer.readable().await.expect("a timer");
        // How often it fired does not matter: the clock says how many are due.
        let _ = timer.try_read(&mut [0; 8]);
        let now = shared.clock.now();
        while sent < total {
            let intended = began + Duration::from_nanos(sent * 1_000_000_000 / rate);
            if intended > now {
                break;
            }
            sent += 1;
            // Spread evenly among the GETs.
            let due = |per_second: u32| sent * u64::from(per_second) / rate;
            let kind = if due(plan.posts_per_second) > others[0] {
                others[0] += 1;
                Kind::Post
            } else if due(plan.deletes_per_second) > others[1] {
                others[1] += 1;
                Kind::Delete
            } else {
                Kind::Get
            };
            shared.under_way.set(shared.under_way.get() + 1);
            tokio::task::spawn_local(one(shared.clone(), kind, sent, intended));
        }
    }
}

/// A timer that fires so often; the runtime's own count in milliseconds.
fn timer(every: Duration) -> std::io::Result<pipe::Receiver> {
    let fd = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    let every = Timespec {
        tv_sec: 0,
        tv_nsec: every.subsec_nanos().into(),
    };
    let times = Itimerspec {
        it_interval: every,
        it_value: every,
    };
    timerfd_settime(&fd, TimerfdTimerFlags::empty(), &times)?;
    // Read as a pipe is.
    pipe::Receiver::from_owned_fd_unchecked(fd)
}

/// One request.
async fn one(shared: Rc<Shared>, kind: Kind, number: u64, intended: Tick) {
    let asked = ask(&shared, kind, number);
    let asked = match tokio::time::timeout(shared.plan.patience, asked).await {
        Ok(asked) => asked,
        Err(_) => Err("no answer"),
    };
    let (end, connection) = match asked {
        Ok((end, connection)) => (end, Some(connection)),
        Err(why) => (End::Failed(why), None),
    };
    let took = shared.clock.now().since(intended);
    shared.report.borrow_mut().records.push(Record {
        kind,
        intended,
        took,
        end,
    });
    if let Some(mut connection) = connection {
        // Ready when the connection has seen the end, too; closed if it was the last answer.
        if connection.ready().await.is_ok() {
            shared.idle.borrow_mut().push_back(connection);
        } else {
            shared.report.borrow_mut().replaced += 1;
        }
    }
    shared.under_way.set(shared.under_way.get() - 1);
}

async fn ask(shared: &Shared, kind: Kind, number: u64) -> Result<(End, Connection), &'static str> {
    let mut request = request(kind, shared.plan.path, number);
    loop {
        let idle = shared.idle.borrow_mut().pop_front();
        let mut connection = match idle {
            Some(connection) if connection.is_ready() => connection,
            Some(_) => {
                shared.report.borrow_mut().replaced += 1;
                continue;
            }
            None => open(shared.plan.listen).await?,
        };
        let answer = match connection.try_send_request(request).await {
            Ok(answer) => answer,
            Err(mut error) => match error.take_message() {
                // Closed before anything of it was written.
                Some(unsent) => {
                    request = unsent;
                    shared.report.borrow_mut().replaced += 1;
                    continue;
                }
                None => return Err("broken before the answer"),
            },
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|_| "broken in the answer")?;
        if head.status == 200 && body.to_bytes().len() != BODY {
            return Err("another answer");
        }
        let end = End::Answered {
            status: head.status.as_u16(),
            cloud: text(&head.headers, "x-cloud").to_owned(),
            generation: text(&head.headers, "x-generation").parse().unwrap_or(0),
        };
        return Ok((end, connection));
    }
}

fn request(kind: Kind, path: &str, number: u64) -> Request<Full<Bytes>> {
    static BODY_SENT: [u8; 1024] = [b'x'; 1024];
    let request = Request::builder()
        .uri(path)
        .header("host", "bench.test")
        // By which endpoints know whether they had it before.
        .header("x-number", number);
    let request = match kind {
        Kind::Get => request.body(Full::default()),
        Kind::Delete => request.method("DELETE").body(Full::default()),
        Kind::Post => request
            .method("POST")
            .body(Full::new(Bytes::from_static(&BODY_SENT))),
    };
    request.expect("a request")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

async fn open(listen: SocketAddr) -> Result<Connection, &'static str> {
    let stream = TcpStream::connect(listen)
        .await
        .map_err(|_| "no connection")?;
    stream.set_nodelay(true).map_err(|_| "no connection")?;
    let (sender, connection) = handshake(TokioIo::new(stream))
        .await
        .map_err(|_| "no connection")?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// One request, over a connection of its own: the status of its answer, and who answered.
pub(crate) async fn single(
    listen: SocketAddr,
    request: Request<Full<Bytes>>,
    patience: Duration,
) -> Result<(u16, String), &'static str> {
    let asking = async {
        let stream = TcpStream::connect(listen)
            .await
            .map_err(|_| "no connection")?;
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|_| "no connection")?;
        tokio::spawn(connection);
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|_| "broken before the answer")?.into_parts();
        body.collect().await.map_err(|_| "broken in the answer")?;
        let cloud = text(&head.headers, "x-cloud").to_owned();
        Ok((head.status.as_u16(), cloud))
    };
    let asked = tokio::time::timeout(patience, asking).await;
    asked.unwrap_or(Err("no answer"))
}

/// A long answer, to its end.
async fn download(listen: SocketAddr) -> Result<(), String> {
    let mut connection = open(listen).await?;
    let request = Request::builder().uri("/slow").header("host", "bench.test");
    let request = request.body(Full::default()).expect("a request");
    let answer = connection.send_request(request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status() != 200 {
        return Err(answer.status().to_string());
    }
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    if body.len() == PARTS * PART {
        Ok(())
    } else {
        Err(format!("{} bytes", body.len()))
    }
}

/// A conversation: every message is heard again.
async fn chat(listen: SocketAddr, clock: Clock, until: Tick) -> Result<(), String> {
    let stream = TcpStream::connect(listen)
        .await
        .map_err(|error| error.to_string())?;
    let url = format!("ws://{listen}/chat");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream)
        .await
        .map_err(|error| error.to_string())?;
    for number in 0_u32.. {
        if clock.now() >= until {
            break;
        }
        let said = Message::text(number.to_string());
        let heard = async {
            socket.send(said.clone()).await?;
            socket.next().await.transpose()
        };
        match tokio::time::timeout(CHAT_PATIENCE, heard).await {
            Ok(Ok(Some(heard))) if heard == said => {}
            Ok(Ok(heard)) => return Err(format!("heard {heard:?}")),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no word".to_owned()),
        }
        tokio::time::sleep(CHAT_EVERY).await;
    }
    socket.close(None).await.map_err(|error| error.to_string())
}
