//! A name server on loopback whose answers a test decides.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What a name server does with a question.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These addresses, valid for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// There is no such name.
    NoSuchName,
    /// It cannot say.
    ServerFailure,
    /// Nothing at all.
    StallDetector,
}

/// A name server.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    questions: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl NameServer {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let replies: Arc<Mutex<HashMap<String, Reply>>> = Arc::default();
        let questions: Arc<AtomicU64> = Arc::default();
        let task = tokio::spawn(answer(socket, replies.clone(), questions.clone()));
        Self {
            address,
            replies,
            questions,
            task,
        }
    }

    /// What it says about a name from now on.
    pub(crate) fn set(&self, name: &str, reply: Reply) {
        self.replies.lock().unwrap().insert(name.to_owned(), reply);
    }

    /// Questions so far.
    pub(crate) fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    socket: UdpSocket,
    replies: Arc<Mutex<HashMap<String, Reply>>>,
    questions: Arc<AtomicU64>,
) {
    let mut datagram = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut datagram).await.unwrap();
        let question = Message::from_vec(&datagram[..length]).unwrap();
        questions.fetch_add(1, Ordering::Relaxed);
        let query = question.queries[0].clone();
        let name = query.name().to_string();
        let reply = replies
            .lock()
            .unwrap()
            .get(name.trim_end_matches('.'))
            .cloned()
            .unwrap_or(Reply::NoSuchName);
        let mut message = Message::new(
            question.metadata.id,
            MessageType::Response,
            question.metadata.op_code,
        );
        message.add_query(query.clone());
        message.metadata.recursion_available = true;
        match reply {
            Reply::StallDetector => continue,
            Reply::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
            Reply::ServerFailure => message.metadata.response_code = ResponseCode::ServFail,
            Reply::Addresses(addresses, ttl) => {
                for address in addresses {
                    let data = match (address, query.query_type()) {
                        (IpAddr::V4(v4), RecordType::A) => RData::A(A(v4)),
                        (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(v6)),
                        _ => continue,
                    };
                    message.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
                }
            }
        }
        socket
            .send_to(&message.to_vec().unwrap(), from)
            .await
            .unwrap();
    }
}
