//! Words by which entities are found: those of the declared texts of a document, and those that somebody looks for, in Ukrainian and
//! English.
//!
//! A word of a document is kept whole; one that is looked for is cut to what its forms have in common and finds every word that begins so:
//! `договори` finds `договору` and `договорами`, `calling` finds `calls`. Which ending is cut may be decided anew at any time, for nothing of
//! it is stored. Not here: vowels that change within a word (`кінь`, `коня`) but і and о, and which entity fits best.
//!
//! Invariants: a word has letters and digits only, so nothing of it is an operator of anything; there are at most [`MAX_WORDS`] of a document,
//! and [`MAX_SOUGHT`] that are looked for.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Fields;
use crate::platform::Kind;

/// Most words of a document: the first ones count, and an entity that is found by a word beyond them is a book.
pub const MAX_WORDS: usize = 500;
/// Most words that are looked for at once.
pub const MAX_SOUGHT: usize = 16;
/// Longest word, in characters; what is longer is cut.
const MAX_WORD: usize = 40;
/// Shortest beginning that an ending is cut from.
const STEM: usize = 3;
/// Digits that may be one number although something stands between: those of a telephone.
const MAX_NUMBER: usize = 20;

/// Endings of Ukrainian nouns, adjectives and verbs, longest first.
const UKRAINIAN: [&str; 47] = [
    "ування",
    "енням",
    "ання",
    "ення",
    "ість",
    "ості",
    "ами",
    "ями",
    "ові",
    "еві",
    "єві",
    "ого",
    "ому",
    "ими",
    "іми",
    "ься",
    "ях",
    "ах",
    "ів",
    "їв",
    "ам",
    "ям",
    "ом",
    "ем",
    "єм",
    "ою",
    "ею",
    "єю",
    "ій",
    "их",
    "іх",
    "им",
    "ти",
    "ть",
    "ла",
    "ло",
    "ли",
    "а",
    "я",
    "у",
    "ю",
    "о",
    "е",
    "є",
    "и",
    "і",
    "ї",
];
/// What is left at the end of some.
const SOFT: [char; 3] = ['ь', 'й', 'в'];
/// Endings of English words, longest first.
const ENGLISH: [&str; 7] = ["ings", "ing", "ies", "ed", "es", "ly", "s"];

/// Words that somebody looks for: an entity is found if each begins one of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(Vec<String>);

impl Words {
    /// Reads what somebody has typed; `None` where there is no word in it, or too many.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = BTreeSet::new();
        gather(text, &mut all, MAX_SOUGHT + 1, false);
        let sought: BTreeSet<String> = all.iter().map(|word| stem(word).to_owned()).collect();
        (1..=MAX_SOUGHT).contains(&sought.len()).then(|| Self(sought.into_iter().collect()))
    }

    /// As PostgreSQL reads a `tsquery`: of this kind, each as a beginning.
    #[must_use]
    pub fn query(&self, kind: &Kind) -> String {
        self.0.iter().map(|word| format!("'{kind}/{word}':*")).collect::<Vec<_>>().join(" & ")
    }
}

/// The words of a document at these paths, as PostgreSQL reads a `tsvector`; the kind stands before each, so that words of one kind are found
/// without those of others.
#[must_use]
pub fn vector(kind: &Kind, doc: &str, paths: &[String]) -> String {
    let fields = Fields::of(doc);
    let mut all = BTreeSet::new();
    for value in paths.iter().filter_map(|path| fields.value_at(path)) {
        if let Ok(value) = serde_json::from_str(value) {
            texts(&value, &mut all);
        }
    }
    all.iter().map(|word| format!("'{kind}/{word}'")).collect::<Vec<_>>().join(" ")
}

