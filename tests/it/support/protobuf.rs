//! Messages of the Protobuf form, written by hand.

/// A text, or a message, of the Protobuf form with its tag and its length before it.
pub fn field(tag: u8, value: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2], &counted(value)[..]].concat()
}

/// Bytes with their length before them.
pub fn counted(value: &[u8]) -> Vec<u8> {
    let (mut out, mut left) = (Vec::new(), value.len());
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
    out.extend_from_slice(value);
    out
}
