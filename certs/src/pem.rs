//! PEM (RFC 7468), read in one place for everything: chains, keys, CAs, lists of revoked certificates.
//!
//! A file that is damaged is refused with its line and with what is wrong, in words that never hold a byte
//! of what stands in it: it may be a key. Nothing is passed over silently that may have been meant: two
//! markers on one line, a marker with a dash too few, a section without its end.
//!
//! What is harmless is taken: text before, between and behind sections (as `openssl` writes it), spaces
//! around lines, the line endings of Windows, a byte order mark, base64 without its padding.

use std::fmt;
use std::path::Path;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs1KeyDer,
    PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};

use crate::error::{BundleError, Found, Kind, PemFault, unreadable};

/// With or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Larger files are not read. Lists of revoked certificates can be long.
const LARGEST: u64 = 64 << 20;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// One section of a file.
struct Section {
    kind: Kind,
    /// The line where it begins, from 1.
    line: usize,
    /// Its content; empty where it is not read.
    der: Vec<u8>,
}

/// Leaves the content out: it may be a key.
impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Section({:?}, line {})", self.kind, self.line)
    }
}

/// A PEM file, taken apart.
#[derive(Debug)]
pub struct Pem {
    sections: Vec<Section>,
}

impl Pem {
    /// Takes a text apart.
    ///
    /// # Errors
    /// What is damaged in it, and where.
    pub fn parse(text: &[u8]) -> Result<Self, Found> {
        whole(text).map_err(|fault| (0, fault))?;
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut reader = PemReader::default();
        for (at, line) in lines(text).enumerate() {
            reader.line(at + 1, line)?;
        }
        reader.end()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let text = content(path).map_err(|error| unreadable(path, &error))?;
        Self::parse(&text).map_err(|found| BundleError::pem(path, found))
    }

    /// The certificates in it with the lines where they begin.
    ///
    /// # Errors
    /// There is something that may have been meant as one, and is none.
    pub fn certificates(&self) -> Result<Vec<(usize, CertificateDer<'static>)>, Found> {
        let odd = |section: &&Section| matches!(section.kind, Kind::Trusted | Kind::Pkcs7);
        if let Some(odd) = self.sections.iter().find(odd) {
            return Err(self.other("certificate", odd));
        }
        let found: Vec<_> = self
            .of(Kind::Certificate)
            .map(|section| (section.line, CertificateDer::from(section.der.clone())))
            .collect();
        self.some(found, "certificate")
    }

    /// The lists of revoked certificates in it.
    ///
    /// # Errors
    /// There is none, but something else.
    pub fn revocation_lists(&self) -> Result<Vec<CertificateRevocationListDer<'static>>, Found> {
        let found: Vec<_> = self
            .of(Kind::RevocationList)
            .map(|section| CertificateRevocationListDer::from(section.der.clone()))
            .collect();
        self.some(found, "list of revoked certificates")
    }

    /// The first private key in it that can be read. Nothing if there is none, nor anything else.
    ///
    /// # Errors
    /// There is something else instead.
    pub fn private_key(&self) -> Result<Option<PrivateKeyDer<'static>>, Found> {
        let key = self.sections.iter().find_map(|section| {
            let der = || section.der.clone();
            Some(match section.kind {
                Kind::Pkcs8 => PrivatePkcs8KeyDer::from(der()).into(),
                Kind::Pkcs1 => PrivatePkcs1KeyDer::from(der()).into(),
                Kind::Sec1 => PrivateSec1KeyDer::from(der()).into(),
                _ => return None,
            })
        });
        if key.is_some() {
            return Ok(key);
        }
        let encrypted = |section: &&Section| section.kind == Kind::Encrypted;
        if let Some(encrypted) = self.sections.iter().find(encrypted) {
            return Err((encrypted.line, PemFault::Encrypted));
        }
        // A chain without its key is told by whoever looks for both.
        let other = |section: &&Section| section.kind != Kind::Certificate;
        match self.sections.iter().find(other) {
            Some(other) => Err(self.other("private key", other)),
            None => Ok(None),
        }
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Section> {
        self.sections
            .iter()
            .filter(move |section| section.kind == kind)
    }

    fn some<T>(&self, found: Vec<T>, wanted: &'static str) -> Result<Vec<T>, Found> {
        match self.sections.first() {
            Some(other) if found.is_empty() => Err(self.other(wanted, other)),
            _ => Ok(found),
        }
    }

    fn other(&self, wanted: &'static str, section: &Section) -> Found {
        let found = section.kind;
        (section.line, PemFault::Other { wanted, found })
    }
}