fn texts(value: &Value, to: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => gather(text, to, MAX_WORDS, true),
        Value::Number(number) => gather(&number.to_string(), to, MAX_WORDS, true),
        Value::Array(all) => all.iter().for_each(|it| texts(it, to)),
        Value::Object(all) => all.values().for_each(|it| texts(it, to)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Adds words as they are compared: small letters, without apostrophes. Digits that may belong together are one word as well, where that is
/// asked for: whoever looks for some of them need not name all.
fn gather(text: &str, to: &mut BTreeSet<String>, most: usize, joins: bool) {
    let mut number = String::new();
    let mut add = |word: &str| {
        if !word.is_empty() && to.len() < most {
            to.insert(word.chars().take(MAX_WORD).collect());
        }
    };
    for part in text.split(|c: char| !(c.is_alphanumeric() || is_apostrophe(c))) {
        let word: String =
            part.chars().filter(|c| !is_apostrophe(*c)).flat_map(char::to_lowercase).map(plain).collect();
        if word.is_empty() {
            continue;
        }
        if joins && word.bytes().all(|byte| byte.is_ascii_digit()) && number.len() + word.len() <= MAX_NUMBER {
            number.push_str(&word);
        } else {
            add(&std::mem::take(&mut number));
        }
        add(&word);
    }
    add(&number);
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’' | 'ʼ' | '`')
}

/// A letter that is written for another.
fn plain(c: char) -> char {
    match c {
        'ґ' => 'г',
        'ё' => 'е',
        // In a closed syllable what is о elsewhere: стіл, стола.
        'і' => 'о',
        other => other,
    }
}

/// What the forms of a word have in common.
fn stem(word: &str) -> &str {
    let cut = |endings: &[&str]| {
        let kept = |ending: &&str| word.strip_suffix(*ending).filter(|stem| stem.chars().count() >= STEM);
        endings.iter().find_map(kept)
    };
    if word.is_ascii() {
        return cut(&ENGLISH).unwrap_or(word);
    }
    let stem = cut(&UKRAINIAN).unwrap_or(word);
    stem.strip_suffix(SOFT).filter(|stem| stem.chars().count() >= STEM).unwrap_or(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind() -> Kind {
        Kind::new("deal").expect("kind")
    }

    /// Whether a document with this text is found.
    fn finds(sought: &str, text: &str) -> bool {
        let doc = serde_json::json!({ "text": text }).to_string();
        let there = vector(&kind(), &doc, &["text".to_owned()]);
        let there: Vec<&str> = there.split(' ').map(|word| word.trim_matches('\'')).collect();
        let words = Words::parse(sought).expect("words");
        words.0.iter().all(|word| there.iter().any(|it| it.starts_with(&format!("deal/{word}"))))
    }

    #[test]
    fn forms_of_a_word_find_each_other() {
        for (sought, text) in [
            ("договір", "За договором оренди"),
            ("договори", "договору № 5"),
            ("оренда землі", "Право оренди земельної ділянки"),
            ("Львова", "м. Львів"),
            ("зв'язок", "Звʼязок із клієнтом"),
            ("ґанок", "ганок"),
            ("calling", "He calls"),
            ("companies", "company"),
            ("042", "0423"),
            ("380441234567", "+380 (44) 123-45-67"),
            ("123 45", "+380 44 123-45-67"),
        ] {
            assert!(finds(sought, text), "{sought} in {text}");
        }
        for (sought, text) in [("оренда", "договір"), ("договір землі", "договір оренди"), ("call", "cat")]
        {
            assert!(!finds(sought, text), "{sought} in {text}");
        }
    }

    #[test]
    fn nothing_of_a_word_is_an_operator() {
        let words = Words::parse("a' | !b & c:* <-> \\ (d)").expect("words");
        assert_eq!(words.query(&kind()), "'deal/a':* & 'deal/b':* & 'deal/c':* & 'deal/d':*");
        let doc = r#"{"a":"it's \\ 'quoted'","b":[1.5,{"c":"Три"}],"d":null}"#;
        let paths = ["a", "b", "d"].map(str::to_owned);
        assert_eq!(vector(&kind(), doc, &paths), "'deal/1' 'deal/15' 'deal/5' 'deal/its' 'deal/quoted' 'deal/три'");
    }

    #[test]
    fn what_is_looked_for_has_words_and_not_too_many() {
        let many = (0..=MAX_SOUGHT).map(|n| format!("w{n}x")).collect::<Vec<_>>().join(" ");
        assert_eq!((Words::parse(" '-, "), Words::parse(&many)), (None, None));
        let long = serde_json::json!({ "a": (0..600).map(|n| format!("слово{n}x")).collect::<Vec<_>>().join(" ") })
            .to_string();
        assert_eq!(vector(&kind(), &long, &["a".to_owned()]).split(' ').count(), MAX_WORDS);
    }
}
