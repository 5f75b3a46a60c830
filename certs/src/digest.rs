//! The digest that certificates are known by: SHA-256.

use crate::shown::hexadecimal;

pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&digest(bytes))
}
