//! What must hold for whatever stands in cookies, and in the file with their secret: the target
//! `cookies` of `tests/fuzz`. The unit test below replays its corpus.

use http::{HeaderValue, header};
use portolan_config::fields::Fields;
use portolan_config::names::Name;
use portolan_config::scalar::FromScalar as _;

use super::{BETWEEN, MOST_TAGS, Secret, parse_secret, tags};
use crate::auth::cookie::{MOST_COOKIES, cookie, cookies as values};
use crate::pool::endpoint::EndpointKey;

const NAME: &str = "portolan";

/// Lines of Cookie headers: at most as many tags as are looked at, nobody's tag by accident, the same
/// in whatever order they come, and what is set comes back as it was.
pub fn cookies(bytes: &[u8]) {
    let mut headers = Fields::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(line) = HeaderValue::from_bytes(line) {
            headers.append(header::COOKIE, line);
        }
    }
    let given: Vec<&[u8]> = values(&headers, NAME).collect();
    for value in &given {
        assert!(!value.contains(&b';'), "two cookies for one: {value:?}");
    }
    let mut turned: Vec<HeaderValue> = headers.get_all(header::COOKIE).cloned().collect();
    turned.reverse();
    let mut turned_round = Fields::new();
    for line in turned {
        turned_round.append(header::COOKIE, line);
    }
    assert_eq!(cookie(&headers, NAME), cookie(&turned_round, NAME));
    let found = tags(&headers, NAME);
    assert!(found.len() <= MOST_TAGS * MOST_COOKIES);
    let words = given
        .iter()
        .flat_map(|value| value.split(|byte| *byte == BETWEEN));
    let mut words: Vec<&[u8]> = words.collect();
    for tag in &found {
        let word = tag.to_string();
        assert_eq!(word.len(), 32);
        let at = words.iter().position(|given| *given == word.as_bytes());
        // In their order, and each once.
        words.drain(..=at.unwrap_or_else(|| panic!("{word} was not given")));
    }
    // What Portolan would set is read again as it was, whatever stands around it.
    let found = &found[..found.len().min(MOST_TAGS)];
    let value: Vec<String> = found.iter().map(ToString::to_string).collect();
    let value = value.join(&char::from(BETWEEN).to_string());
    let line = format!("a=b; {NAME}={value}; c=d");
    let mut again = Fields::new();
    again.append(
        header::COOKIE,
        HeaderValue::try_from(line).expect("tags are text"),
    );
    assert_eq!(tags(&again, NAME)[..], *found);
    // Nobody makes up a tag who does not know the secret.
    let secret = Secret::new(&[7; 32]);
    let address = "10.0.0.1:80".parse().expect("an address");
    let key = EndpointKey {
        pool: Name::parse("a").expect("a name"),
        address,
    };
    let real = secret.number(&key);
    assert!(found.iter().all(|tag| tag.0 != real), "guessed");

    let text = String::from_utf8_lossy(bytes);
    if let Ok(secret) = parse_secret(&text) {
        let again: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(again, text.trim().to_ascii_lowercase());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_corpus_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus/cookies");
        let mut seeds = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            cookies(&std::fs::read(path).unwrap());
            seeds += 1;
        }
        assert!(seeds > 0);
    }
}
