//! RFC 6455 by its own words, over raw TCP against a running node: what a sound client may do works in every cut of the bytes,
//! and what none may do is closed with the code of the standard. Extensions are not negotiated, so their cases do not apply.

use super::raw::*;
use crate::support::{
    eventually::eventually,
    hub::{Hub, World},
};

/// Each of these, on a connection of its own, is closed with its code.
async fn all_closed(hub: &Hub, cases: impl IntoIterator<Item = (String, Vec<u8>)>, code: u16) {
    for (what, bytes) in cases {
        let mut raw = Raw::connected(hub).await;
        raw.send(&bytes).await;
        raw.closed(code, &what).await;
    }
}

async fn unharmed(hub: &Hub) {
    eventually("nobody is left", async || hub.metric("dzvin_sessions").await == 0.0).await;
    assert_eq!(hub.metric("dzvin_session_panics_total").await, 0.0);
}

#[tokio::test]
async fn fragments_in_every_cut_with_control_frames_between() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let mut raw = Raw::connected(&hub).await;
    for at in 0..=ASK.len() {
        let (head, tail) = ASK.as_bytes().split_at(at);
        raw.send(&[frame(TEXT, head), frame(FIN | CONTINUATION, tail)].concat()).await;
        raw.expect(FIN | TEXT, ASK.as_bytes(), &format!("cut at {at}")).await;
        // A ping, a pong that nobody asked for, and an empty fragment in the middle.
        let between = [frame(FIN | PING, b"are you there"), frame(FIN | PONG, b"i am"), frame(CONTINUATION, b"")];
        raw.send(&[frame(TEXT, head), between.concat(), frame(FIN | CONTINUATION, tail)].concat()).await;
        raw.expect(FIN | PONG, b"are you there", &format!("a ping between, cut at {at}")).await;
        raw.expect(FIN | TEXT, ASK.as_bytes(), &format!("around a ping, cut at {at}")).await;
    }
    // One byte to a fragment, a ping behind each, and the pongs in their order.
    let mut stream = Vec::new();
    for (n, byte) in ASK.bytes().enumerate() {
        stream.extend(frame(if n == 0 { TEXT } else { CONTINUATION }, &[byte]));
        stream.extend(frame(FIN | PING, &[b'a' + n as u8]));
    }
    stream.extend(frame(FIN | CONTINUATION, b""));
    raw.send(&stream).await;
    for n in 0..ASK.len() {
        raw.expect(FIN | PONG, &[b'a' + n as u8], "pongs in order").await;
    }
    raw.expect(FIN | TEXT, ASK.as_bytes(), "a byte to a fragment").await;
    // The same stream, one byte to a write.
    for byte in &stream {
        raw.send(&[*byte]).await;
    }
    for n in 0..ASK.len() {
        raw.expect(FIN | PONG, &[b'a' + n as u8], "pongs in order").await;
    }
    raw.expect(FIN | TEXT, ASK.as_bytes(), "a byte to a write").await;
    drop(raw);
    unharmed(&hub).await;
}

/// Whoever does not wait for the answer to its upgrade has it all the same, before the answer to what it said, however much of that came.
#[tokio::test]
async fn what_is_said_with_the_upgrade() {
    let world = World::new(0, false).await;
    let hub = world.hub_with("a", "").await;
    let whole = sign_in().len();
    for beginning in [1, 2, 5, 6, 20, whole - 1, whole] {
        Raw::connected_with(&hub, beginning).await.works("behind it").await;
    }
    Raw::saying(&hub, WEBSOCKET, b"no frame").await.closed(1002, "what it said is no frame").await;
    let goodbye = close(&1000_u16.to_be_bytes());
    Raw::saying(&hub, WEBSOCKET, &goodbye).await.closed(1000, "it says goodbye at once").await;
    unharmed(&hub).await;
}

#[tokio::test]
async fn fragments_out_of_order() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let sound = frame(FIN | TEXT, ASK.as_bytes());
    let cases = [
        ("the rest of nothing", frame(FIN | CONTINUATION, b"x")),
        ("the middle of nothing", frame(CONTINUATION, b"x")),
        ("an empty rest of nothing", frame(FIN | CONTINUATION, b"")),
        ("a message within a message", [frame(TEXT, b"{"), sound.clone()].concat()),
        ("a beginning within a message", [frame(TEXT, b"{"), frame(TEXT, b"{")].concat()),
        ("binary within text", [frame(TEXT, b"{"), frame(FIN | BINARY, b"x")].concat()),
        ("a beginning after a control frame", [frame(TEXT, b"{"), frame(FIN | PONG, b""), frame(TEXT, b"{")].concat()),
    ];
    all_closed(&hub, cases.map(|(what, bytes)| (what.to_owned(), bytes)), 1002).await;
    // A rest after a whole message: the message was sound and is answered.
    let mut raw = Raw::connected(&hub).await;
    raw.send(&[sound, frame(FIN | CONTINUATION, b"x")].concat()).await;
    raw.expect(FIN | TEXT, ASK.as_bytes(), "what came before").await;
    raw.closed(1002, "a rest after the end").await;
    unharmed(&hub).await;
}

