//! What two processes say to each other during an upgrade: JSON in frames, each behind its length,
//! and the sockets beside single bytes, in the order in which they were announced.

use std::io;
use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

/// Changed when a version could misunderstand another one.
pub(super) const PROTOCOL: u32 = 1;

/// Sockets beside one byte: the system takes up to 253.
const AT_ONCE: usize = 64;

/// No frame is longer, whatever its length says.
pub(super) const LONGEST: usize = 16 << 20;

/// What is handed over. As many sockets follow.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offer {
    pub(super) protocol: u32,
    /// Who hands over.
    pub(super) pid: u32,
    /// How long it waits, in milliseconds.
    pub(super) patience_ms: u64,
    /// Whether every pool has a verdict there: then it must have one here, too.
    pub(super) judged: bool,
    /// Upgrades before this one that were done, and that failed.
    pub(super) done: u64,
    pub(super) failed: u64,
    /// How long ago the first of the processes that took over from each other began, in nanoseconds,
    /// and when that was true, in milliseconds since 1970.
    #[serde(default)]
    pub(super) since_start_ns: u64,
    #[serde(default)]
    pub(super) wall_ms: u64,
    /// Where the state is that both must share. Versions that do not say it leave it to the user.
    #[serde(default)]
    pub(super) state_dir: Option<PathBuf>,
    /// What is known of endpoints, as far as the new process understands it.
    #[serde(default)]
    pub(super) known: serde_json::Value,
    pub(super) sockets: Vec<Offered>,
}

/// What a socket that is handed over is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Offered {
    /// Clients come by it. The new process finds it again by the address in the configuration.
    Listener { configured: SocketAddr },
    /// Operators come by it.
    Admin { configured: SocketAddr },
    /// A process before the one that hands over listens at its other end, and still lets clients
    /// finish.
    Elder,
}

/// What the new process is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToSuccessor {
    /// Accept from now on.
    TakeOver,
    /// The old process accepts nobody any more.
    Done,
}

/// What the old process is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToPredecessor {
    /// It could serve.
    Ready { pid: u32, version: String },
    /// It accepts.
    Serving,
    /// It cannot.
    Failed { error: String },
}

/// A value as a frame.
pub(super) fn frame(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(value)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(body);
    Ok(frame)
}

/// Takes a frame off the front of what was read, if it is there as a whole.
fn unframe<T: DeserializeOwned>(read: &mut Vec<u8>) -> io::Result<Option<T>> {
    let Some((length, rest)) = read.split_first_chunk() else {
        return Ok(None);
    };
    let length = length_of(*length)?;
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let value = serde_json::from_slice(body)?;
    read.drain(..size_of::<u32>() + length);
    Ok(Some(value))
}

fn length_of(bytes: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(bytes) as usize;
    if length > LONGEST {
        return Err(io::Error::other("a frame that is too long"));
    }
    Ok(length)
}

/// Reads what is handed over, waiting for it.
pub(super) fn receive_offer(
    stream: &std::os::unix::net::UnixStream,
) -> io::Result<(Offer, Vec<OwnedFd>)> {
    let mut length = [0; size_of::<u32>()];
    // Exactly so many bytes: sockets come beside those that follow.
    (&*stream).read_exact(&mut length)?;
    let mut body = vec![0; length_of(length)?];
    (&*stream).read_exact(&mut body)?;
    let offer: Offer = serde_json::from_slice(&body)?;
    let mut sockets = Vec::new();
    while sockets.len() < offer.sockets.len() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(
                stream,
                &mut [IoSliceMut::new(&mut byte)],
                &mut beside,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("too few descriptors for the sockets"));
        }
        let before = sockets.len();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                sockets.extend(more);
            }
        }
        if received.bytes == 0 || sockets.len() == before {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((offer, sockets))
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    read: Vec<u8>,
}

