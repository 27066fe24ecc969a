//! What nodes say to each other beside publications: words on channels, and orders.

use dzvin_protocols::channels::{
    Control, TraceLine, Word,
    pusher::{encode_online, encode_word, is_online},
};
use serde_json::value::RawValue;

/// The whole input is a word, and an order: what is read says the same when it is written and read again, and what is told of a word is
/// JSON.
pub fn words(data: &[u8]) {
    if let Ok(word) = Word::decode(data) {
        let written = word.encode();
        let again = Word::decode(&written).map(|again| again.encode());
        assert_eq!(again.as_ref(), Ok(&written), "a word reads back");
        for frame in [encode_word("presence-x", &word), encode_online("7", &word)].into_iter().flatten() {
            assert!(is_json(&frame), "{}", frame.escape_ascii());
        }
        assert!(encode_online("7", &word).is_none() || is_online(&word).is_some());
    }
    if let Ok(order) = Control::decode(data) {
        let written = order.encode();
        assert!(!(order.is_letter() && order.whose().is_some()), "a letter is for no session");
        if let Control::Traced { lines, .. } = &order {
            assert!(lines.iter().map(TraceLine::get).all(|line| is_json(line.as_bytes())));
        }
        assert_eq!(Control::decode(&written), Ok(order), "an order reads back");
    }
}

fn is_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(bytes).is_ok()
}
