//! An endpoint that writes down what it gets, byte by byte, so that a test sees what was forwarded
//! and not what a friendly server makes of it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Answers every request with 200.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Recorded>>>,
    task: JoinHandle<()>,
}

/// A request as it came, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Recorded {
    /// `GET /path`
    pub(crate) fn line(&self) -> &str {
        let line = self.head.lines().next().unwrap_or_default();
        line.strip_suffix(" HTTP/1.1").unwrap_or(line)
    }

    /// All values of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1);
        let pairs = lines.filter_map(|line| line.split_once(':'));
        pairs
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::default());
        let record = requests.clone();
        let task = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        let record = record.clone();
                        clients.spawn(async move {
                            let _ = converse(stream, &record).await;
                        });
                    }
                    Some(done) = clients.join_next() => done.unwrap(),
                }
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// What came since the last time, except probes.
    pub(crate) fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(mut stream: TcpStream, record: &Mutex<Vec<Recorded>>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                let rest = bytes.split_off(end + 4);
                break String::from_utf8(std::mem::replace(&mut bytes, rest)).unwrap();
            }
            more(&mut stream, &mut bytes).await?;
        };
        let mut request = Recorded {
            head,
            body: Vec::new(),
        };
        let lengths = request.values("content-length");
        let codings = request.values("transfer-encoding");
        assert!(
            lengths.len() + codings.len() <= 1,
            "one way to know how long a body is: {}",
            request.head
        );
        if let [length] = lengths[..] {
            let length: usize = length.parse().unwrap();
            while bytes.len() < length {
                more(&mut stream, &mut bytes).await?;
            }
            let rest = bytes.split_off(length);
            request.body = std::mem::replace(&mut bytes, rest);
        } else if let [coding] = codings[..] {
            assert_eq!(coding, "chunked");
            loop {
                let size = line(&mut stream, &mut bytes).await?;
                let size = usize::from_str_radix(&size, 16).unwrap();
                while bytes.len() < size + 2 {
                    more(&mut stream, &mut bytes).await?;
                }
                let rest = bytes.split_off(size + 2);
                let mut chunk = std::mem::replace(&mut bytes, rest);
                assert!(chunk.ends_with(b"\r\n"));
                chunk.truncate(size);
                request.body.extend(chunk);
                if size == 0 {
                    break;
                }
            }
        }
        if request.line() != "GET /health" {
            record.lock().unwrap().push(request);
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn line(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<String> {
    loop {
        if let Some(end) = bytes.windows(2).position(|end| end == b"\r\n") {
            let rest = bytes.split_off(end + 2);
            let mut line = std::mem::replace(bytes, rest);
            line.truncate(end);
            return Ok(String::from_utf8(line).unwrap());
        }
        more(stream, bytes).await?;
    }
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    match stream.read_buf(bytes).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
