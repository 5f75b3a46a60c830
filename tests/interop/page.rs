//! The table of `docs/interop.md` says what is tried here, and with which versions.

use super::peers::Peer;
use crate::harness::Wire;

/// What stands in the page.
const PAGE: &str = include_str!("../../docs/interop.md");

#[tokio::test(flavor = "multi_thread")]
async fn the_page_lists_who_is_tried_in_the_version_that_is_tried() {
    for (peer, wires) in Peer::BEHIND {
        let row = PAGE
            .lines()
            .find(|line| line.starts_with(&format!("| {peer:?} ")))
            .unwrap_or_else(|| panic!("docs/interop.md has no row for {peer:?}"));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let (version, behind) = (cells[2], cells[3]);
        let said = peer.version().await;
        // Where the page is kept true. Elsewhere others may have other versions.
        if std::env::var_os("CI").is_some() {
            assert!(
                said.contains(version),
                "docs/interop.md says {peer:?} {version}, and it says of itself: {said}"
            );
        }
        for wire in Wire::ALL {
            let word = match wire {
                Wire::Http1 => "HTTP/1.1",
                Wire::Tls1 => "HTTP/1.1 by TLS",
                Wire::H2c => "h2c",
                Wire::Tls2 => "HTTP/2 by TLS",
            };
            let words: Vec<&str> = behind.split(", ").collect();
            assert_eq!(
                words.contains(&word),
                wires.contains(&wire),
                "{peer:?}: {word}"
            );
        }
    }
}

#[test]
fn the_page_names_the_browser_and_the_grpc_library_that_are_tried() {
    assert!(PAGE.contains("| Chromium |"));
    let library = include_str!("../grpc/requirements.txt");
    let version = library
        .lines()
        .find_map(|line| line.strip_prefix("grpcio=="))
        .unwrap();
    let (version, _) = version.rsplit_once('.').unwrap();
    assert!(PAGE.contains(&format!("| gRPC (`grpcio`) | {version} |")));
}