#[tokio::test]
async fn control_frames() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let mut raw = Raw::connected(&hub).await;
    for size in [0, 1, 124, 125] {
        let payload: Vec<u8> = (0..size).map(|n| n as u8 ^ 0xa5).collect();
        raw.send(&frame(FIN | PING, &payload)).await;
        raw.expect(FIN | PONG, &payload, "the same payload, whatever the bytes").await;
        raw.send(&frame(FIN | PONG, &payload)).await;
        raw.works("a pong that nobody asked for is no matter").await;
    }
    let many: Vec<u8> = (0..500_u16).flat_map(|n| frame(FIN | PING, &n.to_be_bytes())).collect();
    raw.send(&many).await;
    for n in 0..500_u16 {
        raw.expect(FIN | PONG, &n.to_be_bytes(), "each is answered").await;
    }
    drop(raw);
    let mut cases = Vec::new();
    for opcode in [CLOSE, PING, PONG] {
        cases.push((format!("opcode {opcode}: above 125 bytes"), frame(FIN | opcode, &[b'x'; 126])));
        cases.push((format!("opcode {opcode}: above 64 KiB"), frame(FIN | opcode, &[b'x'; 70_000])[..14].to_vec()));
        cases.push((format!("opcode {opcode}: in fragments"), frame(opcode, b"")));
    }
    all_closed(&hub, cases, 1002).await;
    unharmed(&hub).await;
}

#[tokio::test]
async fn masks_reserved_bits_and_opcodes() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let mut raw = Raw::connected(&hub).await;
    for mask in [[0; 4], [0xff; 4], [1, 0, 0, 0], [b'{'; 4]] {
        raw.send(&masked_with(FIN | TEXT, ASK.as_bytes(), mask)).await;
        raw.expect(FIN | TEXT, ASK.as_bytes(), "any mask").await;
    }
    drop(raw);
    let mut cases = Vec::new();
    for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
        cases.push((format!("opcode {opcode}: unmasked"), vec![FIN | opcode, 0]));
    }
    cases.push(("unmasked with a payload".to_owned(), [&[FIN | TEXT, ASK.len() as u8][..], ASK.as_bytes()].concat()));
    for bits in 1..8_u8 {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            cases.push((format!("reserved bits {bits:03b} of opcode {opcode}"), frame(FIN | bits << 4 | opcode, b"")));
        }
    }
    // Within a message as well.
    cases.push(("reserved bits of a rest".to_owned(), [frame(TEXT, b"{"), frame(FIN | 0x40, b"}")].concat()));
    for opcode in (3..=7).chain(11..=15) {
        cases.push((format!("opcode {opcode}"), frame(FIN | opcode, b"")));
        cases.push((format!("opcode {opcode} with a payload"), frame(FIN | opcode, b"x")));
    }
    all_closed(&hub, cases, 1002).await;
    unharmed(&hub).await;
}

