//! The clock of certificates.

/// The time by which certificates are judged, in seconds since 1970: the same that rustls takes.
pub fn now() -> i64 {
    i64::try_from(rustls_pki_types::UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}
