//! Cookies that tie clients to endpoints.
#![no_main]

libfuzzer_sys::fuzz_target!(
    |bytes: &[u8]| portolan_control::decision::affinity::fuzzing::cookies(bytes)
);
