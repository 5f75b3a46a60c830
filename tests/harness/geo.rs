//! Small geo databases, in MaxMind's format, written for a test.

use maxminddb_writer::Database;
use maxminddb_writer::metadata::IpVersion;
use maxminddb_writer::paths::IpAddrWithMask;
use serde_json::Value;

/// A database of networks and their records, whatever these look like.
pub(crate) fn database(kind: &str, records: &[(&str, Value)]) -> Vec<u8> {
    let mut database = Database::default();
    database.metadata.ip_version = IpVersion::V6;
    database.metadata.build_epoch = 1_780_000_000;
    database.metadata.binary_format_major_version = 2;
    database.metadata.database_type = kind.to_owned();
    for (network, record) in records {
        let data = database.insert_value(record).unwrap();
        // In an IPv6 tree IPv4 networks live below ::/96.
        let network = match network.split_once('/') {
            Some((v4, length)) if v4.contains('.') => {
                format!("::{v4}/{}", length.parse::<u8>().unwrap() + 96)
            }
            _ => (*network).to_owned(),
        };
        database.insert_node(network.parse::<IpAddrWithMask>().unwrap(), data);
    }
    database.write_to(Vec::new()).unwrap()
}