impl Channel {
    pub(super) fn new(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            read: Vec::new(),
        })
    }

    pub(super) async fn send(&mut self, value: &impl Serialize) -> io::Result<()> {
        self.stream.write_all(&frame(value)?).await
    }

    /// Sends sockets. The other side has been told how many.
    pub(super) async fn send_sockets(&mut self, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        for some in sockets.chunks(AT_ONCE) {
            let stream = &self.stream;
            let sending = stream.async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
                let mut beside = SendAncillaryBuffer::new(&mut space);
                beside.push(SendAncillaryMessage::ScmRights(some));
                let byte = [IoSlice::new(b"+")];
                Ok(sendmsg(stream, &byte, &mut beside, SendFlags::NOSIGNAL)?)
            });
            sending.await?;
        }
        Ok(())
    }

    /// What comes next; nothing if the other side has gone. Nothing is lost when this is dropped.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(value) = unframe(&mut self.read)? {
                return Ok(Some(value));
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The socket itself.
    pub(super) fn into_socket(self) -> io::Result<OwnedFd> {
        Ok(self.stream.into_std()?.into())
    }

    /// Waits until the other side has gone.
    pub(super) async fn closed(&mut self) {
        while let Ok(Some(_)) = self.receive::<serde_json::Value>().await {}
    }
}

/// The environment variable that tells a process what its standard input is.
pub(crate) const TAKE_OVER: &str = "PORTOLAN_TAKE_OVER";

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::fd::AsFd as _;

    #[tokio::test]
    async fn hundreds_of_sockets_arrive_in_order() {
        const COUNT: usize = 150;
        let sockets: Vec<TcpListener> = (0..COUNT)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        let addresses: Vec<SocketAddr> =
            sockets.iter().map(|it| it.local_addr().unwrap()).collect();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let receiving = tokio::task::spawn_blocking(move || receive_offer(&theirs).unwrap());
        let offer = Offer {
            protocol: PROTOCOL,
            pid: 1,
            patience_ms: 1000,
            judged: true,
            done: 0,
            failed: 0,
            since_start_ns: 0,
            wall_ms: 0,
            state_dir: Some("/var/lib/portolan".into()),
            known: serde_json::Value::Null,
            sockets: addresses
                .iter()
                .map(|configured| Offered::Listener {
                    configured: *configured,
                })
                .collect(),
        };
        let mut channel = Channel::new(ours).unwrap();
        channel.send(&offer).await.unwrap();
        let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(|it| it.as_fd()).collect();
        channel.send_sockets(&borrowed).await.unwrap();
        let (offer, received) = receiving.await.unwrap();
        let received: Vec<SocketAddr> = received
            .into_iter()
            .map(|socket| TcpListener::from(socket).local_addr().unwrap())
            .collect();
        assert_eq!(received, addresses);
        assert_eq!(offer.sockets.len(), COUNT);
    }

    #[tokio::test]
    async fn frames_come_whole_and_the_end_is_seen() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Channel::new(ours).unwrap(), Channel::new(theirs).unwrap());
        let failed = ToPredecessor::Failed {
            error: "a ".repeat(100_000),
        };
        let (sent, received) = tokio::join!(ours.send(&failed), theirs.receive());
        sent.unwrap();
        assert_eq!(received.unwrap(), Some(failed));
        ours.send(&ToPredecessor::Serving).await.unwrap();
        drop(ours);
        assert_eq!(
            theirs.receive().await.unwrap(),
            Some(ToPredecessor::Serving)
        );
        assert_eq!(theirs.receive::<ToPredecessor>().await.unwrap(), None);
    }

    #[test]
    fn offers_of_other_versions_are_understood() {
        let old = r#"{"protocol":1,"pid":7,"patience_ms":1,"judged":true,"done":0,"failed":0,"sockets":[]}"#;
        let offer: Offer = serde_json::from_str(old).unwrap();
        assert_eq!((offer.pid, offer.known), (7, serde_json::Value::Null));
        let new = r#"{"protocol":1,"pid":7,"patience_ms":1,"judged":true,"done":0,"failed":0,"sockets":[],"known":{"endpoints":[{"mood":"fine"}]},"later":1}"#;
        assert!(serde_json::from_str::<Offer>(new).is_ok());
    }

    #[test]
    fn nobody_is_made_to_allocate_gigabytes() {
        let mut read = vec![0xff; 8];
        assert!(unframe::<ToSuccessor>(&mut read).is_err());
    }
}
