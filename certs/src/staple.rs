//! OCSP staples: a CA's signed word that a certificate is not revoked, carried to clients by us so
//! that they need not ask the CA (RFC 6960, RFC 6066 section 8).
//!
//! What is read here is only what decides whether a staple is worth sending; its signature is for
//! clients to verify, who know which CAs they trust.

use std::path::Path;

use x509_parser::der_parser::asn1_rs::{
    Any, Class, Enumerated, FromDer as _, GeneralizedTime, Integer, OctetString, Oid, Sequence, Tag,
};
use x509_parser::der_parser::oid;

use crate::error::BundleError;
use crate::shown::hexadecimal;

/// An OCSP response about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staple {
    /// The response as it is sent.
    pub der: Vec<u8>,
    /// From when on it holds, in seconds since 1970.
    pub this_update: i64,
    /// Until when, in seconds since 1970. Without one it holds until it is replaced.
    pub next_update: Option<i64>,
}

/// What a response says about a certificate.
struct Single {
    serial: String,
    good: bool,
    this_update: i64,
    next_update: Option<i64>,
}

impl Staple {
    /// Reads a response for the certificate with this serial number.
    ///
    /// # Errors
    /// It is not a response, is about another certificate, or says that this one is revoked.
    pub(crate) fn parse(der: Vec<u8>, path: &Path, serial: &str) -> Result<Self, BundleError> {
        let unusable = |error: &str| BundleError::Unusable {
            path: path.display().to_string(),
            what: "an OCSP response",
            error: error.to_owned(),
        };
        let answers = read(&der).map_err(unusable)?;
        let same = |a: &str| a.trim_start_matches('0') == serial.trim_start_matches('0');
        let Some(answer) = answers.iter().find(|answer| same(&answer.serial)) else {
            return Err(unusable("it is about another certificate"));
        };
        if !answer.good {
            return Err(unusable("the CA does not say that the certificate is good"));
        }
        Ok(Self {
            this_update: answer.this_update,
            next_update: answer.next_update,
            der,
        })
    }

    /// Whether it may be sent.
    pub fn is_fresh(&self, now: i64) -> bool {
        self.this_update <= now && self.next_update.is_none_or(|next| now < next)
    }
}

/// The answers in a response.
fn read(der: &[u8]) -> Result<Vec<Single>, &'static str> {
    const MALFORMED: &str = "it is malformed";
    let bad = |_| MALFORMED;
    let (_, response) = Sequence::from_der(der).map_err(bad)?;
    let (rest, status) = Enumerated::from_der(&response.content).map_err(bad)?;
    if status.0 != 0 {
        return Err("the CA could not answer");
    }
    let (_, explicit) = Any::from_der(rest).map_err(bad)?;
    let (_, bytes) = Sequence::from_der(explicit.data).map_err(bad)?;
    let (rest, kind) = Oid::from_der(&bytes.content).map_err(bad)?;
    if kind != oid!(1.3.6.1.5.5.7.48.1.1) {
        return Err("it is not a basic response");
    }
    let (_, basic) = OctetString::from_der(rest).map_err(bad)?;
    let (_, basic) = Sequence::from_der(basic.as_ref()).map_err(bad)?;
    let (_, data) = Sequence::from_der(&basic.content).map_err(bad)?;
    // version [0] (seldom there), responderID [1] or [2], producedAt, then the answers.
    let mut rest: &[u8] = &data.content;
    let answers = loop {
        let (after, field) = Any::from_der(rest).map_err(bad)?;
        if field.header.class() == Class::Universal && field.tag() == Tag::Sequence {
            break field;
        }
        rest = after;
    };
    let mut rest = answers.data;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (after, one) = Sequence::from_der(rest).map_err(bad)?;
        found.push(single(&one.content).ok_or(MALFORMED)?);
        rest = after;
    }
    Ok(found)
}

fn single(content: &[u8]) -> Option<Single> {
    let (rest, id) = Sequence::from_der(content).ok()?;
    // hashAlgorithm, issuerNameHash, issuerKeyHash, serialNumber.
    let (id_rest, _) = Any::from_der(&id.content).ok()?;
    let (id_rest, _) = OctetString::from_der(id_rest).ok()?;
    let (id_rest, _) = OctetString::from_der(id_rest).ok()?;
    let (_, serial) = Integer::from_der(id_rest).ok()?;
    let (rest, status) = Any::from_der(rest).ok()?;
    let (rest, this_update) = GeneralizedTime::from_der(rest).ok()?;
    let next_update = match Any::from_der(rest) {
        Ok((_, field))
            if field.header.class() == Class::ContextSpecific && field.tag() == Tag(0) =>
        {
            let (_, time) = GeneralizedTime::from_der(field.data).ok()?;
            Some(time.utc_datetime().ok()?.unix_timestamp())
        }
        _ => None,
    };
    Some(Single {
        serial: hexadecimal(serial.as_ref()),
        good: status.tag() == Tag(0),
        this_update: this_update.utc_datetime().ok()?.unix_timestamp(),
        next_update,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_from_its_day_to_the_next() {
        let staple = |next_update| Staple {
            der: Vec::new(),
            this_update: 100,
            next_update,
        };
        let fresh = [99, 100, 199, 200].map(|now| staple(Some(200)).is_fresh(now));
        assert_eq!(fresh, [false, true, true, false]);
        assert!(staple(None).is_fresh(i64::MAX));
    }

    #[test]
    fn what_is_no_response_is_none() {
        let said = |der: &[u8]| {
            let parsed = Staple::parse(der.to_vec(), Path::new("a.ocsp"), "01");
            parsed.unwrap_err().to_string()
        };
        assert!(said(b"").contains("malformed"));
        assert!(said(b"-----BEGIN OCSP RESPONSE-----").contains("malformed"));
        // SEQUENCE { ENUMERATED 3 }: try later.
        assert!(said(&[0x30, 3, 0x0a, 1, 3]).contains("could not answer"));
        assert!(said(&[0x30, 3, 0x0a, 1, 0]).contains("malformed"));
    }
}
