//! HTTP/2 frames, as they are counted.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::frames(bytes));
