//! Why a certificate, a key or a list of them cannot be used.

use std::fmt;
use std::path::Path;

/// Why a chain or a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: String,
    },
    /// There is nothing of the kind in it.
    #[error("`{path}` holds no {what}")]
    Missing {
        /// The file.
        path: String,
        /// What was looked for.
        what: &'static str,
    },
    /// It is no PEM, or damaged, or of something else.
    #[error("`{path}`{}: {fault}", line_words(.line))]
    Pem {
        /// The file.
        path: String,
        /// The line, from 1; 0: the file as a whole.
        line: usize,
        /// What is wrong.
        fault: PemFault,
    },
    /// A certificate is not one.
    #[error("certificate {number} in `{path}` cannot be read: {why}")]
    Malformed {
        /// The file.
        path: String,
        /// Which one, from 1.
        number: usize,
        /// Why.
        why: &'static str,
    },
    /// The key is of a kind that cannot be used.
    #[error("the key in `{path}` cannot be used: {why}")]
    Key {
        /// The file.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// Key and certificate do not belong together.
    #[error("the key in `{key}` does not belong to the certificate in `{cert}`")]
    Mismatch {
        /// The certificate's file.
        cert: String,
        /// The key's file.
        key: String,
    },
    /// It would replace one that is valid, and is not.
    #[error("the certificate in `{path}` {why}, and the one before it is still valid")]
    Worse {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What is in it cannot be used for what it is for.
    #[error("`{path}` cannot be used as {what}: {error}")]
    Unusable {
        /// The file.
        path: String,
        /// What it should have been.
        what: &'static str,
        /// Why.
        error: String,
    },
}

impl BundleError {
    /// What is wrong with a file in PEM.
    pub(crate) fn pem(path: &Path, (line, fault): Found) -> Self {
        Self::Pem {
            path: path.display().to_string(),
            line,
            fault,
        }
    }

    /// Whether it is about this file.
    pub(crate) fn is_about(&self, file: &Path) -> bool {
        let (Self::Unreadable { path, .. }
        | Self::Missing { path, .. }
        | Self::Pem { path, .. }
        | Self::Malformed { path, .. }
        | Self::Key { path, .. }
        | Self::Mismatch { cert: path, .. }
        | Self::Worse { path, .. }
        | Self::Unusable { path, .. }) = self;
        *path == file.display().to_string()
    }

    /// The kind of error, as `portolan_certificate_reload_failures_total` tells them apart.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Missing { .. } => "incomplete",
            Self::Pem { .. } | Self::Malformed { .. } => "malformed",
            Self::Key { .. } => "key",
            Self::Mismatch { .. } => "mismatch",
            Self::Worse { .. } => "not_valid",
            Self::Unusable { .. } => "unusable",
        }
    }

    /// Every reason.
    pub const REASONS: [&'static str; 7] = [
        "unreadable",
        "incomplete",
        "malformed",
        "key",
        "mismatch",
        "not_valid",
        "unusable",
    ];
}

pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> BundleError {
    BundleError::Unreadable {
        path: path.display().to_string(),
        error: error.to_string(),
    }
}

/// Where in a file.
fn line_words(line: &usize) -> String {
    match line {
        0 => String::new(),
        line => format!(", line {line}"),
    }
}

/// What is wrong with a PEM file. Its words hold nothing of the file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemFault {
    /// It is not text at all, but DER.
    Der,
    /// It is a key store of Java or Windows.
    KeyStore,
    /// It is text in UTF-16.
    Utf16,
    /// It is a key as PuTTY writes it.
    Putty,
    /// A section's marker shares its line with the content: the line breaks were lost.
    NoLineBreaks,
    /// The line breaks were written as `\n`.
    EscapedLineBreaks,
    /// Two markers share a line.
    Glued,
    /// A marker does not stand alone on its line.
    NotAlone,
    /// A marker has not five dashes on both sides.
    Marker,
    /// A section ends that has not begun.
    NotBegun,
    /// A section does not end before the next one begins.
    NotEnded {
        /// Where it began.
        begun: usize,
    },
    /// The file ends within a section.
    CutOff,
    /// A section ends as something else than it began.
    OtherEnd {
        /// Where it began.
        begun: usize,
    },
    /// A line of a section is not base64.
    Base64,
    /// The base64 of a section is not whole.
    Incomplete,
    /// There is nothing in a section.
    Empty,
    /// The key is encrypted.
    Encrypted,
    /// There is none of what is wanted, but something else.
    Other {
        /// What is wanted.
        wanted: &'static str,
        /// What there is.
        found: Kind,
    },
}

