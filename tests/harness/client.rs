//! Clients: one request, raw bytes, or load without end.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::deadline::soon;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {:?}", self.status, self.text()))
    }

    /// A header, or nothing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Which endpoint answered.
    pub(crate) fn origin(&self) -> &str {
        self.header("x-origin")
    }
}

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A request to be sent.
pub(crate) struct Ask {
    request: http::request::Builder,
    body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: Method, path: &str) -> Self {
        Self {
            request: Request::builder().method(method).uri(path),
            body: Bytes::new(),
        }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn build(mut self, host: &str) -> Request<Full<Bytes>> {
        let headers = self.request.headers_mut().unwrap();
        if !headers.contains_key("host") {
            headers.insert("host", host.parse().unwrap());
        }
        self.request.body(Full::new(self.body)).unwrap()
    }

    /// Sends it over a connection of its own.
    pub(crate) async fn to(self, address: SocketAddr) -> Result<Answer, Failure> {
        let request = self.build(&address.to_string());
        let mut connection = Connection::open(address).await?;
        connection.exchange(request).await
    }
}

/// Gets something over a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<Answer, Failure> {
    Ask::get(path).to(address).await
}

/// Gets something that has to be had.
#[track_caller]
pub(crate) fn fetch(address: SocketAddr, path: &str) -> impl Future<Output = Answer> {
    let asking = get(address, path);
    async move { soon("an answer", asking).await.unwrap() }
}

/// An HTTP/1.1 connection.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream, &address.to_string()).await
    }

    /// Over a stream that is there already.
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: &str,
    ) -> Result<Self, Failure> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host: host.to_owned(),
        })
    }

    pub(crate) async fn ask(&mut self, ask: Ask) -> Result<Answer, Failure> {
        let request = ask.build(&self.host);
        self.exchange(request).await
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        self.sender.ready().await?;
        collect(self.sender.send_request(request).await?).await
    }

    /// Sends a request and leaves the body of the answer to the caller.
    pub(crate) async fn begin(&mut self, ask: Ask) -> http::Response<Incoming> {
        let request = ask.build(&self.host);
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// An HTTP/2 connection, with prior knowledge.
#[derive(Clone)]
pub(crate) struct Connection2 {
    sender: http2::SendRequest<Full<Bytes>>,
}

impl Connection2 {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        Self::over(TcpStream::connect(address).await?).await
    }

    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, Failure> {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Gets something of a whole URL: HTTP/2 says scheme and host there.
    pub(crate) async fn get(&mut self, url: &str) -> Result<Answer, Failure> {
        let request = Request::get(url).body(Full::new(Bytes::new()))?;
        self.send(request).await
    }

    /// The same, unless the other side has said that it takes no more: then nothing was sent, and
    /// there is no answer.
    pub(crate) async fn get_unless_gone(&mut self, url: &str) -> Result<Option<Answer>, Failure> {
        let request = Request::get(url).body(Full::new(Bytes::new()))?;
        if self.sender.ready().await.is_err() {
            return Ok(None);
        }
        match self.sender.try_send_request(request).await {
            Ok(response) => Ok(Some(collect(response).await?)),
            Err(mut error) => {
                if error.take_message().is_some() {
                    return Ok(None);
                }
                // Streams that the other side has taken are answered after this (RFC 9113, 6.8).
                let error = error.into_error();
                let cause = error.source().and_then(|it| it.downcast_ref::<h2::Error>());
                let refused = cause.is_some_and(|cause| {
                    cause.is_go_away()
                        && cause.is_remote()
                        && cause.reason() == Some(h2::Reason::NO_ERROR)
                });
                if refused { Ok(None) } else { Err(error.into()) }
            }
        }
    }

    /// Sends a request and leaves the body of the answer to the caller.
    pub(crate) async fn begin(&mut self, ask: Ask) -> http::Response<Incoming> {
        let mut request = ask.build("portolan.example");
        let host = request.headers_mut().remove("host").unwrap();
        let whole = format!("http://{}{}", host.to_str().unwrap(), request.uri());
        *request.uri_mut() = whole.parse().unwrap();
        self.sender.ready().await.unwrap();
        self.sender.send_request(request).await.unwrap()
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        self.sender.ready().await?;
        collect(self.sender.send_request(request).await?).await
    }
}

async fn collect(response: http::Response<Incoming>) -> Result<Answer, Failure> {
    let (parts, body) = response.into_parts();
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await?.to_bytes(),
    })
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let talking = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is an end, too.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    soon("the connection is closed", talking).await
}

/// Load without end: so many clients, each with a connection that it keeps, one request after
/// another.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    clients: JoinSet<Tally>,
}

