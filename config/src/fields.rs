//! The fields of an HTTP message, in the order they came.
//!
//! A message has a dozen of them, and each is looked for a few times at most: walking a list is
//! quicker than making a hash table of it, and copies, filters and writes are one pass. The library
//! for messages has a table instead ([`HeaderMap`]); at its borders one is made of the other.
//!
//! Names mean the same however they are written (RFC 9110, section 5.1), and are compared without
//! regard to that. But HTTP/1.1 shows how they were written, and some programs look: a [`Spelling`]
//! is kept beside each name.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Names and values, in order. Those of one name need not stand together.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    list: Vec<Field>,
    /// Whatever their spellings are, they are written in small letters.
    lower: bool,
    /// How names are written that are too long for a [`Spelling`]. Hardly anybody has one.
    long: Option<Box<Vec<(HeaderName, Box<[u8]>)>>>,
}

/// A name, its value, and how the name is written.
#[derive(Clone, Debug)]
pub struct Field {
    name: HeaderName,
    value: HeaderValue,
    spelling: Spelling,
}

/// How a name is written over HTTP/1.1: which of its letters are capitals.
///
/// The n-th letter is one if the n-th bit is set, for names of up to 63 letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spelling(u64);

impl Spelling {
    /// As in the standards: each word begins with a capital, `Content-Type`. So is written what nobody
    /// has spelled: what Portolan adds, and what came over HTTP/2.
    pub const USUAL: Self = Self(1 << Self::LETTERS);

    /// Letters that it has a bit for.
    const LETTERS: usize = 63;

    /// How this name is spelled, if it is not too long to say.
    pub fn of(written: &[u8]) -> Option<Self> {
        (written.len() <= Self::LETTERS).then(|| Self(capitals(written)))
    }

    /// Writes a name, which is there in small letters, as it is spelled.
    pub fn write(self, name: &mut [u8]) {
        if self == Self::USUAL {
            let mut begins = true;
            for letter in name {
                if begins {
                    letter.make_ascii_uppercase();
                }
                begins = *letter == b'-';
            }
            return;
        }
        let mut bits = self.0;
        while bits != 0 {
            if let Some(letter) = name.get_mut(bits.trailing_zeros() as usize) {
                letter.make_ascii_uppercase();
            }
            bits &= bits - 1;
        }
    }
}

/// Which of some letters, 64 at most, are capitals.
fn capitals(written: &[u8]) -> u64 {
    let length = written.len();
    if let Some((last, _)) = written.last_chunk().zip(length.checked_sub(8)) {
        // Eight at a time; the last eight may overlap with those before them.
        let (eights, _) = written.as_chunks();
        let places = (0..).step_by(8);
        let all = eights.iter().zip(places);
        let bits = all.fold(0, |bits, (eight, at)| bits | capitals_of(*eight) << at);
        return bits | capitals_of(*last) << (length - 8);
    }
    let mut eight = [0; 8];
    for (place, letter) in eight.iter_mut().zip(written) {
        *place = *letter;
    }
    capitals_of(eight)
}

