//! Chunked bodies, as clients and as endpoints send them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::chunks(bytes));