impl fmt::Display for PemFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Der => f.write_str(
                "it is in DER, not in PEM: convert it with `openssl x509 -inform DER` or \
                 `openssl pkey -inform DER`",
            ),
            Self::KeyStore => f.write_str(
                "it is a key store, not PEM: export the certificates and the key with \
                 `openssl pkcs12 -nodes`",
            ),
            Self::Utf16 => f.write_str("it is written in UTF-16: save it as UTF-8"),
            Self::Putty => f.write_str(
                "it is a key in the format of PuTTY, not in PEM: export it with PuTTYgen",
            ),
            Self::NoLineBreaks => f.write_str(
                "the line breaks of the section are lost: its BEGIN line, each 64 characters of its \
                 base64 and its END line stand on lines of their own",
            ),
            Self::EscapedLineBreaks => {
                f.write_str("line breaks are written as `\\n`: write real ones")
            }
            Self::Glued => f.write_str(
                "two markers stand on one line: a line break is missing between an END and the next \
                 BEGIN",
            ),
            Self::NotAlone => f.write_str(
                "a marker shares its line with something else: a line break is missing before or \
                 behind it",
            ),
            Self::Marker => f.write_str(
                "this looks like a marker and is none: it has five dashes on both sides, as in \
                 `-----BEGIN CERTIFICATE-----`",
            ),
            Self::NotBegun => f.write_str("a section ends here that has not begun"),
            Self::NotEnded { begun } => write!(
                f,
                "a section begins here, but the one that began in line {begun} has no END line"
            ),
            Self::CutOff => f.write_str(
                "the section that begins here has no END line: the file may have been cut off",
            ),
            Self::OtherEnd { begun } => write!(
                f,
                "the section ends as another kind than it began as in line {begun}"
            ),
            Self::Base64 => f.write_str("the line holds something that is not base64"),
            Self::Incomplete => f.write_str(
                "the base64 of the section that begins here is not whole: characters are missing or \
                 too many",
            ),
            Self::Empty => f.write_str("the section that begins here holds nothing"),
            Self::Encrypted => f.write_str(
                "the key is encrypted, and Portolan asks for no passphrase: decrypt it with \
                 `openssl pkey -in FILE -out FILE.decrypted`",
            ),
            Self::Other { wanted, found } => {
                write!(f, "there is no {wanted} in it, but {}", found.words())?;
                match found {
                    Kind::OpenSsh => f.write_str(
                        ": convert it with `ssh-keygen -p -m PEM -f FILE`",
                    ),
                    Kind::Trusted => {
                        f.write_str(": convert it with `openssl x509 -in FILE -out FILE.pem`")
                    }
                    Kind::Pkcs7 => f.write_str(
                        ": take the certificates out of it with `openssl pkcs7 -print_certs`",
                    ),
                    Kind::Request => f.write_str(
                        ": that is what a CA is asked with, and its answer belongs here",
                    ),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// What is wrong, and in which line, from 1; 0: with the file as a whole.
pub type Found = (usize, PemFault);

/// The kinds of sections that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A certificate.
    Certificate,
    /// A private key in PKCS #8.
    Pkcs8,
    /// An RSA key in PKCS #1.
    Pkcs1,
    /// An EC key in SEC 1.
    Sec1,
    /// A list of revoked certificates.
    RevocationList,
    /// A private key that only a passphrase opens.
    Encrypted,
    /// A private key as `ssh-keygen` writes it.
    OpenSsh,
    /// A DSA key.
    Dsa,
    /// A public key.
    PublicKey,
    /// A request for a certificate.
    Request,
    /// The parameters of a curve.
    EcParameters,
    /// The parameters of a key exchange.
    DhParameters,
    /// A certificate with OpenSSL's own notes behind it.
    Trusted,
    /// Certificates in a PKCS #7 envelope.
    Pkcs7,
    /// Something of PGP.
    Pgp,
    /// Anything else.
    Other,
}

impl Kind {
    /// The kind that a label stands for.
    pub(crate) fn of(label: &str) -> Self {
        match label {
            "CERTIFICATE" | "X509 CERTIFICATE" => Self::Certificate,
            "PRIVATE KEY" => Self::Pkcs8,
            "RSA PRIVATE KEY" => Self::Pkcs1,
            "EC PRIVATE KEY" => Self::Sec1,
            "X509 CRL" => Self::RevocationList,
            "ENCRYPTED PRIVATE KEY" => Self::Encrypted,
            "OPENSSH PRIVATE KEY" => Self::OpenSsh,
            "DSA PRIVATE KEY" => Self::Dsa,
            "PUBLIC KEY" | "RSA PUBLIC KEY" | "EC PUBLIC KEY" => Self::PublicKey,
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Self::Request,
            "EC PARAMETERS" => Self::EcParameters,
            "DH PARAMETERS" | "X9.42 DH PARAMETERS" => Self::DhParameters,
            "TRUSTED CERTIFICATE" => Self::Trusted,
            "PKCS7" | "CMS" | "PKCS #7 SIGNED DATA" => Self::Pkcs7,
            _ if label.starts_with("PGP ") => Self::Pgp,
            _ => Self::Other,
        }
    }

    /// What it is, in words.
    fn words(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::Pkcs8 | Self::Pkcs1 | Self::Sec1 => "a private key",
            Self::RevocationList => "a list of revoked certificates",
            Self::Encrypted => "an encrypted private key",
            Self::OpenSsh => "a private key in the format of OpenSSH",
            Self::Dsa => "a DSA key",
            Self::PublicKey => "a public key",
            Self::Request => "a certificate request",
            Self::EcParameters => "the parameters of a curve",
            Self::DhParameters => "the parameters of a key exchange",
            Self::Trusted => "a `TRUSTED CERTIFICATE`",
            Self::Pkcs7 => "a PKCS #7 envelope",
            Self::Pgp => "something of PGP",
            Self::Other => "something else",
        }
    }

    /// Whether its content is read; all others only have to begin and to end.
    pub(crate) fn is_read(self) -> bool {
        matches!(
            self,
            Self::Certificate | Self::Pkcs8 | Self::Pkcs1 | Self::Sec1 | Self::RevocationList
        )
    }
}
