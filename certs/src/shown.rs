//! How parts of certificates are written for people.

use x509_parser::x509::X509Name;

/// A name as text: the most specific part first, and everything escaped that could pass for
/// another part (RFC 4514) or has no place in a header.
pub(crate) fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for (at, part) in parts.iter().rev().enumerate() {
        if at > 0 {
            text.push(',');
        }
        for (at, attribute) in part.iter().enumerate() {
            if at > 0 {
                text.push('+');
            }
            let kind = attribute.attr_type();
            match short_name(&kind.to_id_string()) {
                Some(short) => text.push_str(short),
                None => text.push_str(&kind.to_id_string()),
            }
            text.push('=');
            match attribute.as_str() {
                Ok(value) => escape(value, &mut text),
                Err(_) => {
                    text.push('#');
                    text.push_str(&hexadecimal(attribute.attr_value().data));
                }
            }
        }
    }
    text
}

/// Bytes as text.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The short names of RFC 4514, section 3, and the one of e-mail addresses.
fn short_name(identifier: &str) -> Option<&'static str> {
    Some(match identifier {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn escape(value: &str, text: &mut String) {
    use std::fmt::Write as _;
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' | b'=' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b'#' if at == 0 => text.push_str("\\#"),
            0x20..=0x7e => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02x}");
            }
        }
    }
}

/// Where a text in JSON is not what it should be, in words that hold nothing of it.
pub fn no_json(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Eof => "the JSON ends too early: the file may have been cut off",
        Category::Syntax => "it is no JSON",
        Category::Data | Category::Io => "something else belongs here, or something is missing",
    };
    match error.line() {
        0 => what.to_owned(),
        line => format!("line {line}, column {}: {what}", error.column()),
    }
}