/// The content of a file, unless that would never end or is far too much.
fn content(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, Read as _};
    // Looked at before it is opened: opening a pipe waits for whoever writes into it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::other("it is not a file"));
    }
    let mut content = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(Error::other("it is larger than 64 MiB"));
    }
    Ok(content)
}

/// Looks at a file as a whole: is it text?
fn whole(text: &[u8]) -> Result<(), PemFault> {
    match text {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'-', 0, ..] | [0, b'-', ..] => Err(PemFault::Utf16),
        [0xfe, 0xed, 0xfe, 0xed, ..] | [0xce, 0xce, 0xce, 0xce, ..] => Err(PemFault::KeyStore),
        // A sequence whose length takes one byte, two or three. In PKCS #12 it begins with version 3.
        [0x30, 0x82, _, _, 2, 1, 3, ..] | [0x30, 0x83, _, _, _, 2, 1, 3, ..] => {
            Err(PemFault::KeyStore)
        }
        [0x30, 0x81..=0x83, ..] => Err(PemFault::Der),
        _ if text.starts_with(b"0") && text.contains(&0) => Err(PemFault::Der),
        _ if text.starts_with(b"PuTTY-User-Key-File-") => Err(PemFault::Putty),
        _ => Ok(()),
    }
}

/// The lines of a text, whichever way they end, without spaces around them.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    // A carriage return before a line feed must not count as a line of its own.
    text.split_inclusive(|byte| *byte == b'\n')
        .flat_map(|line| {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            line.split(|byte| *byte == b'\r')
        })
        .map(<[u8]>::trim_ascii)
}

