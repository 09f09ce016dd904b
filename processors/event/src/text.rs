//! Lenient scalar fields of source records: text that borrows from the record where it can, instants in the spellings sources use.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

/// Optional text: null, absent and empty are the same. A number is taken as its digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text<'a>(pub Cow<'a, str>);

impl<'a> Text<'a> {
    /// Text that borrows.
    pub const fn new(s: &'a str) -> Self {
        Self(Cow::Borrowed(s))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(s: &'a str) -> Self {
        Self::new(s)
    }
}

impl From<String> for Text<'_> {
    fn from(s: String) -> Self {
        Self(Cow::Owned(s))
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_empty() { serializer.serialize_none() } else { serializer.serialize_some(&**self) }
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(v.to_owned())))
    }

    fn visit_string<E>(self, v: String) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(v.to_string())))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(v.to_string())))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(digits(v))))
    }

    fn visit_bool<E>(self, v: bool) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(if v { "true" } else { "false" })))
    }

    fn visit_none<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Text<'de>, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_option(TextVisitor)
    }
}

/// How the errors of [`Number`] and [`Millis`] begin. They do not quote the value: it may hold an address.
pub(crate) const NO_NUMBER: &str = "no whole number";
pub(crate) const NO_INSTANT: &str = "no instant";

/// A small whole number that sources write as a number or as text (`550`, `"550"`, `"0"`); null and absent are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub i32);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 0 { serializer.serialize_none() } else { serializer.serialize_some(&self.0) }
    }
}

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Number, E> {
        i32::try_from(v).map(Number).map_err(|_| E::custom(NO_NUMBER))
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Number, E> {
        i32::try_from(v).map(Number).map_err(|_| E::custom(NO_NUMBER))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Number, E> {
        // `550.0`: sources in languages where every number is a float.
        let whole = v as i32;
        if f64::from(whole) == v { Ok(Number(whole)) } else { Err(E::custom(NO_NUMBER)) }
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Number, E> {
        match v.trim() {
            "" => Ok(Number(0)),
            digits => digits.parse().map(Number).map_err(|_| E::custom(NO_NUMBER)),
        }
    }

    fn visit_none<E>(self) -> Result<Number, E> {
        Ok(Number(0))
    }

    fn visit_unit<E>(self) -> Result<Number, E> {
        Ok(Number(0))
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Number, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_option(NumberVisitor)
    }
}

/// An instant in milliseconds since the epoch, UTC.
///
/// Read from a number (milliseconds; below 10¹¹, a date in 1973, it is taken as seconds) or from RFC 3339 text.
/// 0 stands for null, absent and empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

impl Millis {
    /// From RFC 3339 text.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Self(t.as_millisecond()))
    }

    fn from_number(v: i64) -> Self {
        if v.unsigned_abs() < 100_000_000_000 { Self(v * 1000) } else { Self(v) }
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// A number as a text: never longer than some twenty characters, where `1e308` has five.
fn digits(v: f64) -> String {
    if v == 0.0 || (1e-7..1e16).contains(&v.abs()) { v.to_string() } else { format!("{v:e}") }
}

struct MillisVisitor;

impl<'de> Visitor<'de> for MillisVisitor {
    type Value = Millis;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("milliseconds since the epoch or RFC 3339 text")
    }

    fn visit_i64<E>(self, v: i64) -> Result<Millis, E> {
        Ok(Millis::from_number(v))
    }

    fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Millis, E> {
        i64::try_from(v).map(Millis::from_number).map_err(|_| E::custom(NO_INSTANT))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Millis, E> {
        // Seconds with a fraction, as some sources write them.
        if v.abs() < 1e11 {
            Ok(Millis((v * 1000.0).round() as i64))
        } else if v.abs() < 1e17 {
            Ok(Millis(v.round() as i64))
        } else {
            Err(E::custom(NO_INSTANT))
        }
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Millis, E> {
        match v.trim() {
            "" => Ok(Millis(0)),
            v => Millis::parse(v).or_else(|| v.parse().ok().map(Millis::from_number)).ok_or_else(|| E::custom(NO_INSTANT)),
        }
    }

    fn visit_none<E>(self) -> Result<Millis, E> {
        Ok(Millis(0))
    }

    fn visit_unit<E>(self) -> Result<Millis, E> {
        Ok(Millis(0))
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Millis, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_option(MillisVisitor)
    }
}

/// A map of text to text, in the order of the source. Values that are no scalars are left out: tags are for people and mappings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags<'a>(pub Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl Tags<'_> {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| &**v)
    }
}

impl Serialize for Tags<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (k, v) in &self.0 {
            map.serialize_entry(&**k, &**v)?;
        }
        map.end()
    }
}

/// A tag's value: a scalar as text, or something else that is passed over.
struct TagValue<'a>(Option<Text<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for TagValue<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = TagValue<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(TagValue(Some(Text(Cow::Borrowed(v)))))
            }

            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(TagValue(Some(Text(Cow::Owned(v.to_owned())))))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
                Ok(TagValue(Some(v.to_string().into())))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
                Ok(TagValue(Some(v.to_string().into())))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
                Ok(TagValue(Some(digits(v).into())))
            }

            fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
                Ok(TagValue(Some(v.to_string().into())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(TagValue(None))
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(TagValue(None))
            }

            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
                d.deserialize_any(self)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(TagValue(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
                Ok(TagValue(None))
            }
        }
        d.deserialize_any(V)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Tags<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Tags<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of text to text")
            }

            fn visit_none<E>(self) -> Result<Self::Value, E> {
                Ok(Tags::default())
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Tags::default())
            }

            fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
                d.deserialize_map(self)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tags = Vec::new();
                while let Some((k, v)) = map.next_entry::<Text<'de>, TagValue<'de>>()? {
                    if let Some(v) = v.0 {
                        tags.push((k.0, v.0));
                    }
                }
                Ok(Tags(tags))
            }
        }
        d.deserialize_option(V)
    }
}