/// A command of exactly so many bytes, and its reply.
fn sized(size: usize) -> (Vec<u8>, &'static [u8]) {
    let (head, tail) = (r#"{"id":3,"send":{"data":""#, format!("\"}}}}\n{ASK}"));
    let text = format!("{head}{}{tail}", "x".repeat(size - head.len() - tail.len()));
    (text.into_bytes(), ASK.as_bytes())
}

#[tokio::test]
async fn lengths_in_their_forms_and_the_limit() {
    let world = World::new(0, false).await;
    // Two bytes above what the middle form can say, so that the long form is sound as well.
    let hub = world.hub_with("a", "[channels]\nmax_message = 65538\n").await;
    let mut raw = Raw::connected(&hub).await;
    for size in [125, 126, 127, 128, 255, 256, 65_535, 65_536, 65_537, 65_538] {
        let (text, reply) = sized(size);
        assert_eq!(text.len(), size);
        raw.send(&frame(FIN | TEXT, &text)).await;
        raw.expect(FIN | TEXT, reply, &format!("{size} bytes")).await;
        // In fragments the sum counts.
        raw.send(&[frame(TEXT, &text[..size - 100]), frame(FIN | CONTINUATION, &text[size - 100..])].concat()).await;
        raw.expect(FIN | TEXT, reply, &format!("{size} bytes in fragments")).await;
    }
    raw.send(&frame(FIN | TEXT, b"")).await;
    raw.works("an empty message says nothing").await;
    raw.send(&[frame(TEXT, b""), frame(CONTINUATION, b""), frame(FIN | CONTINUATION, b"")].concat()).await;
    raw.works("in fragments as well").await;
    drop(raw);

    let long = |size: u64| [&[0x80 | 127][..], &size.to_be_bytes()].concat();
    let middle = |size: u16| [&[0x80 | 126][..], &size.to_be_bytes()].concat();
    let mut cases = Vec::new();
    for size in [0, 1, 125] {
        cases.push((format!("{size} in the middle form"), header(FIN | TEXT, &middle(size), MASK)));
    }
    for size in [0, 125, 126, 65_535, 1 << 63, u64::MAX] {
        cases.push((format!("{size} in the long form"), header(FIN | TEXT, &long(size), MASK)));
    }
    all_closed(&hub, cases, 1002).await;

    // Refused by what is announced: not a byte of it is waited for.
    let (text, _) = sized(65_538);
    let cases = [
        ("one above", header(FIN | TEXT, &long(65_539), MASK)),
        ("63 bits", header(FIN | TEXT, &long(i64::MAX as u64), MASK)),
        ("binary", header(FIN | BINARY, &long(1 << 40), MASK)),
        ("a fragment", header(TEXT, &long(65_539), MASK)),
        ("the sum of fragments", [frame(TEXT, &text), frame(CONTINUATION, b"x")].concat()),
        ("a sum that overflows", [frame(TEXT, b"x"), header(CONTINUATION, &long(i64::MAX as u64), MASK)].concat()),
    ];
    all_closed(&hub, cases.map(|(what, bytes)| (what.to_owned(), bytes)), 1009).await;
    unharmed(&hub).await;
}

#[tokio::test]
async fn text_is_utf_8_in_every_cut() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    let mut raw = Raw::connected(&hub).await;
    // Of two, three and four bytes, the first and the last of each length, and the neighbours of the surrogates.
    let characters =
        ["\u{80}", "ж", "\u{7ff}", "\u{800}", "€", "\u{d7ff}", "\u{e000}", "\u{ffff}", "\u{10000}", "😀", "\u{10ffff}"];
    for character in characters {
        let text = format!(r#"{{"id":2,"rpc":{{"method":"{character}"}}}}"#);
        let begin = text.find(character).expect("it is there");
        for at in begin..=begin + character.len() {
            let (head, tail) = text.as_bytes().split_at(at);
            let pieces = [frame(TEXT, head), frame(FIN | PING, character.as_bytes()), frame(FIN | CONTINUATION, tail)];
            raw.send(&pieces.concat()).await;
            raw.expect(FIN | PONG, character.as_bytes(), "a ping in the middle of a character").await;
            let (first, reply) = raw.hear().await.expect("a reply");
            let reply = String::from_utf8(reply).expect("text");
            assert!(first == FIN | TEXT && reply.contains("\"id\":2") && reply.contains("108"), "{character}: {reply}");
        }
    }
    drop(raw);

    let mut cases = Vec::new();
    for character in characters {
        let bytes = character.as_bytes();
        for at in 1..bytes.len() {
            let (head, tail) = bytes.split_at(at);
            let shown = format!("{character:?} cut at {at}");
            cases.push((format!("{shown}: and no more"), frame(FIN | TEXT, head)));
            cases.push((format!("{shown}: the rest alone"), frame(FIN | TEXT, tail)));
            cases.push((
                format!("{shown}: no more in the rest"),
                [frame(TEXT, head), frame(FIN | CONTINUATION, b"")].concat(),
            ));
            // Told with the fragment that cannot be, although the message goes on.
            cases.push((
                format!("{shown}: something else follows"),
                [frame(TEXT, head), frame(CONTINUATION, b"x")].concat(),
            ));
            cases.push((
                format!("{shown}: its beginning twice"),
                [frame(TEXT, head), frame(CONTINUATION, head)].concat(),
            ));
        }
    }
    for (what, bytes) in [
        ("no beginning of anything", &[0x80][..]),
        ("never in UTF-8", &[0xff]),
        ("a slash in two bytes", &[0xc0, 0xaf]),
        ("a slash in three", &[0xe0, 0x80, 0xaf]),
        ("a slash in four", &[0xf0, 0x80, 0x80, 0xaf]),
        ("zero in two", &[0xc0, 0x80]),
        ("a high surrogate", &[0xed, 0xa0, 0x80]),
        ("a low surrogate", &[0xed, 0xbf, 0xbf]),
        ("a pair of them", &[0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80]),
        ("above the last", &[0xf4, 0x90, 0x80, 0x80]),
        ("five bytes", &[0xf8, 0x88, 0x80, 0x80, 0x80]),
    ] {
        cases.push((what.to_owned(), frame(FIN | TEXT, bytes)));
        cases.push((format!("{what}, in a fragment"), frame(TEXT, bytes)));
        cases.push((format!("{what}, behind text"), frame(FIN | TEXT, &[ASK.as_bytes(), bytes].concat())));
    }
    all_closed(&hub, cases, 1007).await;
    unharmed(&hub).await;
}

#[tokio::test]
async fn the_close_handshake_from_the_clients_side() {
    let world = World::new(0, false).await;
    let hub = world.hub("a").await;
    for code in [1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        for reason in ["", "bye", &"я".repeat(61)] {
            let mut raw = Raw::connected(&hub).await;
            raw.send(&close(&[&code.to_be_bytes()[..], reason.as_bytes()].concat())).await;
            raw.closed(code, &format!("{code} is echoed")).await;
        }
    }
    let mut raw = Raw::connected(&hub).await;
    raw.send(&close(b"")).await;
    raw.closed(1000, "no code: a normal end").await;

    // In the middle of a message, and before anybody has signed in.
    let mut raw = Raw::connected(&hub).await;
    raw.send(&[frame(TEXT, b"{"), close(&1001_u16.to_be_bytes())].concat()).await;
    raw.closed(1001, "in the middle of a message").await;
    let mut raw = Raw::open(&hub).await;
    raw.send(&close(&1000_u16.to_be_bytes())).await;
    raw.closed(1000, "before the connect command").await;

    // What comes behind it is nobody's: no answer, no error, no reset.
    let behind = [frame(FIN | PING, b"?"), frame(FIN | TEXT, ASK.as_bytes()), vec![0xff; 3_000], close(b"")];
    let mut raw = Raw::connected(&hub).await;
    raw.send(&[close(&1000_u16.to_be_bytes()), behind.concat()].concat()).await;
    raw.closed(1000, "data after a close is ignored").await;
    // What came before is answered.
    let mut raw = Raw::connected(&hub).await;
    raw.send(&[frame(FIN | TEXT, ASK.as_bytes()), close(&1000_u16.to_be_bytes())].concat()).await;
    raw.expect(FIN | TEXT, ASK.as_bytes(), "what came before").await;
    raw.closed(1000, "then the end").await;

    let mut cases = vec![("a code of one byte".to_owned(), close(&[3]))];
    for code in [0_u16, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push((format!("the code {code}"), close(&code.to_be_bytes())));
        cases.push((format!("the code {code} with a reason"), close(&[&code.to_be_bytes()[..], b"bye"].concat())));
    }
    all_closed(&hub, cases, 1002).await;
    let reasons = [&[0xff_u8][..], &[0xd0], &[0xed, 0xa0, 0x80], b"well\x80"];
    let cases = reasons
        .map(|reason| (format!("the reason {reason:?}"), close(&[&1000_u16.to_be_bytes()[..], reason].concat())));
    all_closed(&hub, cases, 1007).await;
    unharmed(&hub).await;
}

#[tokio::test]
async fn the_close_handshake_from_the_servers_side() {
    let world = World::new(0, false).await;
    let hub = world.hub_with("a", "[channels]\nconnect_timeout = '1s'\n").await;
    // Clients that answer, that answer something else, and that go on talking: each hears one close frame and the end.
    let words = frame(FIN | TEXT, ASK.as_bytes());
    for (what, answer) in [
        ("an echo", close(&3502_u16.to_be_bytes())),
        ("another code", close(&1000_u16.to_be_bytes())),
        ("an empty one", close(b"")),
        ("a code that must not be sent", close(&1005_u16.to_be_bytes())),
        ("words, then an echo", [words.clone(), words, close(&3502_u16.to_be_bytes())].concat()),
        ("rubbish", vec![0xff; 5_000]),
    ] {
        let mut raw = Raw::open(&hub).await;
        let (first, payload) = raw.hear().await.expect("a close frame");
        assert_eq!((first, payload.get(..2)), (FIN | CLOSE, Some(&3502_u16.to_be_bytes()[..])), "{what}");
        raw.send(&answer).await;
        assert_eq!(raw.hear().await, None, "{what}: nothing follows");
    }
    // A client that says nothing at all is not waited for.
    let mut silent = Raw::open(&hub).await;
    assert!(silent.hear().await.is_some_and(|(first, _)| first == FIN | CLOSE));
    unharmed(&hub).await;
    // A client that breaks the protocol of commands is told in the same way.
    let mut raw = Raw::connected(&hub).await;
    raw.send(&frame(FIN | TEXT, b"no command")).await;
    raw.closed(3501, "no command").await;
    unharmed(&hub).await;
}
