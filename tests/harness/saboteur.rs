//! Endpoints that fail in one exact way, whatever they speak: what a test expects of HTTP/1.1 it can
//! expect of HTTP/2 as well. (For HTTP/1.1 byte by byte there is `rogue`.)

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::certificates::Identity;
use super::wire::{Line, Wire};

/// What is announced of a body, and its pieces.
const LENGTH: usize = 10;
pub(crate) const HALF: &str = "half,";
pub(crate) const WHOLE: &str = "half,whole";

/// In which way it fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sabotage {
    /// Resets connections when they are accepted.
    ResetAtOnce,
    /// Accepts connections and never says a word, not even about TLS.
    DeafAtOnce,
    /// Resets the connection when it has the whole request.
    ResetAfterRequest,
    /// Closes the connection when it has the whole request.
    CloseAfterRequest,
    /// Takes requests and never answers.
    Stall,
    /// Answers what is not HTTP, or not this version.
    Garbage,
    /// HTTP/2: resets the stream when it has the whole request.
    CancelAfterRequest,
    /// Answers with the head and one half of the body; the rest when it is told to.
    Half(Rest),
}

/// What comes instead of the other half.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rest {
    /// The connection is closed.
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing, ever.
    Nothing,
    /// HTTP/2: the end of the answer.
    End,
    /// HTTP/2: the stream is reset.
    Cancel,
    /// More than was announced.
    TooMuch,
    /// The other half, byte by byte.
    Drip(Duration),
}

/// An endpoint that fails.
pub(crate) struct Saboteur {
    pub(crate) address: SocketAddr,
    go: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Saboteur {
    pub(crate) async fn start(wire: Wire, how: Sabotage, identity: &Identity) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let go = Arc::new(Semaphore::new(0));
        let told = go.clone();
        let tls = wire.acceptor(identity);
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        stream.set_nodelay(true).unwrap();
                        clients.spawn(receive(stream, tls.clone(), wire, how, told.clone()));
                    }
                    Some(_) = clients.join_next() => {}
                }
            }
        });
        Self { address, go, task }
    }

    /// The client has the first half of an answer: what comes instead of the other may come.
    pub(crate) fn go_on(&self) {
        self.go.add_permits(1);
    }
}

impl Drop for Saboteur {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    wire: Wire,
    how: Sabotage,
    go: Arc<Semaphore>,
) {
    match how {
        Sabotage::ResetAtOnce => return Box::new(stream).reset(),
        Sabotage::DeafAtOnce => return read_on(&mut Box::new(stream)).await,
        _ => {}
    }
    let line: Box<dyn Line> = match tls {
        None => Box::new(stream),
        // Whoever breaks the handshake off has the test's reasons.
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    // A broken connection is the end of it, as it is meant to be.
    let _ = if wire.is_http2() {
        speak_http2(line, how, &go).await
    } else {
        speak_http1(line, how, &go).await
    };
}

async fn read_on(line: &mut Box<impl Line + ?Sized>) {
    let mut piece = [0; 4096];
    while let Ok(1..) = line.read(&mut piece).await {}
}

async fn speak_http1(
    mut line: Box<dyn Line>,
    how: Sabotage,
    go: &Semaphore,
) -> std::io::Result<()> {
    loop {
        request_http1(&mut line).await?;
        let rest = match how {
            Sabotage::ResetAtOnce | Sabotage::ResetAfterRequest => {
                line.reset();
                return Ok(());
            }
            Sabotage::CloseAfterRequest => return Ok(()),
            Sabotage::CancelAfterRequest => unreachable!("HTTP/1.1 has no streams"),
            Sabotage::DeafAtOnce | Sabotage::Stall => {
                read_on(&mut line).await;
                return Ok(());
            }
            Sabotage::Garbage => {
                line.write_all(b"HTTQ/1.1 20O OK\r\n\r\n").await?;
                read_on(&mut line).await;
                return Ok(());
            }
            Sabotage::Half(rest) => rest,
        };
        let length = match rest {
            Rest::TooMuch => HALF.len(),
            _ => LENGTH,
        };
        let head = format!("HTTP/1.1 200 OK\r\nx-origin: bad\r\ncontent-length: {length}\r\n\r\n");
        let first = match rest {
            // All of what was announced would be the end of the answer already.
            Rest::TooMuch => "",
            _ => HALF,
        };
        line.write_all(format!("{head}{first}").as_bytes()).await?;
        line.flush().await?;
        go.acquire().await.unwrap().forget();
        match rest {
            Rest::Close => return line.shutdown().await,
            Rest::Reset => {
                line.reset();
                return Ok(());
            }
            Rest::Nothing => {
                read_on(&mut line).await;
                return Ok(());
            }
            Rest::End | Rest::Cancel => unreachable!("HTTP/1.1 has no streams"),
            Rest::TooMuch => {
                line.write_all(WHOLE.as_bytes()).await?;
                line.flush().await?;
                read_on(&mut line).await;
                return Ok(());
            }
            Rest::Drip(pause) => {
                for byte in WHOLE.bytes().skip(HALF.len()) {
                    tokio::time::sleep(pause).await;
                    line.write_all(&[byte]).await?;
                    line.flush().await?;
                }
            }
        }
    }
}

/// Reads one request to the end of its body.
async fn request_http1(line: &mut Box<dyn Line>) -> std::io::Result<()> {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = seen.windows(4).position(|end| end == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
            let (_, length) = head.split_once("content-length: ").unwrap_or(("", "0"));
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if seen.len() >= end + 4 + length {
                return Ok(());
            }
        }
        let mut piece = [0; 4096];
        match line.read(&mut piece).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => seen.extend_from_slice(&piece[..count]),
        }
    }
}

