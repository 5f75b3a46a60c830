//! The fields of an HTTP message, in the order they came.
//!
//! A message has a dozen of them, and each is looked for a few times at most: walking a list is
//! quicker than making a hash table of it, and copies, filters and writes are one pass. The library
//! for messages has a table instead ([`HeaderMap`]); at its borders one is made of the other.
//!
//! Names mean the same however they are written (RFC 9110, section 5.1), and are compared without
//! regard to that. But HTTP/1.1 shows how they were written, and some programs look: so it is remembered
//! where each name stood in the head that it was read from.

use std::ops::Range;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Names and values, in order. Those of one name need not stand together.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    list: Vec<Field>,
    /// The head that they were read from.
    head: Bytes,
    /// However they were written, names are written in small letters.
    lower: bool,
}

/// A name and its value.
#[derive(Clone, Debug)]
pub struct Field {
    name: HeaderName,
    value: HeaderValue,
    /// Where its name stands in the head that it was read from.
    at: u32,
}

/// Where a name stands that was not read from a head.
const NOWHERE: u32 = u32::MAX;

impl Field {
    /// Its name.
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    /// Its value.
    pub fn value(&self) -> &HeaderValue {
        &self.value
    }
}

/// Writes a name, which is there in small letters, as it is written in the standards: each word begins
/// with a capital, `Content-Type`.
pub fn write_as_usual(name: &mut [u8]) {
    let mut begins = true;
    for letter in name {
        if begins {
            letter.make_ascii_uppercase();
        }
        begins = *letter == b'-';
    }
}

/// What fields are looked for by.
pub trait AsFieldName {
    /// Whether a field has this name.
    fn is(&self, name: &HeaderName) -> bool;
}

impl AsFieldName for HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }
}

impl AsFieldName for str {
    fn is(&self, name: &HeaderName) -> bool {
        name.as_str().eq_ignore_ascii_case(self)
    }
}

impl<T: AsFieldName + ?Sized> AsFieldName for &T {
    fn is(&self, name: &HeaderName) -> bool {
        (**self).is(name)
    }
}

impl Fields {
    /// None.
    pub const fn new() -> Self {
        Self {
            list: Vec::new(),
            head: Bytes::new(),
            lower: false,
        }
    }

    /// None yet, with room for so many.
    pub fn with_capacity(room: usize) -> Self {
        Self {
            list: Vec::with_capacity(room),
            ..Self::new()
        }
    }

    /// None yet, of those that are read from this head, with room for so many.
    pub fn of_head(head: Bytes, room: usize) -> Self {
        Self {
            head,
            ..Self::with_capacity(room)
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The value of the first one of this name.
    pub fn get(&self, name: impl AsFieldName) -> Option<&HeaderValue> {
        let field = self.list.iter().find(|field| name.is(&field.name));
        field.map(Field::value)
    }

    /// The values of all of this name.
    pub fn get_all(&self, name: impl AsFieldName) -> impl DoubleEndedIterator<Item = &HeaderValue> {
        let fields = self.list.iter();
        fields.filter_map(move |field| name.is(&field.name).then_some(&field.value))
    }

    /// Whether there is one of this name.
    pub fn contains(&self, name: impl AsFieldName) -> bool {
        self.get(name).is_some()
    }

    /// One more, whatever there is of its name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.push(name, value, NOWHERE);
    }

    /// One more, whose name stands there in the head that they are read from.
    pub fn append_written(&mut self, name: HeaderName, at: usize, value: HeaderValue) {
        self.push(name, value, u32::try_from(at).unwrap_or(NOWHERE));
    }

    fn push(&mut self, name: HeaderName, value: HeaderValue, at: u32) {
        self.list.push(Field { name, value, at });
    }

    /// The only one of its name: in the place of the first there was, and written like it, or behind
    /// all.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let Some(at) = self.list.iter().position(|field| field.name == name) else {
            self.append(name, value);
            return;
        };
        self.list[at].value = value;
        let again = |field: &Field| field.name == name;
        if self.list[at + 1..].iter().any(again) {
            let mut place = 0;
            self.list.retain(|field| {
                place += 1;
                place <= at + 1 || !again(field)
            });
        }
    }

    /// None of this name any more. Whether there was one.
    pub fn remove(&mut self, name: impl AsFieldName) -> bool {
        let there = self.contains(&name);
        if there {
            self.list.retain(|field| !name.is(&field.name));
        }
        there
    }

    /// Those alone for which this holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName) -> bool) {
        self.list.retain(|field| keep(&field.name));
    }

    /// A copy of those for which this holds, with room for some more.
    pub fn only(&self, mut keep: impl FnMut(&HeaderName) -> bool, room: usize) -> Self {
        let mut list = Vec::with_capacity(self.list.len() + room);
        list.extend(self.list.iter().filter(|field| keep(&field.name)).cloned());
        Self {
            list,
            head: self.head.clone(),
            lower: self.lower,
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        self.into_iter()
    }

    /// All of them, as [`written`](Self::written) takes them.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = &Field> {
        self.list.iter()
    }

    /// How the name of one of these fields was written, if it was: nothing of those that Portolan adds,
    /// and of those that came over HTTP/2.
    pub fn written(&self, field: &Field) -> Option<&[u8]> {
        let at = field.at as usize;
        let place: Range<usize> = at..at + field.name.as_str().len();
        self.head.get(place).filter(|_| field.at != NOWHERE)
    }

    /// All names, as often as they stand there.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.list.iter().map(Field::name)
    }

    /// All names are written in small letters, now and later.
    pub fn write_lower(&mut self) {
        self.lower = true;
    }

    /// Whether they are.
    pub fn is_lower(&self) -> bool {
        self.lower
    }
}