/// What became of it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Answers by endpoint.
    pub(crate) origins: BTreeMap<String, u64>,
    /// Answers by status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, and why.
    pub(crate) failures: Vec<String>,
    /// How often a client had to connect.
    pub(crate) connections: u64,
}

impl Tally {
    pub(crate) fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// Answers from endpoints whose name begins like this.
    pub(crate) fn from(&self, prefix: &str) -> u64 {
        let matching = self
            .origins
            .iter()
            .filter(|(name, _)| name.starts_with(prefix));
        matching.map(|(_, count)| count).sum()
    }

    fn add(&mut self, other: Self) {
        for (origin, count) in other.origins {
            *self.origins.entry(origin).or_default() += count;
        }
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.connections += other.connections;
    }

    /// Every request was answered, and well.
    #[track_caller]
    pub(crate) fn assert_flawless(&self) {
        assert!(self.failures.is_empty(), "{:?}", self.brief());
        let bad = self.statuses.keys().any(|status| *status != 200);
        assert!(!bad && self.answers() > 0, "{:?}", self.brief());
    }

    fn brief(&self) -> (usize, Vec<&String>, &BTreeMap<u16, u64>) {
        let first = self.failures.iter().take(5).collect();
        (self.failures.len(), first, &self.statuses)
    }
}

impl Load {
    /// Starts it: `ask` makes the requests.
    pub(crate) fn start(
        address: SocketAddr,
        clients: usize,
        ask: impl Fn() -> Ask + Send + Sync + 'static,
    ) -> Self {
        let ask = Arc::new(ask);
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let (ask, stop, sent) = (ask.clone(), stop.clone(), sent.clone());
            running.spawn(async move {
                let mut tally = Tally::default();
                let mut connection = None;
                while !stop.load(Ordering::Relaxed) {
                    sent.fetch_add(1, Ordering::Relaxed);
                    let asking = once(address, &mut connection, ask(), &mut tally);
                    match tokio::time::timeout(super::PATIENCE, asking).await {
                        Ok(Ok(answer)) => tally.count(&answer),
                        Ok(Err(error)) => {
                            tally.failures.push(chain(&*error));
                            connection = None;
                        }
                        Err(_) => {
                            tally.failures.push("no answer".to_owned());
                            connection = None;
                        }
                    }
                }
                tally
            });
        }
        Self {
            stop,
            sent,
            clients: running,
        }
    }

    /// Plain requests for `/`.
    pub(crate) fn plain(address: SocketAddr, clients: usize) -> Self {
        Self::start(address, clients, || Ask::get("/"))
    }

    /// Requests so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were sent.
    pub(crate) async fn more(&self, count: u64) {
        let goal = self.sent() + count;
        super::eventually("more requests are sent", async || {
            (self.sent() >= goal).then_some(())
        })
        .await;
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally::default();
        while let Some(part) = self.clients.join_next().await {
            tally.add(part.unwrap());
        }
        tally
    }
}

impl Tally {
    fn count(&mut self, answer: &Answer) {
        *self.statuses.entry(answer.status).or_default() += 1;
        *self.origins.entry(answer.origin().to_owned()).or_default() += 1;
    }
}

async fn once(
    address: SocketAddr,
    kept: &mut Option<Connection>,
    ask: Ask,
    tally: &mut Tally,
) -> Result<Answer, Failure> {
    let mut connection = match kept.take() {
        // Told to close after the last answer, it may close: that is no failure.
        Some(connection) if !connection.is_closed() => connection,
        _ => {
            tally.connections += 1;
            Connection::open(address).await?
        }
    };
    let answer = connection.ask(ask).await?;
    if answer.header("connection") != "close" {
        *kept = Some(connection);
    }
    Ok(answer)
}

/// Sends exactly so many requests over so many connections.
pub(crate) async fn send_exactly(
    address: SocketAddr,
    count: u64,
    clients: usize,
    ask: impl Fn(u64) -> Ask + Send + Sync + 'static,
) -> Tally {
    let ask = Arc::new(ask);
    let next = Arc::new(AtomicU64::new(0));
    let total = Arc::new(Mutex::new(Tally::default()));
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (ask, next, total) = (ask.clone(), next.clone(), total.clone());
        running.spawn(async move {
            let mut tally = Tally::default();
            let mut connection = None;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                match once(address, &mut connection, ask(number), &mut tally).await {
                    Ok(answer) => tally.count(&answer),
                    Err(error) => tally.failures.push(chain(&*error)),
                }
            }
            total.lock().await.add(tally);
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    Arc::into_inner(total).unwrap().into_inner()
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        words = format!("{words}: {next}");
        cause = next.source();
    }
    words
}
