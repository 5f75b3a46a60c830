//! PROXY protocol headers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::proxy_protocol(bytes));
