//! Endpoints that do as little as they can: answers come from memory, and what requests bring is
//! read and forgotten.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a usual answer's body, and of one to a path that begins with [`LARGE_PATH`].
pub(crate) const SMALL: usize = 1024;
pub(crate) const LARGE: usize = 1 << 20;

pub(crate) const LARGE_PATH: &str = "/large";

/// How many probes there were is asked for here.
const PROBED_PATH: &str = "/probed";

static PROBED: AtomicU64 = AtomicU64::new(0);

/// What is read of a head at once, and of a body.
const HEAD_BUFFER: usize = 4 * 1024;
const BODY_BUFFER: usize = 256 * 1024;

/// So many endpoints, for ever. Says their addresses, a line each.
pub(crate) async fn serve(count: usize) {
    let mut listeners = Vec::new();
    for _ in 0..count {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address: SocketAddr = listener.local_addr().expect("it is bound");
        say(address);
        listeners.push(listener);
    }
    let answers: [&'static [u8]; 2] = [SMALL, LARGE].map(answer);
    for listener in listeners {
        tokio::spawn(accept(listener, answers));
    }
    std::future::pending::<()>().await;
}

#[expect(clippy::print_stdout, reason = "whoever started this waits for it")]
fn say(address: SocketAddr) {
    println!("{address}");
}

fn answer(body: usize) -> &'static [u8] {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\
         cache-control: no-store\r\ncontent-length: {body}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + body, b'x');
    answer.leak()
}

async fn accept(listener: TcpListener, answers: [&'static [u8]; 2]) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(async move {
            // A connection that breaks is over; whoever broke it knows.
            let _ = converse(stream, answers).await;
        });
    }
}

/// Requests come one at a time.
async fn converse(mut stream: TcpStream, [small, large]: [&[u8]; 2]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = Vec::with_capacity(HEAD_BUFFER);
    while stream.read_buf(&mut read).await? > 0 {
        let Some(end) = end_of_head(&read) else {
            continue;
        };
        let head = &read[..end];
        let count;
        let answer = match path(head) {
            path if path.starts_with(b"/v1") => small,
            path if path.starts_with(LARGE_PATH.as_bytes()) => large,
            path if path.starts_with(PROBED_PATH.as_bytes()) => {
                let probed = PROBED.load(Ordering::Relaxed).to_string();
                let length = probed.len();
                count = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{probed}");
                count.as_bytes()
            }
            path => {
                let probe = path.starts_with(b"/health");
                PROBED.fetch_add(u64::from(probe), Ordering::Relaxed);
                small
            }
        };
        let mut missing = body_length(head).saturating_sub(read.len() - end);
        while missing > 0 {
            read.clear();
            // Only those that get bodies need so much.
            read.reserve(BODY_BUFFER);
            let more = stream.read_buf(&mut read).await?;
            if more == 0 {
                return Ok(());
            }
            missing = missing.saturating_sub(more);
        }
        read.clear();
        stream.write_all(answer).await?;
    }
    Ok(())
}

/// Where a head ends.
pub(crate) fn end_of_head(read: &[u8]) -> Option<usize> {
    const END: &[u8; 4] = b"\r\n\r\n";
    // Mostly there is nothing after it.
    if read.ends_with(END) {
        return Some(read.len());
    }
    let at = read.windows(END.len()).position(|four| four == END)?;
    Some(at + END.len())
}

/// The length of the body that follows a head.
fn body_length(head: &[u8]) -> usize {
    if head.starts_with(b"GET ") {
        return 0;
    }
    let mut lines = head.split(|byte| *byte == b'\n');
    let length = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(b"content-length:".len())?;
        name.eq_ignore_ascii_case(b"content-length:")
            .then(|| value.trim_ascii())
    });
    let digits = length.and_then(|length| std::str::from_utf8(length).ok());
    digits.map_or(0, |digits| digits.parse().expect("a length"))
}

fn path(head: &[u8]) -> &[u8] {
    let at = head.iter().position(|byte| *byte == b' ');
    at.map_or(&[], |at| &head[at + 1..])
}

/// How many probes the endpoints of this process have answered.
pub(crate) fn probed(endpoint: SocketAddr) -> u64 {
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(endpoint)?;
        let request = format!("GET {PROBED_PATH} HTTP/1.1\r\nhost: probed.test\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().expect("the endpoints answer");
    let (_, count) = answer.rsplit_once('\n').expect("an answer");
    count.parse().expect("a number")
}
