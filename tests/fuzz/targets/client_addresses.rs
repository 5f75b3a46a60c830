//! Who is the client, by what trusted peers say.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| portolan_proxy::fuzzing::client_addresses(bytes));