/// What a line is.
enum Line<'a> {
    Begin(&'a str),
    End(&'a str),
    Text(&'a [u8]),
}

/// Tells markers from everything else.
fn classify(line: &[u8]) -> Result<Line<'_>, PemFault> {
    // What is not UTF-8 has no marker that anybody could read.
    let Ok(text) = std::str::from_utf8(line) else {
        return Ok(Line::Text(line));
    };
    let marker = |begin: &str| {
        let label = text.strip_prefix(begin)?.strip_suffix(DASHES)?;
        (!label.contains('-') && !label.is_empty()).then_some(label)
    };
    if let Some(label) = marker(BEGIN) {
        return Ok(Line::Begin(label));
    }
    if let Some(label) = marker(END) {
        return Ok(Line::End(label));
    }
    match text.matches(BEGIN).count() + text.matches(END).count() {
        0 if looks_like_marker(text) => Err(PemFault::Marker),
        0 => Ok(Line::Text(line)),
        markers => Err(not_alone(text, markers)),
    }
}

/// What is wrong with a line that has markers, and is none.
fn not_alone(text: &str, markers: usize) -> PemFault {
    let begun = text.strip_prefix(BEGIN);
    let ended = text.strip_prefix(END);
    if text.contains("\\n") || text.contains("\\r") {
        return PemFault::EscapedLineBreaks;
    }
    if markers > 1 {
        return match begun {
            Some(_) => PemFault::NoLineBreaks,
            None => PemFault::Glued,
        };
    }
    // Closed by too few dashes, or by too many.
    let open = |rest: &str| !rest.trim_end_matches('-').contains(DASHES);
    match (begun, ended) {
        (Some(rest), _) | (_, Some(rest)) if open(rest) => PemFault::Marker,
        (Some(_), _) => PemFault::NoLineBreaks,
        _ => PemFault::NotAlone,
    }
}

/// A marker with dashes too few, or with those that word processors make of them.
fn looks_like_marker(text: &str) -> bool {
    let dash = |c: char| matches!(c, '-' | '\u{2010}'..='\u{2015}' | '\u{2212}');
    ["BEGIN ", "END ", "BEGIN\u{a0}", "END\u{a0}"]
        .iter()
        .any(|word| {
            text.match_indices(word).any(|(at, _)| {
                let (before, after) = (&text[..at], &text[at + word.len()..]);
                let named = ["CERTIFICATE", "KEY", "CRL"];
                before.trim_end().ends_with(dash) && named.iter().any(|name| after.contains(name))
            })
        })
}

/// Reads a file line by line.
#[derive(Default)]
struct PemReader {
    sections: Vec<Section>,
    open: Option<Open>,
}

/// A section that has begun.
struct Open {
    label: String,
    kind: Kind,
    line: usize,
    /// Headers (RFC 1421) come first, until an empty line.
    headers: bool,
    encrypted: bool,
    base64: Vec<u8>,
    /// Where padding stood: nothing comes behind it.
    padded: bool,
}

impl PemReader {
    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), Found> {
        let found = |fault| (number, fault);
        match (classify(line).map_err(found)?, &mut self.open) {
            (Line::Text(_), None) => {}
            (Line::Text(text), Some(open)) => open.content(text).map_err(found)?,
            (Line::Begin(_), Some(open)) => {
                return Err(found(PemFault::NotEnded { begun: open.line }));
            }
            (Line::End(_), None) => return Err(found(PemFault::NotBegun)),
            (Line::Begin(label), None) => {
                self.open = Some(Open {
                    kind: Kind::of(label),
                    label: label.to_owned(),
                    line: number,
                    headers: true,
                    encrypted: false,
                    base64: Vec::new(),
                    padded: false,
                });
            }
            (Line::End(label), Some(open)) => {
                if open.label != label {
                    return Err(found(PemFault::OtherEnd { begun: open.line }));
                }
                if let Some(open) = self.open.take() {
                    self.sections.push(open.close()?);
                }
            }
        }
        Ok(())
    }

    fn end(self) -> Result<Pem, Found> {
        match self.open {
            Some(open) => Err((open.line, PemFault::CutOff)),
            None => Ok(Pem {
                sections: self.sections,
            }),
        }
    }
}

impl Open {
    fn content(&mut self, text: &[u8]) -> Result<(), PemFault> {
        if self.headers {
            if text.is_empty() {
                self.headers = !self.base64.is_empty();
                return Ok(());
            }
            if text.contains(&b':') {
                self.encrypted |= text.starts_with(b"Proc-Type:") && text.ends_with(b"ENCRYPTED");
                return Ok(());
            }
            self.headers = false;
        }
        if !self.kind.is_read() {
            return Ok(());
        }
        for byte in text {
            match byte {
                b'=' => self.padded = true,
                _ if self.padded => return Err(PemFault::Base64),
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => {}
                b'\\' => return Err(PemFault::EscapedLineBreaks),
                _ => return Err(PemFault::Base64),
            }
            self.base64.push(*byte);
        }
        Ok(())
    }

