//! Unpacks the country database, so that it can be used as it lies in the program's file.

use std::path::Path;

const PACKED: &str = "data/country.mmdb.zst";

#[expect(
    clippy::disallowed_methods,
    reason = "this is not the program, and cargo says it like this"
)]
fn main() {
    println!("cargo::rerun-if-changed={PACKED}");
    let packed = std::fs::read(PACKED).expect("the country database");
    let unpacked = zstd::decode_all(&*packed).expect("it is compressed with Zstandard");
    let folder = std::env::var_os("OUT_DIR").expect("cargo says where results belong");
    std::fs::write(Path::new(&folder).join("country.mmdb"), unpacked).expect("a place for it");
}