/// The same names with the same values in the same order, however they are written.
impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

impl<'a> IntoIterator for &'a Fields {
    type Item = (&'a HeaderName, &'a HeaderValue);
    type IntoIter = std::iter::Map<std::slice::Iter<'a, Field>, fn(&'a Field) -> Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter().map(|field| (&field.name, &field.value))
    }
}

impl IntoIterator for Fields {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::iter::Map<std::vec::IntoIter<Field>, fn(Field) -> Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter().map(|field| (field.name, field.value))
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        let mut all = Self::new();
        for (name, value) in fields {
            all.append(name, value);
        }
        all
    }
}

impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::with_capacity(map.len());
        let mut last = None;
        for (name, value) in map {
            // One that is there several times is named once.
            last = name.or(last);
            if let Some(name) = &last {
                fields.append(name.clone(), value);
            }
        }
        fields
    }
}

impl From<Fields> for HeaderMap {
    fn from(fields: Fields) -> Self {
        let mut map = Self::with_capacity(fields.len());
        for (name, value) in fields {
            map.append(name, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    fn fields(of: &[(&'static str, &'static str)]) -> Fields {
        let pairs = of.iter();
        pairs
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn text(fields: &Fields) -> String {
        let pairs = fields.into_iter();
        let pairs = pairs.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        pairs.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn fields_keep_their_order_and_are_found_by_name() {
        let mut some = fields(&[("host", "a"), ("x-b", "1"), ("via", "c"), ("x-b", "2")]);
        assert_eq!(some.get(header::HOST).unwrap(), "a");
        assert_eq!(some.get("X-B").unwrap(), "1");
        assert_eq!(some.get_all("x-b").count(), 2);
        assert!(some.contains(&header::VIA) && !some.contains("x-c"));
        some.append(header::VIA, HeaderValue::from_static("d"));
        assert_eq!(text(&some), "host=a x-b=1 via=c x-b=2 via=d");
        some.insert(
            HeaderName::from_static("x-b"),
            HeaderValue::from_static("3"),
        );
        assert_eq!(text(&some), "host=a x-b=3 via=c via=d");
        some.insert(header::HOST, HeaderValue::from_static("e"));
        some.insert(header::AGE, HeaderValue::from_static("5"));
        assert_eq!(text(&some), "host=e x-b=3 via=c via=d age=5");
        assert!(some.remove(header::VIA) && !some.remove(header::VIA));
        assert_eq!(text(&some), "host=e x-b=3 age=5");
        some.retain(|name| *name != header::HOST);
        assert_eq!(text(&some), "x-b=3 age=5");
        assert_eq!((some.len(), some.is_empty()), (2, false));
    }

    #[test]
    fn a_table_and_back_is_the_same_but_for_the_order() {
        let some = fields(&[("host", "a"), ("x-b", "1"), ("via", "c"), ("x-b", "2")]);
        let map = HeaderMap::from(some);
        assert_eq!(map.get_all("x-b").iter().count(), 2);
        assert_eq!(text(&Fields::from(map)), "host=a x-b=1 x-b=2 via=c");
    }

    /// Fields as they are read from a head of lines.
    fn read(head: &str) -> Fields {
        let mut fields = Fields::of_head(Bytes::copy_from_slice(head.as_bytes()), 0);
        let mut at = 0;
        for line in head.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            fields.append_written(name, at, value.parse().unwrap());
            at += line.len() + 1;
        }
        fields
    }

    /// All names, as they were written.
    fn written(fields: &Fields) -> Vec<String> {
        let names = fields.fields().map(|field| match fields.written(field) {
            Some(written) => String::from_utf8(written.to_vec()).unwrap(),
            None => {
                let mut name = field.name().as_str().to_owned().into_bytes();
                write_as_usual(&mut name);
                String::from_utf8(name).unwrap()
            }
        });
        names.collect()
    }

    #[test]
    fn names_are_as_they_were_written_and_those_that_nobody_wrote_as_usual() {
        let mut some = read("SOAPAction: 1\nx-lower: 2\nX-B3-TraceId: 3\nHOST: 4\na: 5\n");
        let names = ["SOAPAction", "x-lower", "X-B3-TraceId", "HOST", "a"];
        assert_eq!(written(&some), names);
        // What is put in its place is written like it, and what is new as usual.
        some.insert(header::HOST, HeaderValue::from_static("6"));
        some.append(header::ETAG, HeaderValue::from_static("7"));
        some.append(
            HeaderName::from_static("x-a--b-"),
            HeaderValue::from_static("8"),
        );
        let copy = some.only(|name| *name != "a", 4);
        let names = [
            "SOAPAction",
            "x-lower",
            "X-B3-TraceId",
            "HOST",
            "Etag",
            "X-A--B-",
        ];
        assert_eq!(written(&copy), names);
        assert_eq!(copy.get("soapaction").unwrap(), "1");
        assert!(!copy.is_lower());
    }

    #[test]
    fn how_names_are_written_makes_no_difference() {
        let mut one = fields(&[("host", "a")]);
        let two = read("hOsT: a\n");
        assert_eq!(one, two);
        one.insert(header::HOST, HeaderValue::from_static("b"));
        assert_ne!(one, two);
    }

    #[test]
    fn a_name_that_stands_nowhere_was_not_written() {
        let mut some = Fields::of_head(Bytes::from_static(b"ab"), 0);
        for at in [0, 1, 2, usize::MAX] {
            some.append_written(header::TE, at, HeaderValue::from_static("1"));
        }
        let written: Vec<_> = some.fields().map(|field| some.written(field)).collect();
        assert_eq!(written, [Some(&b"ab"[..]), None, None, None]);
    }
}
