//! One cloud: endpoints that answer from memory, until they are told to fail.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use tokio_tungstenite::tungstenite::Message;

use futures_util::{SinkExt as _, StreamExt as _};

/// Bytes of a usual answer's body.
pub(crate) const BODY: usize = 1024;

/// A long download: so many parts, one after the other with a pause.
pub(crate) const PARTS: usize = 240;
pub(crate) const PART: usize = 1024;
const PAUSE: Duration = Duration::from_millis(100);

/// The largest head of a request that is read.
const LARGEST_HEAD: usize = 16 * 1024;

/// How long `/takes-3s` takes.
const LONG: Duration = Duration::from_secs(3);

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Serving,
    /// 503 to everything.
    Failing,
    /// 503 to everything but probes.
    Erring,
}

/// What it has seen.
#[derive(Default)]
struct Seen {
    requests: Cell<u64>,
    /// Those that are no GETs: method and number, a line each.
    numbers: RefCell<String>,
}

/// Serves at these addresses, for ever: requests at all of them but the last, WebSocket there. Says
/// a line when it serves, and whenever it was told to fail (SIGUSR1), to fail but for probes (SIGHUP)
/// or to serve again (SIGUSR2).
pub(crate) async fn serve(name: &str, addresses: Vec<SocketAddr>) {
    let local = LocalSet::new();
    let mood = Rc::new(Cell::new(Mood::Serving));
    let seen = Rc::<Seen>::default();
    let answers: &'static Answers = Box::leak(Box::new(Answers::of(name)));
    let (chat, requests) = addresses.split_last().expect("addresses");
    let chat = listen(*chat);
    local.spawn_local(async move {
        loop {
            let (stream, _) = chat.accept().await.expect("a connection");
            tokio::task::spawn_local(echo(stream));
        }
    });
    for address in requests {
        let (listener, mood, seen) = (listen(*address), mood.clone(), seen.clone());
        local.spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (mood, seen) = (mood.clone(), seen.clone());
                tokio::task::spawn_local(async move {
                    // A connection that breaks is over; whoever broke it knows.
                    let _ = converse(stream, answers, &mood, &seen).await;
                });
            }
        });
    }
    let mut fail = signal(SignalKind::user_defined1()).expect("a signal");
    let mut err = signal(SignalKind::hangup()).expect("a signal");
    let mut heal = signal(SignalKind::user_defined2()).expect("a signal");
    local
        .run_until(async {
            loop {
                say(match mood.get() {
                    Mood::Serving => "serving",
                    Mood::Failing => "failing",
                    Mood::Erring => "erring",
                });
                tokio::select! {
                    _ = fail.recv() => mood.set(Mood::Failing),
                    _ = err.recv() => mood.set(Mood::Erring),
                    _ = heal.recv() => mood.set(Mood::Serving),
                }
            }
        })
        .await;
}

pub(crate) fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}").expect("somebody listens");
    out.flush().expect("somebody listens");
}

/// Listens where the driver keeps the address for this cloud, in life and death.
pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    let listening = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        TcpListener::from_std(socket.into())
    };
    listening().expect("the address is kept")
}

/// Whole answers.
struct Answers {
    name: String,
    usual: Vec<u8>,
    unavailable: Vec<u8>,
    download: Vec<u8>,
}

impl Answers {
    fn of(name: &str) -> Self {
        let head = |status: &str, length: usize| head(name, status, length).into_bytes();
        let mut usual = head("200 OK", BODY);
        usual.resize(usual.len() + BODY, b'x');
        Self {
            name: name.to_owned(),
            usual,
            unavailable: head("503 Service Unavailable", 0),
            download: head("200 OK", PARTS * PART),
        }
    }

    fn saying(&self, text: &str) -> Vec<u8> {
        (head(&self.name, "200 OK", text.len()) + text).into_bytes()
    }
}

fn head(name: &str, status: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\nx-cloud: {name}\r\ncontent-type: text/plain\r\n\
         content-length: {length}\r\n\r\n"
    )
}

async fn converse(
    mut stream: TcpStream,
    answers: &Answers,
    mood: &Cell<Mood>,
    seen: &Seen,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let head = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if buffer.len() > LARGEST_HEAD || stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).into_owned();
        let rest = number(&text, "content-length").unwrap_or(0) as usize;
        let mut line = text.split(' ');
        let (method, path) = (line.next().unwrap_or(""), line.next().unwrap_or(""));
        while buffer.len() < head + rest {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.drain(..head + rest);
        // What the driver asks, and probes.
        let aside = match path {
            "/health" if mood.get() != Mood::Failing => Some("ok".to_owned()),
            "/numbers" => Some(seen.numbers.borrow().clone()),
            "/count" => Some(seen.requests.get().to_string()),
            _ => None,
        };
        if let Some(said) = aside {
            stream.write_all(&answers.saying(&said)).await?;
            if text.contains("connection: close") {
                return stream.shutdown().await;
            }
            continue;
        }
        if path != "/health" {
            seen.requests.set(seen.requests.get() + 1);
        }
        if let (Some(number), true) = (number(&text, "x-number"), method != "GET") {
            let _ = writeln!(seen.numbers.borrow_mut(), "{method} {number}");
        }
        match path {
            _ if mood.get() != Mood::Serving => stream.write_all(&answers.unavailable).await?,
            "/by-design" => stream.write_all(&answers.unavailable).await?,
            "/20ms" => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                stream.write_all(&answers.usual).await?;
            }
            "/takes-3s" => {
                tokio::time::sleep(LONG).await;
                stream.write_all(&answers.usual).await?;
            }
            "/slow" => {
                stream.write_all(&answers.download).await?;
                for _ in 0..PARTS {
                    stream.write_all(&[b'x'; PART]).await?;
                    tokio::time::sleep(PAUSE).await;
                }
            }
            _ => stream.write_all(&answers.usual).await?,
        }
    }
}

/// A header that is a number.
fn number(head: &str, name: &str) -> Option<u64> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .find_map(|(_, value)| value.trim().parse().ok())
}

/// Says every message again.
async fn echo(stream: TcpStream) {
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
        return;
    };
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}
