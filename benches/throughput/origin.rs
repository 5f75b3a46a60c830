//! Endpoints that do as little as they can: every request gets the same answer, from memory.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of an answer's body.
pub(crate) const BODY: usize = 1024;

/// Two endpoints, for ever. Says their addresses, a line each.
pub(crate) async fn serve() {
    let first = bind().await;
    let second = bind().await;
    tokio::join!(accept(first), accept(second));
}

async fn bind() -> TcpListener {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    println!("{}", listener.local_addr().expect("it is bound"));
    listener
}

async fn accept(listener: TcpListener) {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\
         cache-control: no-store\r\ncontent-length: {BODY}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    let answer: &'static [u8] = answer.leak();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(async move {
            // A connection that breaks is over; whoever broke it knows.
            let _ = converse(stream, answer).await;
        });
    }
}

async fn converse(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(4096);
    while stream.read_buf(&mut head).await? > 0 {
        // Requests here have no body and come one at a time.
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(answer).await?;
        }
    }
    Ok(())
}