/// Which of eight letters are capitals, all at once.
fn capitals_of(letters: [u8; 8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x80 * ONES;
    let letters = u64::from_le_bytes(letters);
    // The top bit of a byte is set where its sum reaches 128.
    let low = letters & !TOP;
    let from_a = low + (0x80 - u64::from(b'A')) * ONES;
    let behind_z = low + (0x7f - u64::from(b'Z')) * ONES;
    let found = from_a & !behind_z & !letters & TOP;
    // The eight top bits, side by side.
    (found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

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
            lower: false,
            long: None,
        }
    }

    /// None yet, with room for so many.
    pub fn with_capacity(room: usize) -> Self {
        Self {
            list: Vec::with_capacity(room),
            lower: false,
            long: None,
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
        self.push(name, value, Spelling::USUAL);
    }

    /// One more, whose name was written like this.
    pub fn append_written(&mut self, name: HeaderName, written: &[u8], value: HeaderValue) {
        let spelling = Spelling::of(written).unwrap_or_else(|| {
            let long = self.long.get_or_insert_default();
            long.push((name.clone(), written.into()));
            Spelling::USUAL
        });
        self.push(name, value, spelling);
    }

    fn push(&mut self, name: HeaderName, value: HeaderValue, spelling: Spelling) {
        self.list.push(Field {
            name,
            value,
            spelling,
        });
    }

    /// The only one of its name: in the place of the first there was, and spelled like it, or behind
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
            lower: self.lower,
            long: self.long.clone(),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&HeaderName, &HeaderValue)> {
        self.into_iter()
    }

    /// All of them, as [`spell`](Self::spell) takes them.
    pub fn spelled(&self) -> impl ExactSizeIterator<Item = &Field> {
        self.list.iter()
    }

    /// Writes the name of one of these fields, which is there in small letters, as it is spelled.
    pub fn spell(&self, field: &Field, name: &mut [u8]) {
        if self.lower {
            return;
        }
        let long = self
            .long
            .as_ref()
            .filter(|_| name.len() > Spelling::LETTERS);
        let mut long = long.into_iter().flat_map(|long| long.iter());
        match long.find(|(known, _)| *known == field.name) {
            Some((_, written)) => name.copy_from_slice(written),
            None => field.spelling.write(name),
        }
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

/// The same names with the same values in the same order, however they are spelled.
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

    /// All names, as they are written.
    fn written(fields: &Fields) -> Vec<String> {
        let names = fields.spelled().map(|field| {
            let mut name = field.name().as_str().to_owned().into_bytes();
            fields.spell(field, &mut name);
            String::from_utf8(name).unwrap()
        });
        names.collect()
    }

    #[test]
    fn names_are_written_as_they_were_spelled_and_those_that_nobody_spelled_as_usual() {
        let long = "X-".to_owned() + &"aB".repeat(70);
        // As long as there are bits.
        let longest = "A".repeat(63);
        let names = [
            "SOAPAction",
            "x-lower",
            "X-B3-TraceId",
            "HOST",
            "a",
            &long,
            &longest,
        ];
        let mut some = Fields::new();
        for name in names {
            let lower = HeaderName::from_bytes(name.as_bytes()).unwrap();
            some.append_written(lower, name.as_bytes(), HeaderValue::from_static("1"));
        }
        assert_eq!(written(&some), names);
        // What is put in its place is spelled like it, and what is new as usual.
        some.insert(header::HOST, HeaderValue::from_static("2"));
        some.append(header::ETAG, HeaderValue::from_static("3"));
        some.append(
            HeaderName::from_static("x-a--b-"),
            HeaderValue::from_static("4"),
        );
        let copy = some.only(|name| *name != "a", 4);
        assert_eq!(
            written(&copy),
            [
                "SOAPAction",
                "x-lower",
                "X-B3-TraceId",
                "HOST",
                &long,
                &longest,
                "Etag",
                "X-A--B-"
            ]
        );
        assert_eq!(copy.get("soapaction").unwrap(), "1");
        let mut lower = copy.clone();
        lower.write_lower();
        let small: Vec<String> = written(&copy)
            .iter()
            .map(|name| name.to_lowercase())
            .collect();
        assert_eq!(written(&lower), small);
    }

    #[test]
    fn how_names_are_spelled_makes_no_difference() {
        let mut one = fields(&[("host", "a")]);
        let mut two = Fields::new();
        two.append_written(header::HOST, b"hOsT", HeaderValue::from_static("a"));
        assert_eq!(one, two);
        one.insert(header::HOST, HeaderValue::from_static("b"));
        assert_ne!(one, two);
    }

    #[test]
    fn capitals_are_found_eight_at_a_time_as_one_by_one() {
        for byte in 0..=u8::MAX {
            for length in 1..20 {
                for at in 0..length {
                    let mut text = vec![b'-'; length];
                    text[at] = byte;
                    let plain = u64::from(byte.is_ascii_uppercase()) << at;
                    assert_eq!(capitals(&text), plain, "{byte} at {at} of {length}");
                }
            }
        }
        assert_eq!(capitals(&[b'Z'; 64]), u64::MAX);
    }
}
