//! One cloud: endpoints that answer from memory, until they are told to fail.

use std::cell::Cell;
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

/// Serves at these addresses, for ever: requests at all of them but the last, WebSocket there. Says
/// a line when it serves, and whenever it was told to fail (SIGUSR1) or to serve again (SIGUSR2).
pub(crate) async fn serve(name: &str, addresses: Vec<SocketAddr>) {
    let local = LocalSet::new();
    let failing = Rc::new(Cell::new(false));
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
        let (listener, failing) = (listen(*address), failing.clone());
        local.spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let failing = failing.clone();
                tokio::task::spawn_local(async move {
                    // A connection that breaks is over; whoever broke it knows.
                    let _ = converse(stream, answers, &failing).await;
                });
            }
        });
    }
    let mut fail = signal(SignalKind::user_defined1()).expect("a signal");
    let mut heal = signal(SignalKind::user_defined2()).expect("a signal");
    local
        .run_until(async {
            loop {
                say(if failing.get() { "failing" } else { "serving" });
                tokio::select! {
                    _ = fail.recv() => failing.set(true),
                    _ = heal.recv() => failing.set(false),
                }
            }
        })
        .await;
}

fn say(word: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{word}").expect("somebody listens");
    out.flush().expect("somebody listens");
}

/// Listens where the driver keeps the address for this cloud, in life and death.
fn listen(address: SocketAddr) -> TcpListener {
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
    usual: Vec<u8>,
    healthy: Vec<u8>,
    unavailable: Vec<u8>,
    download: Vec<u8>,
}

impl Answers {
    fn of(name: &str) -> Self {
        let head = |status: &str, length: usize| {
            format!(
                "HTTP/1.1 {status}\r\nx-cloud: {name}\r\ncontent-type: text/plain\r\n\
                 content-length: {length}\r\n\r\n"
            )
            .into_bytes()
        };
        let mut usual = head("200 OK", BODY);
        usual.resize(usual.len() + BODY, b'x');
        Self {
            usual,
            healthy: [head("200 OK", 2), b"ok".to_vec()].concat(),
            unavailable: head("503 Service Unavailable", 0),
            download: head("200 OK", PARTS * PART),
        }
    }
}

async fn converse(
    mut stream: TcpStream,
    answers: &Answers,
    failing: &Cell<bool>,
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
        let rest = length(&buffer[..head]);
        let path: Vec<u8> = buffer[..head]
            .split(|byte| *byte == b' ')
            .nth(1)
            .unwrap_or_default()
            .to_vec();
        while buffer.len() < head + rest {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        buffer.drain(..head + rest);
        match path.as_slice() {
            _ if failing.get() => stream.write_all(&answers.unavailable).await?,
            b"/health" => stream.write_all(&answers.healthy).await?,
            b"/slow" => {
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

/// How long a request's body is.
fn length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head);
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
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
