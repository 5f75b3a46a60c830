//! The fields of an HTTP message, in the order they came.
//!
//! A message has a dozen of them, and each is looked for a few times at most: walking a list is
//! quicker than making a hash table of it, and copies, filters and writes are one pass. The library
//! for messages has a table instead ([`HeaderMap`]); at its borders one is made of the other.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Names and values, in order. Those of one name need not stand together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(HeaderName, HeaderValue)>);

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
        Self(Vec::new())
    }

    /// None yet, with room for so many.
    pub fn with_capacity(room: usize) -> Self {
        Self(Vec::with_capacity(room))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of the first one of this name.
    pub fn get(&self, name: impl AsFieldName) -> Option<&HeaderValue> {
        let field = self.0.iter().find(|(field, _)| name.is(field));
        field.map(|(_, value)| value)
    }

    /// The values of all of this name.
    pub fn get_all(&self, name: impl AsFieldName) -> impl DoubleEndedIterator<Item = &HeaderValue> {
        let fields = self.0.iter();
        fields.filter_map(move |(field, value)| name.is(field).then_some(value))
    }

    /// Whether there is one of this name.
    pub fn contains(&self, name: impl AsFieldName) -> bool {
        self.get(name).is_some()
    }

    /// One more, whatever there is of its name.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// The only one of its name: in the place of the first there was, or behind all.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        let Some(at) = self.0.iter().position(|(field, _)| *field == name) else {
            self.0.push((name, value));
            return;
        };
        self.0[at].1 = value;
        let again = |(field, _): &(HeaderName, HeaderValue)| *field == name;
        if self.0[at + 1..].iter().any(again) {
            let mut place = 0;
            self.0.retain(|field| {
                place += 1;
                place <= at + 1 || !again(field)
            });
        }
    }

    /// None of this name any more. Whether there was one.
    pub fn remove(&mut self, name: impl AsFieldName) -> bool {
        let there = self.contains(&name);
        if there {
            self.0.retain(|(field, _)| !name.is(field));
        }
        there
    }

    /// Those alone for which this holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&HeaderName) -> bool) {
        self.0.retain(|(name, _)| keep(name));
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// All names, as often as they stand there.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().map(|(name, _)| name)
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = (&'a HeaderName, &'a HeaderValue);
    type IntoIter = std::iter::Map<
        std::slice::Iter<'a, (HeaderName, HeaderValue)>,
        fn(&'a (HeaderName, HeaderValue)) -> Self::Item,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl IntoIterator for Fields {
    type Item = (HeaderName, HeaderValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Fields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
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
}
