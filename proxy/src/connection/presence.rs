//! Whether a client is still there while its bytes are not read.
//!
//! That a client has half-closed its connection, or that the connection broke, the system tells without
//! a byte being read. For that the socket is registered with the scheduler a second time, and only while
//! it is needed: each event then wakes its task twice.

use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

/// A socket that is watched.
pub(super) struct Presence {
    silent: SocketReadiness,
    broken: SocketReadiness,
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presence")
    }
}

impl Presence {
    /// Watches a client's socket.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(super) fn of(stream: &TcpStream) -> io::Result<Self> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        let socket = Arc::new(TcpStream::from_std(socket.into())?);
        Ok(Self {
            silent: SocketReadiness::new(socket.clone(), Interest::READABLE, Ready::is_read_closed),
            broken: SocketReadiness::new(socket, Interest::WRITABLE, Ready::is_write_closed),
        })
    }

    /// Ready when the client will send nothing more than what it has sent already: it has half-closed
    /// its connection, or the connection broke.
    pub(super) fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.silent.poll(cx)
    }

    /// Ready when the connection broke. A client that has only half-closed it still reads.
    pub(super) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.broken.poll(cx)
    }
}

/// What the system will tell; nothing once it has.
struct SocketReadiness(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl SocketReadiness {
    /// Waits until the socket is ready in a way that is final.
    fn new(socket: Arc<TcpStream>, interest: Interest, is_final: fn(Ready) -> bool) -> Self {
        Self(Some(Box::pin(async move {
            loop {
                match socket.ready(interest).await {
                    // Something can be read, or written: the next time that is news.
                    Ok(ready) if !is_final(ready) => {
                        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                        let _ = socket.try_io(interest, nothing);
                    }
                    Ok(_) | Err(_) => return,
                }
            }
        })))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(waiting) = &mut self.0 else {
            return Poll::Ready(());
        };
        let told = waiting.as_mut().poll(cx);
        if told.is_ready() {
            self.0 = None;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn both() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    async fn soon(what: &str, told: impl Future<Output = ()>) {
        let limit = Duration::from_secs(30);
        let told = tokio::time::timeout(limit, told).await;
        told.unwrap_or_else(|_| panic!("waited in vain: {what}"));
    }

    #[tokio::test]
    async fn a_half_closed_connection_is_told_from_a_broken_one_without_reading_a_byte() {
        let (mut client, mut server) = both().await;
        let mut presence = Presence::of(&server).unwrap();
        let mut nobody = Context::from_waker(Waker::noop());
        client.write_all(b"some of it").await.unwrap();
        server.readable().await.unwrap();
        assert!(!presence.poll_silent(&mut nobody).is_ready());
        assert!(!presence.poll_broken(&mut nobody).is_ready());
        client.shutdown().await.unwrap();
        soon("its end", poll_fn(|cx| presence.poll_silent(cx))).await;
        assert!(
            !presence.poll_broken(&mut nobody).is_ready(),
            "it still reads"
        );
        let mut said = Vec::new();
        server.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"some of it");
        assert!(!presence.poll_broken(&mut nobody).is_ready());
        // Closed as a whole, which shows when something is sent.
        drop(client);
        server.write_all(b"are you there?").await.unwrap();
        soon("the break", poll_fn(|cx| presence.poll_broken(cx))).await;
    }

    #[tokio::test]
    async fn a_reset_is_told_at_once() {
        let (mut client, server) = both().await;
        let mut presence = Presence::of(&server).unwrap();
        client.write_all(b"some of it").await.unwrap();
        server.readable().await.unwrap();
        client.set_zero_linger().unwrap();
        drop(client);
        soon("the break", poll_fn(|cx| presence.poll_broken(cx))).await;
        soon("its end", poll_fn(|cx| presence.poll_silent(cx))).await;
    }
}
