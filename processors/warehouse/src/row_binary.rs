//! ClickHouse's RowBinary, writing only: little-endian numbers, lengths as LEB128, no names and no types.
//!
//! Values out of a column's range are clamped, never wrapped and never refused: the same record gives the same bytes for ever.

/// The last second a `DateTime` can hold (2106-02-07): instants beyond it are clamped, in `DateTime64` columns too, so that
/// partitions and dates derived from them stay in range.
const LAST_SECOND: i64 = u32::MAX as i64;

/// Appends values to a row. Every method writes one value of the column type it is named after.
#[derive(Default)]
pub(crate) struct RowWriter {
    bytes: Vec<u8>,
}

impl RowWriter {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Makes room for this many bytes at once.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve_exact(bytes);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn bool(&mut self, v: bool) {
        self.bytes.push(u8::from(v));
    }

    /// `UInt16`
    pub(crate) fn u16(&mut self, v: i32) {
        let clamped = u16::try_from(v.max(0)).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&clamped.to_le_bytes());
    }

    /// `UInt32`
    pub(crate) fn u32(&mut self, v: i32) {
        self.bytes.extend_from_slice(&v.max(0).to_le_bytes());
    }

    /// `UInt64`
    pub(crate) fn u64(&mut self, v: u64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// `Int32`
    pub(crate) fn i32(&mut self, v: i32) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// `Int64`
    pub(crate) fn i64(&mut self, v: i64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// `Float64`
    pub(crate) fn f64(&mut self, v: f64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// `DateTime64(3)` from milliseconds.
    pub(crate) fn millis(&mut self, v: i64) {
        self.i64(v.clamp(0, LAST_SECOND * 1000 + 999));
    }

    /// `Nullable(DateTime64(3))` from milliseconds.
    pub(crate) fn optional_millis(&mut self, v: Option<i64>) {
        self.bool(v.is_none());
        if let Some(v) = v {
            self.millis(v);
        }
    }

    /// `DateTime` from seconds.
    pub(crate) fn seconds(&mut self, v: i64) {
        let clamped = u32::try_from(v.max(0)).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&clamped.to_le_bytes());
    }

    /// `String` and `LowCardinality(String)`
    pub(crate) fn text(&mut self, v: &str) {
        self.length(v.len());
        self.bytes.extend_from_slice(v.as_bytes());
    }

    /// `FixedString(n)`: exactly `n` bytes.
    pub(crate) fn fixed(&mut self, v: &[u8]) {
        self.bytes.extend_from_slice(v);
    }

    /// Length of an array, a map or a string, as LEB128.
    pub(crate) fn length(&mut self, len: usize) {
        let mut rest = len;
        while rest >= 0x80 {
            self.bytes.push((rest as u8 & 0x7f) | 0x80);
            rest >>= 7;
        }
        self.bytes.push(rest as u8);
    }

    /// `Array`: `write` is called for each element.
    pub(crate) fn array<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.length(items.len());
        for item in items {
            write(self, item);
        }
    }
}

/// A count: the wire's signed number as an unsigned one, never below zero.
pub(crate) fn count(v: i64) -> u64 {
    u64::try_from(v).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(write: impl FnOnce(&mut RowWriter), expect: &[u8]) {
        let mut w = RowWriter::default();
        write(&mut w);
        assert_eq!(w.len(), expect.len());
        assert_eq!(w.into_bytes(), expect);
    }

    #[test]
    fn values_are_little_endian_and_clamped() {
        check(|w| w.u16(-1), &[0, 0]);
        check(|w| w.u16(550), &[0x26, 0x02]);
        check(|w| w.u16(70_000), &[0xff, 0xff]);
        check(|w| w.u32(i32::MIN), &[0, 0, 0, 0]);
        check(|w| w.i32(-2), &[0xfe, 0xff, 0xff, 0xff]);
        check(|w| w.i64(1), &[1, 0, 0, 0, 0, 0, 0, 0]);
        check(|w| w.f64(0.5), &[0, 0, 0, 0, 0, 0, 0xe0, 0x3f]);
        check(|w| w.bool(true), &[1]);
        check(|w| w.seconds(i64::MAX), &[0xff; 4]);
        check(|w| w.seconds(-5), &[0; 4]);
        check(|w| w.millis(i64::MIN), &[0; 8]);
        check(|w| w.millis(i64::MAX), &4_294_967_295_999_i64.to_le_bytes());
        check(|w| w.optional_millis(None), &[1]);
        check(|w| w.optional_millis(Some(7)), &[0, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn lengths_are_leb128() {
        check(|w| w.text(""), &[0]);
        check(|w| w.text("é"), &[2, 0xc3, 0xa9]);
        check(|w| w.length(127), &[0x7f]);
        check(|w| w.length(128), &[0x80, 0x01]);
        check(|w| w.length(300), &[0xac, 0x02]);
        check(|w| w.array(&[1, 2], |w, v| w.i32(*v)), &[2, 1, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn counts_are_never_negative() {
        assert_eq!((count(-1), count(0), count(i64::MAX)), (0, 0, i64::MAX as u64));
    }
}
