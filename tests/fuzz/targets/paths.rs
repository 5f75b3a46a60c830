//! Targets of requests, in their one form.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::paths(bytes));