    fn close(self) -> Result<Section, Found> {
        let mut section = Section {
            kind: self.kind,
            line: self.line,
            der: Vec::new(),
        };
        if self.encrypted {
            section.kind = Kind::Encrypted;
        } else if self.kind.is_read() {
            if self.base64.is_empty() {
                return Err((self.line, PemFault::Empty));
            }
            let decoded = BASE64.decode(&self.base64);
            section.der = decoded.map_err(|_| (self.line, PemFault::Incomplete))?;
        }
        Ok(section)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(label: &str, bytes: &[u8]) -> String {
        let text = BASE64.encode(bytes);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).unwrap())
            .collect();
        format!(
            "{BEGIN}{label}-----\n{}\n{END}{label}-----\n",
            lines.join("\n")
        )
    }

    fn key() -> String {
        section("PRIVATE KEY", &[7; 100])
    }

    fn certificate() -> String {
        section("CERTIFICATE", &[9; 100])
    }

    fn fault(text: &str) -> Found {
        Pem::parse(text.as_bytes()).map(drop).unwrap_err()
    }

    #[test]
    fn what_is_harmless_is_taken() {
        let both = key() + &certificate() + &certificate();
        let notes = format!("Bag Attributes\n    friendlyName: x\n{both}subject=CN = x\n");
        for text in [
            both.clone(),
            both.replace('\n', "\r\n"),
            both.replace('\n', "\r"),
            both.replace('\n', "  \n"),
            both.replace('\n', "\n    "),
            both.replace('=', ""),
            both.trim_end().to_owned(),
            format!("\u{feff}{both}"),
            notes,
            format!("# the key - of the certificate\n\n{both}\n\n"),
            both.replace("CERTIFICATE", "X509 CERTIFICATE"),
            section("EC PARAMETERS", b"x") + &both,
            section("DH PARAMETERS", b"x") + &both,
        ] {
            let pem =
                Pem::parse(text.as_bytes()).unwrap_or_else(|found| panic!("{found:?} {text}"));
            let key = pem.private_key().unwrap().unwrap();
            assert_eq!(key.secret_der(), [7; 100], "{text}");
            let found = pem.certificates().unwrap();
            assert_eq!(found.len(), 2, "{text}");
            assert!(found.iter().all(|(_, der)| **der == [9; 100]), "{text}");
        }
        let other = "Proc-Type: 4,CLEAR\nX: y\n\n";
        let headed = key().replacen("-----\n", &format!("-----\n{other}"), 1);
        let pem = Pem::parse(headed.as_bytes()).unwrap();
        assert!(pem.private_key().unwrap().is_some());
        let empty = Pem::parse(b"").unwrap();
        assert_eq!(empty.certificates().unwrap().len(), 0);
        assert!(empty.private_key().unwrap().is_none());
    }

    #[test]
    fn what_is_damaged_is_named_with_its_line() {
        let (key, one) = (key(), certificate());
        let glue = |text: &str| text.replace("-----\n-----", "----------");
        let lines = key.lines().count();
        for (text, found) in [
            (glue(&(one.clone() + &one)), (5, PemFault::Glued)),
            (glue(&(key.clone() + &one)), (lines, PemFault::Glued)),
            (key.replace('\n', ""), (1, PemFault::NoLineBreaks)),
            (key.replace('\n', " "), (1, PemFault::NoLineBreaks)),
            (key.replace('\n', "\\n"), (1, PemFault::EscapedLineBreaks)),
            (
                key.replace("\n-----END", "-----END"),
                (lines - 1, PemFault::NotAlone),
            ),
            (
                key.replace("KEY-----\n", "KEY-----"),
                (1, PemFault::NoLineBreaks),
            ),
            (format!("key: {key}"), (1, PemFault::NotAlone)),
            (
                key.replacen("-----BEGIN", "----BEGIN", 1),
                (1, PemFault::Marker),
            ),
            (
                key.replacen("-----BEGIN", "--BEGIN", 1),
                (1, PemFault::Marker),
            ),
            (
                key.replacen("KEY-----\n", "KEY----\n", 1),
                (1, PemFault::Marker),
            ),
            (
                key.replacen("KEY-----\n", "KEY\n", 1),
                (1, PemFault::Marker),
            ),
            (
                one.replacen("-----BEGIN", "\u{2014}-BEGIN", 1),
                (1, PemFault::Marker),
            ),
            (
                key.replacen("-----BEGIN PRIVATE KEY-----\n", "", 1),
                (lines - 1, PemFault::NotBegun),
            ),
            (
                key.replace("-----END PRIVATE KEY-----\n", ""),
                (1, PemFault::CutOff),
            ),
            (key[..100].to_owned(), (1, PemFault::CutOff)),
            (
                one.replace("-----END CERTIFICATE-----\n", "") + &key,
                (5, PemFault::NotEnded { begun: 1 }),
            ),
            (
                key.replace("END PRIVATE", "END RSA PRIVATE"),
                (lines, PemFault::OtherEnd { begun: 1 }),
            ),
            (key.replacen("\nBw", "\nB*", 1), (2, PemFault::Base64)),
            (key.replacen("\nBw", "\nB w", 1), (2, PemFault::Base64)),
            (key.replacen("\nBw", "\nB=", 1), (2, PemFault::Base64)),
            (
                key.replacen("\nBw", "\nB", 1).replace('=', ""),
                (1, PemFault::Incomplete),
            ),
            (section("PRIVATE KEY", b""), (1, PemFault::Empty)),
        ] {
            assert_eq!(fault(&text), found, "{text}");
            assert!(!found.1.to_string().contains("BwcH"));
        }
        let utf16: Vec<u8> = key.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let marked = [&[0xff, 0xfe], utf16.as_slice()].concat();
        for (bytes, fault) in [
            (utf16.as_slice(), PemFault::Utf16),
            (&marked, PemFault::Utf16),
            (&[0x30, 0x82, 1, 0, 2, 1, 0], PemFault::Der),
            (&[0x30, 0x2e, 2, 1, 0, 0x30], PemFault::Der),
            (&[0x30, 0x82, 1, 0, 2, 1, 3], PemFault::KeyStore),
            (&[0xfe, 0xed, 0xfe, 0xed, 0, 0], PemFault::KeyStore),
            (b"PuTTY-User-Key-File-2: ssh-rsa\n", PemFault::Putty),
        ] {
            assert_eq!(Pem::parse(bytes).unwrap_err(), (0, fault));
        }
    }

    #[test]
    fn something_else_is_named_as_what_it_is() {
        let said = |text: String| {
            let pem = Pem::parse(text.as_bytes()).unwrap();
            let (line, fault) = pem.private_key().unwrap_err();
            assert_eq!(line, 2, "{fault}");
            fault.to_string()
        };
        let old = "\n-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        assert!(said(old.to_owned()).contains("is encrypted"));
        for (label, words) in [
            ("ENCRYPTED PRIVATE KEY", "is encrypted"),
            ("PUBLIC KEY", "a public key"),
            ("RSA PUBLIC KEY", "a public key"),
            ("CERTIFICATE REQUEST", "a certificate request"),
            ("EC PARAMETERS", "the parameters of a curve"),
            ("OPENSSH PRIVATE KEY", "ssh-keygen"),
            ("DSA PRIVATE KEY", "a DSA key"),
            ("X509 CRL", "a list of revoked certificates"),
            ("PGP PRIVATE KEY BLOCK", "PGP"),
            ("SECRET SAUCE", "something else"),
        ] {
            let said = said(format!("\n{}", section(label, b"x")));
            assert!(said.contains(words), "{label}: {said}");
            assert!(!said.contains("SAUCE"), "a label may be anything");
        }
        // A chain beside which something stands that may have been meant as a part of it.
        for label in ["TRUSTED CERTIFICATE", "PKCS7"] {
            let text = certificate() + &section(label, b"x");
            let pem = Pem::parse(text.as_bytes()).unwrap();
            assert_eq!(pem.certificates().unwrap_err().0, 6, "{label}");
        }
        let pem = Pem::parse(key().as_bytes()).unwrap();
        let (line, fault) = pem.certificates().unwrap_err();
        assert_eq!(
            (line, fault.to_string().as_str()),
            (1, "there is no certificate in it, but a private key")
        );
        assert!(pem.revocation_lists().is_err());
    }

    /// Whatever bytes there are, nothing of them is in the words, and nothing panics.
    #[test]
    fn nothing_of_a_file_is_ever_said() {
        let whole = key() + &certificate();
        for at in 0..whole.len() {
            for change in [&b""[..], b"\n", b"-----", b"\xff", b"="] {
                let mut text = whole.as_bytes().to_vec();
                text.splice(at..=at, change.iter().copied());
                if let Err((_, fault)) = Pem::parse(&text) {
                    let said = format!("{fault} {fault:?}");
                    assert!(!said.contains("BwcH") && !said.contains("CQkJ"), "{said}");
                }
            }
        }
    }
}
