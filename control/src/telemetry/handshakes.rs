//! TLS handshakes with clients, counted by how they ended.

use crate::counters::Counter;

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Well.
    Done {
        /// With TLS 1.3; else with 1.2.
        tls13: bool,
        /// It went on with an earlier session.
        resumed: bool,
    },
    /// Otherwise.
    Refused(HandshakeFault),
}

/// Why there was no handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFault {
    /// It took too long.
    Timeout,
    /// The client went away before it was over.
    Closed,
    /// What the client sent is not TLS.
    NotTls,
    /// What the client sent is broken.
    Malformed,
    /// Client and listener have no version, cipher or curve in common.
    NothingInCommon,
    /// The listener has no certificate (yet) for the name, or none that the client can verify.
    NoCertificate,
    /// The client refused us; normally it does not trust the certificate.
    RefusedByClient,
    /// The client showed no certificate where one is required.
    ClientCertificateMissing,
    /// The client's certificate is not valid now.
    ClientCertificateExpired,
    /// The client's certificate was revoked, or whether it was cannot be known.
    ClientCertificateRevoked,
    /// The client's certificate was issued by somebody else, or is broken.
    ClientCertificateInvalid,
}

impl HandshakeFault {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Timeout,
        Self::Closed,
        Self::NotTls,
        Self::Malformed,
        Self::NothingInCommon,
        Self::NoCertificate,
        Self::RefusedByClient,
        Self::ClientCertificateMissing,
        Self::ClientCertificateExpired,
        Self::ClientCertificateRevoked,
        Self::ClientCertificateInvalid,
    ];

    /// What it is called in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::Malformed => "malformed",
            Self::NothingInCommon => "nothing_in_common",
            Self::NoCertificate => "no_certificate",
            Self::RefusedByClient => "refused_by_client",
            Self::ClientCertificateMissing => "client_certificate_missing",
            Self::ClientCertificateExpired => "client_certificate_expired",
            Self::ClientCertificateRevoked => "client_certificate_revoked",
            Self::ClientCertificateInvalid => "client_certificate_invalid",
        }
    }
}

/// The handshakes of a listener.
#[derive(Debug, Default)]
pub struct Handshakes {
    /// By version, then by whether they were resumed.
    done: [[Counter; 2]; 2],
    refused: [Counter; HandshakeFault::ALL.len()],
}

impl Handshakes {
    /// One more.
    pub fn one(&self, how: Handshake) {
        match how {
            Handshake::Done { tls13, resumed } => {
                self.done[usize::from(tls13)][usize::from(resumed)].one();
            }
            Handshake::Refused(fault) => self.refused[fault as usize].one(),
        }
    }

    /// Version, whether resumed, outcome; and how many there were. `-`: it was never agreed on.
    pub fn counted(&self) -> impl Iterator<Item = ([&'static str; 3], u64)> {
        let done = ["1.2", "1.3"].into_iter().zip(&self.done);
        let done = done.flat_map(|(version, by_resumed)| {
            let by_resumed = ["false", "true"].into_iter().zip(by_resumed);
            by_resumed.map(move |(resumed, n)| ([version, resumed, "done"], n.get()))
        });
        let refused = HandshakeFault::ALL.into_iter().zip(&self.refused);
        done.chain(refused.map(|(fault, n)| (["-", "-", fault.as_str()], n.get())))
            .filter(|(_, n)| *n > 0)
    }

    /// Handshakes that came to nothing.
    pub fn refused(&self) -> u64 {
        self.refused.iter().map(Counter::get).sum()
    }
}