/// The frames of HTTP/2 that are spoken here (RFC 9113, section 6).
mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;

    /// Of SETTINGS and PING.
    pub(super) const ACK: u8 = 1;
    /// Of DATA and HEADERS.
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
}

const PREFACE: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const INTERNAL_ERROR: u32 = 2;

async fn speak_http2(
    mut line: Box<dyn Line>,
    how: Sabotage,
    go: &Semaphore,
) -> std::io::Result<()> {
    line.read_exact(&mut [0; PREFACE]).await?;
    say(&mut line, frame::SETTINGS, 0, 0, b"").await?;
    loop {
        let stream = request_http2(&mut line).await?;
        let rest = match how {
            Sabotage::ResetAtOnce | Sabotage::ResetAfterRequest => {
                line.reset();
                return Ok(());
            }
            Sabotage::CloseAfterRequest => return Ok(()),
            Sabotage::CancelAfterRequest => {
                let why = INTERNAL_ERROR.to_be_bytes();
                say(&mut line, frame::RST_STREAM, 0, stream, &why).await?;
                continue;
            }
            Sabotage::DeafAtOnce | Sabotage::Stall => continue,
            Sabotage::Garbage => {
                line.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
                line.flush().await?;
                read_on(&mut line).await;
                return Ok(());
            }
            Sabotage::Half(rest) => rest,
        };
        say(
            &mut line,
            frame::HEADERS,
            frame::END_HEADERS,
            stream,
            &head_http2(),
        )
        .await?;
        say(&mut line, frame::DATA, 0, stream, HALF.as_bytes()).await?;
        go.acquire().await.unwrap().forget();
        match rest {
            Rest::Close => return line.shutdown().await,
            Rest::Reset => {
                line.reset();
                return Ok(());
            }
            Rest::Nothing => {}
            Rest::End => say(&mut line, frame::DATA, frame::END_STREAM, stream, b"").await?,
            Rest::Cancel => {
                let why = INTERNAL_ERROR.to_be_bytes();
                say(&mut line, frame::RST_STREAM, 0, stream, &why).await?;
            }
            Rest::TooMuch => {
                let more = WHOLE.as_bytes();
                say(&mut line, frame::DATA, frame::END_STREAM, stream, more).await?;
            }
            Rest::Drip(pause) => {
                for (at, byte) in WHOLE.bytes().enumerate().skip(HALF.len()) {
                    tokio::time::sleep(pause).await;
                    let end = at + 1 == WHOLE.len();
                    let flags = if end { frame::END_STREAM } else { 0 };
                    say(&mut line, frame::DATA, flags, stream, &[byte]).await?;
                }
            }
        }
    }
}

/// `:status: 200`, `content-length` and `x-origin: bad`, in HPACK without any table but the static
/// one (RFC 7541).
fn head_http2() -> Vec<u8> {
    let length = LENGTH.to_string();
    let mut head = vec![0x88, 0x0f, 28 - 15, length.len() as u8];
    head.extend_from_slice(length.as_bytes());
    head.extend_from_slice(b"\x00\x08x-origin\x03bad");
    head
}

/// Reads frames until a request is complete. The number of its stream.
async fn request_http2(line: &mut Box<dyn Line>) -> std::io::Result<u32> {
    loop {
        let mut head = [0; 9];
        line.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, rest @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        line.read_exact(&mut payload).await?;
        match kind {
            frame::HEADERS | frame::DATA if flags & frame::END_STREAM != 0 => {
                return Ok(u32::from_be_bytes(rest));
            }
            frame::SETTINGS if flags & frame::ACK == 0 => {
                say(line, frame::SETTINGS, frame::ACK, 0, b"").await?;
            }
            frame::PING if flags & frame::ACK == 0 => {
                say(line, frame::PING, frame::ACK, 0, &payload).await?;
            }
            _ => {}
        }
    }
}

async fn say(
    line: &mut Box<dyn Line>,
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &[u8],
) -> std::io::Result<()> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    line.write_all(&bytes).await?;
    line.flush().await
}
