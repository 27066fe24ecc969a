//! JSON as XML and back, in the form of XPath and XQuery Functions 3.1 (W3C): what `fn:json-to-xml` makes and `fn:xml-to-json` reads.
//!
//! ```xml
//! <map xmlns="http://www.w3.org/2005/xpath-functions"><number key="sum">1.50</number><array key="tags"><string>x</string></array></map>
//! ```
//!
//! Invariants: what is written reads back to the same JSON, numbers digit by digit, but for white space and all but the last of equal
//! names; a text with characters that XML does not have (`\u0001`, half a surrogate pair) stays escaped as in JSON, with
//! `escaped="true"`. What is read is bounded in depth, and neither DTD nor entity of the sender's own is ever read.
//!
//! Not here: when something is said in XML.

mod read;
mod write;

pub use read::{XmlError, from_xml};
pub use write::to_xml;

/// The namespace of all elements.
pub const NAMESPACE: &str = "http://www.w3.org/2005/xpath-functions";
/// The media type.
pub const XML_MEDIA_TYPE: &str = "application/xml";
/// Deepest nesting that is read and written: that of documents, and what answers wrap around them.
pub const MAX_XML_DEPTH: usize = crate::entities::MAX_DEPTH + 8;

/// Whether XML 1.0 has the character (its production 2, `Char`).
const fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn there_and_back(json: &str) -> String {
        let xml = to_xml(json).expect(json);
        assert!(xml.chars().all(is_char), "{xml:?}");
        from_xml(&xml).unwrap_or_else(|error| panic!("{xml}: {error}"))
    }

    #[test]
    fn it_is_written_as_the_standard_says() {
        let body = |json: &str| {
            let xml = to_xml(json).expect(json);
            let rest = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").expect(&xml);
            rest.replacen(&format!(" xmlns=\"{NAMESPACE}\""), "", 1)
        };
        for (json, xml) in [
            ("{}", "<map/>"),
            ("[]", "<array/>"),
            ("null", "<null/>"),
            (
                r#"{"a":1.50,"b":[true,null,"x<y&z"],"c":{"d e":"\"q\""}}"#,
                r#"<map><number key="a">1.50</number><array key="b"><boolean>true</boolean><null/><string>x&lt;y&amp;z</string></array><map key="c"><string key="d e">&quot;q&quot;</string></map></map>"#,
            ),
            (
                r#"["\u0001","\ud800","a\r\n\tb",""]"#,
                r#"<array><string escaped="true">\u0001</string><string escaped="true">\ud800</string><string>a&#xD;&#xA;&#x9;b</string><string></string></array>"#,
            ),
            (r#"{"\u0000k":1}"#, r#"<map><number escaped-key="true" key="\u0000k">1</number></map>"#),
            (r#"{"a":1,"\u0061":2}"#, r#"<map><number key="a">2</number></map>"#),
        ] {
            assert_eq!(body(json), xml, "{json}");
        }
        let deep = format!("{}1{}", "[".repeat(MAX_XML_DEPTH + 1), "]".repeat(MAX_XML_DEPTH + 1));
        assert!(to_xml(&deep).is_none() && to_xml("{").is_none() && to_xml("{\"a\"}").is_none());
    }

    #[test]
    fn what_others_write_is_read() {
        let read = |inside: &str| from_xml(&format!("<map xmlns=\"{NAMESPACE}\">{inside}</map>"));
        for (inside, json) in [
            ("", "{}"),
            ("\n  <number key='a'> 1e5 </number><!-- x --><?p i?>\n", r#"{"a":1e5}"#),
            ("<boolean key='a'>1</boolean><boolean key='b'> false </boolean>", r#"{"a":true,"b":false}"#),
            ("<string key='a'><![CDATA[<x>]]>&amp;&#x44f;</string>", r#"{"a":"<x>&я"}"#),
            (r#"<string key="a" escaped="true">q"\"\/\u0001\n</string>"#, r#"{"a":"q\"\"\/\u0001\n"}"#),
            (r#"<null key="x&quot;y"/>"#, r#"{"x\"y":null}"#),
        ] {
            assert_eq!(read(inside).expect(inside), json, "{inside}");
        }
        let prefixed = format!("<j:array xmlns:j='{NAMESPACE}'><j:string>x</j:string></j:array>");
        assert_eq!(from_xml(&prefixed).expect("prefixed"), r#"["x"]"#);
    }

    #[test]
    fn what_is_none_of_it_is_refused() {
        let map = |inside: &str| format!("<map xmlns=\"{NAMESPACE}\">{inside}</map>");
        let bomb =
            format!("<!DOCTYPE x [<!ENTITY a \"aaaa\">]><map xmlns=\"{NAMESPACE}\"><string key='a'>&a;</string></map>");
        let outside = format!("<!DOCTYPE x SYSTEM \"file:///etc/passwd\">{}", map(""));
        let deep = format!("{}{}", "<array>".repeat(MAX_XML_DEPTH + 1), "</array>".repeat(MAX_XML_DEPTH + 1));
        for text in [
            "",
            "x",
            "<map/>",
            "<map xmlns='urn:other'/>",
            &bomb,
            &outside,
            &map("<string key='a'>&a;</string>"),
            &map("<string key='a'>&#0;</string>"),
            &map("<string key='a'>&#1;</string>"),
            &map("<string>x</string>"),
            &map("<string key='a'>x</string><string key='a'>y</string>"),
            &map("<string key='a'><null/></string>"),
            &map("<number key='a'>01</number>"),
            &map("<number key='a'>NaN</number>"),
            &map("<number key='a'></number>"),
            &map("<boolean key='a'>yes</boolean>"),
            &map("<null key='a'>x</null>"),
            &map("<other key='a'/>"),
            &map("<string key='a' more='b'>x</string>"),
            &map("<string key='a' escaped='true'>\\x</string>"),
            &map("<string key='a' escaped='true'>\\u12</string>"),
            &map("text"),
            &map("<array key='a'>"),
            &format!("{}{}", map(""), map("")),
            &map(&format!("<array key='a'>{deep}</array>")),
        ] {
            assert!(from_xml(text).is_err(), "{text}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let text = "[a-zяїґ\"\\\\/<>&'\\]\\x00-\\x20\u{7f}\u{85}\u{fffe}😀]{0,8}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 48, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(text, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_comes_back(value in json()) {
            let back: Value = serde_json::from_str(&there_and_back(&value.to_string())).expect("json");
            prop_assert_eq!(back, value);
        }

        #[test]
        fn numbers_keep_their_digits(number in "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?") {
            prop_assert_eq!(there_and_back(&number), number);
        }

        #[test]
        fn hostile_text_ends(text in "(<map xmlns=\"http://www.w3.org/2005/xpath-functions\">)?([<>&;/\"'=!\\[\\]#xa ]|map|string|key|CDATA){0,40}") {
            if let Ok(json) = from_xml(&text) {
                prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{}", json);
            }
            let _ = to_xml(&text);
        }
    }
}
