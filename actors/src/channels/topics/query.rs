//! The queries that are listened to on one stream: which of them a publication concerns, and how.
//!
//! Invariants: of each channel `told` is the offset up to which its subscribers know that everything else does not concern
//! them; what is told next says how many offsets it skips, so nobody takes a skipped offset for a lost one. A query whose
//! filter names a text outright is looked at only when that text is there before or after the change. What a publication
//! does not tell of its fields is not guessed: the subscribers recover.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use dzvin_protocols::{
    channels::{Held, Publication},
    entities::{Concern, FieldChange, held_by_query, told_by_query},
};

use crate::platform::ports::Query;

/// One query with its channel.
#[derive(Debug)]
struct Followed {
    query: Arc<Query>,
    /// `None` until the stream has been opened.
    told: Option<u64>,
}

/// What one channel is told.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Publications, each with the offsets right before it that are skipped.
    pub(super) shown: Vec<(u64, Publication)>,
    /// Not everything could be told apart: the subscribers have to recover.
    pub(super) unsure: bool,
}

/// The queries of one stream.
#[derive(Debug, Default)]
pub(super) struct Queries {
    all: HashMap<Arc<str>, Followed>,
    /// Field -> text -> channels of queries that hold only where the field has that text.
    anchored: HashMap<String, HashMap<String, Vec<Arc<str>>>>,
    /// Channels of all others.
    loose: Vec<Arc<str>>,
}

/// The forms of one publication, each made once.
struct Forms<'a> {
    publication: &'a Publication,
    made: [Option<Publication>; 3],
}

impl Forms<'_> {
    fn of(&mut self, concern: Concern) -> Publication {
        let form = self.made[concern as usize].get_or_insert_with(|| told_by_query(self.publication, concern));
        form.clone()
    }

    /// Of several changes that are told as one, where a query held; the text is still one for all. `None`: nothing.
    fn of_several(&mut self, held: Held) -> Option<Publication> {
        let concern = Concern::among(&held)?;
        let form = self.of(concern);
        Some(if concern == Concern::Change { form } else { held_by_query(form, held) })
    }
}

impl Queries {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Follows a query from the position on, unless that is so already.
    pub(super) fn follow(&mut self, channel: &Arc<str>, query: Arc<Query>, position: Option<u64>) {
        if self.all.contains_key(channel) {
            return;
        }
        match query.filter.anchor() {
            Some((field, texts)) => {
                let by_text = self.anchored.entry(field.to_owned()).or_default();
                for text in texts {
                    by_text.entry(text.clone()).or_default().push(Arc::clone(channel));
                }
            }
            None => self.loose.push(Arc::clone(channel)),
        }
        self.all.insert(Arc::clone(channel), Followed { query, told: position });
    }

    pub(super) fn forget(&mut self, channel: &str) {
        let Some(Followed { query, .. }) = self.all.remove(channel) else { return };
        match query.filter.anchor() {
            Some((field, texts)) => {
                let Some(by_text) = self.anchored.get_mut(field) else { return };
                for text in texts {
                    if let Some(channels) = by_text.get_mut(text) {
                        channels.retain(|it| **it != *channel);
                    }
                }
                by_text.retain(|_, channels| !channels.is_empty());
                if by_text.is_empty() {
                    self.anchored.remove(field);
                }
            }
            None => self.loose.retain(|it| **it != *channel),
        }
    }

    /// What a run that follows `before` is to whom. Who is not named is not concerned.
    pub(super) fn tell(&mut self, before: u64, run: &[&Publication]) -> HashMap<Arc<str>, News> {
        let mut news: HashMap<Arc<str>, News> = HashMap::new();
        self.all.values_mut().filter(|it| it.told.is_none()).for_each(|it| it.told = Some(before));
        for publication in run {
            let fields = publication.extra.as_deref().and_then(|extra| extra.fields.as_deref());
            match fields.and_then(FieldChange::parse) {
                Some(change) => self.tell_one(publication, &change, &mut news),
                None => self.all.keys().for_each(|channel| news.entry(Arc::clone(channel)).or_default().unsure = true),
            }
        }
        if let Some(last) = run.last() {
            for (channel, _) in news.iter().filter(|(_, news)| news.unsure) {
                if let Some(followed) = self.all.get_mut(channel) {
                    followed.told = Some(last.offset);
                }
            }
        }
        news
    }

    fn tell_one(&mut self, publication: &Publication, change: &FieldChange<'_>, news: &mut HashMap<Arc<str>, News>) {
        let mut forms = Forms { publication, made: [None, None, None] };
        for channel in self.candidates(change) {
            let Some(Followed { query, told }) = self.all.get_mut(&channel) else { continue };
            // Found by the text before and by the one after.
            if told.is_some_and(|told| told >= publication.offset) {
                continue;
            }
            let form = if change.is_conflated() {
                query.filter.held(change).map(|held| forms.of_several(held))
            } else {
                query.filter.concern(change).map(|concern| concern.map(|it| forms.of(it)))
            };
            match form {
                Ok(None) => {}
                Ok(Some(form)) => {
                    let told = told.replace(publication.offset).unwrap_or(0);
                    let skips = publication.offset.saturating_sub(told + 1);
                    news.entry(channel).or_default().shown.push((skips, form));
                }
                Err(_) => news.entry(channel).or_default().unsure = true,
            }
        }
    }

    /// The channels whose queries have to be looked at; of several changes that are told as one each channel once, for each look is at
    /// all of them.
    fn candidates(&self, change: &FieldChange<'_>) -> Vec<Arc<str>> {
        let mut found = self.loose.clone();
        for (field, by_text) in &self.anchored {
            if !change.all().all(|one| one.carries(field)) {
                found.extend(by_text.values().flatten().cloned());
                continue;
            }
            let mut find = |text: &str| found.extend(by_text.get(text).into_iter().flatten().cloned());
            if change.is_conflated() {
                let texts: HashSet<&str> = change.all().flat_map(|one| one.texts(field)).flatten().collect();
                texts.into_iter().for_each(find);
            } else {
                let [before, after] = change.texts(field);
                before.into_iter().chain(after.filter(|_| after != before)).for_each(&mut find);
            }
        }
        if change.is_conflated() {
            // A channel is one text, shared by all who name it here.
            found.sort_unstable_by_key(|channel| Arc::as_ptr(channel).addr());
            found.dedup_by(|a, b| Arc::ptr_eq(a, b));
        }
        found
    }

    /// Up to where each channel's subscribers know everything, before and after they are told that the rest up to the position
    /// does not concern them.
    pub(super) fn pass(&mut self, position: u64) -> Vec<(Arc<str>, u64, u64)> {
        let passed = |(channel, followed): (&Arc<str>, &mut Followed)| {
            let told = followed.told.replace(position).unwrap_or(position);
            (Arc::clone(channel), told, position)
        };
        self.all.iter_mut().map(passed).collect()
    }

    /// Everybody recovers and begins anew here.
    pub(super) fn reset(&mut self, position: u64) {
        self.all.values_mut().for_each(|it| it.told = Some(position));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dzvin_protocols::{
        channels::{Extra, QueryId},
        entities::{Conflated, Filter, Sight, Values},
        platform::{EntityId, Kind},
    };

    use super::*;

    const DECLARED: [&str; 2] = ["status", "owner"];

    fn declared() -> Vec<String> {
        DECLARED.map(str::to_owned).to_vec()
    }

    fn publication(offset: u64, fields: Option<String>) -> Publication {
        let extra = fields.map(|fields| Arc::new(Extra { fields: Some(fields.into()), ..Extra::default() }));
        let (id, data) = (EntityId::new("a").expect("id"), Bytes::from_static(br#"{"kind":"call","doc":{}}"#));
        Publication { offset, id, revision: offset, at: 0, data, trace: None, extra }
    }

    fn change(offset: u64, was: Option<&str>, is: Option<&str>) -> Publication {
        let declared = declared();
        let values = |status: Option<&str>| status.map(|status| format!(r#"{{"status":"{status}"}}"#));
        let (was, is) = (values(was), values(is));
        let of = |doc: &Option<String>| doc.as_deref().map(|doc| Values::of_stored(doc, &declared).into_owned());
        publication(offset, Some(FieldChange::new(of(&was), of(&is)).encode()))
    }

    fn queries(filters: &[&str]) -> Queries {
        let kind = Kind::new("call").expect("kind");
        let mut all = Queries::default();
        for filter in filters {
            let filter_of = Filter::parse(filter).expect(filter);
            let query = Query { id: QueryId::of(&kind, &filter_of), kind: kind.clone(), filter: filter_of };
            all.follow(&Arc::from(*filter), Arc::new(query), Some(10));
        }
        all
    }

    /// What a channel was told: offset, skips and the word.
    fn told(news: &HashMap<Arc<str>, News>, channel: &str) -> Vec<(u64, u64, String)> {
        let word = |data: &Bytes| serde_json::from_slice::<serde_json::Value>(data).expect("json")["query"].to_string();
        let shown = news.get(channel).into_iter().flat_map(|news| &news.shown);
        shown.map(|(skips, it)| (it.offset, *skips, word(&it.data))).collect()
    }

    #[test]
    fn each_is_told_what_concerns_it_and_how_much_it_skips() {
        let (active, all, ranged) = (r#"{"status":["active","open"]}"#, "{}", r#"{"status":{"gte":"b"}}"#);
        let mut queries = queries(&[active, all, ranged]);
        let run = [
            change(11, None, Some("draft")),
            change(12, Some("draft"), Some("active")),
            change(13, Some("active"), Some("open")),
            change(14, None, None),
            change(15, Some("open"), Some("active")),
            change(16, Some("active"), None),
        ];
        let news = queries.tell(10, &run.iter().collect::<Vec<_>>());
        let word = |text: &str| format!("\"{text}\"");
        assert_eq!(
            told(&news, active),
            [(12, 1, word("enter")), (13, 0, word("change")), (15, 1, word("change")), (16, 0, word("leave"))]
        );
        assert_eq!(
            told(&news, all).iter().map(|it| (it.0, it.1)).collect::<Vec<_>>(),
            [(11, 0), (12, 0), (13, 0), (15, 1), (16, 0)]
        );
        assert_eq!(
            told(&news, ranged),
            [(11, 0, word("enter")), (12, 0, word("leave")), (13, 0, word("enter")), (15, 1, word("leave"))]
        );
        let passed = queries.pass(20);
        assert!(passed.iter().any(|(channel, from, to)| **channel == *ranged && (*from, *to) == (15, 20)));
        let more = [change(21, Some("x"), Some("active"))];
        assert_eq!(told(&queries.tell(20, &more.iter().collect::<Vec<_>>()), active), [(21, 0, word("enter"))]);
    }

    #[test]
    fn what_is_not_told_makes_unsure() {
        let (anchored, loose, all) = (r#"{"status":"active"}"#, r#"{"owner":null}"#, "{}");
        let mut queries = queries(&[anchored, loose, all]);
        let run = [publication(11, Some(r#"{"is":{"status":"x"}}"#.into()))];
        let news = queries.tell(10, &run.iter().collect::<Vec<_>>());
        assert!(!news.contains_key(anchored) && news[loose].unsure && !news[all].unsure);
        let run = [publication(12, Some(r#"{"is":{"owner":"x"}}"#.into())), publication(13, Some("rubbish".into()))];
        let news = queries.tell(11, &run[..1].iter().collect::<Vec<_>>());
        assert!(news[anchored].unsure && !news.contains_key(loose) && !news[all].unsure);
        let news = queries.tell(12, &run[1..].iter().collect::<Vec<_>>());
        assert!(news.len() == 3 && news.values().all(|news| news.unsure));
        assert!(queries.pass(13).iter().all(|(_, told, _)| *told == 13));
    }

    /// Several changes of one row, as one; of each state owner and status.
    fn conflated(states: &[[&str; 2]]) -> Publication {
        let declared = declared();
        let of = |[owner, status]: [&str; 2]| {
            Some(Values::of_stored(&format!(r#"{{"owner":"{owner}","status":"{status}"}}"#), &declared).into_owned())
        };
        let change = |(pair, offset): (&[[&str; 2]], u64)| {
            publication(offset, Some(FieldChange::new(of(pair[0]), of(pair[1])).encode()))
        };
        let mut steps = states.windows(2).zip(11..).map(change);
        let mut one = Conflated::new(steps.next().expect("a change"));
        steps.for_each(|it| one.push(it));
        one.into_publication()
    }

    /// A query says where it held, so that who sees only some rows is not told of what was in it while it was out of sight.
    #[test]
    fn of_several_as_one_it_says_where_the_query_held() {
        let (active, all, none) = (r#"{"status":"active"}"#, "{}", r#"{"status":"never"}"#);
        let mine = Sight::new(None, Filter::parse(r#"{"owner":"me"}"#).ok());
        let mut queries = queries(&[active, all, none]);
        let one = conflated(&[["me", "open"], ["other", "active"], ["other", "open"]]);
        let news = queries.tell(10, &[&one]);
        assert_eq!(told(&news, active), [(12, 1, r#""leave""#.to_owned())]);
        assert_eq!(told(&news, all), [(12, 1, r#""change""#.to_owned())]);
        assert!(!news.contains_key(none));
        let seen = |channel: &str| mine.tell(&news[channel].shown[0].1).expect("told");
        assert_eq!(seen(active), None);
        let left = seen(all).expect("it left the sight");
        assert!(left.data.starts_with(br#"{"query":"leave""#), "{:?}", left.data);
    }

    /// However many changes are told as one: not for each of their texts again.
    #[test]
    fn of_several_as_one_each_query_is_looked_at_once() {
        let (one, two) = (r#"{"status":"active"}"#, r#"{"status":["active","open"]}"#);
        let (other, loose, untold) = (r#"{"status":"never"}"#, "{}", r#"{"x":["a","b"]}"#);
        let queries = queries(&[one, two, other, loose, untold]);
        let candidates = |of: &Publication| {
            let mut all = queries.candidates(&FieldChange::of(of).expect("ours"));
            all.sort_unstable();
            all
        };
        let mut expected = [one, two, loose, untold].map(Arc::<str>::from);
        expected.sort_unstable();
        for states in [vec![["me", "active"]; 50], [["me", "active"], ["me", "open"]].repeat(50)] {
            assert_eq!(candidates(&conflated(&states)), expected);
        }
        // And a text that stays is one.
        let stays = conflated(&[["me", "active"], ["you", "active"]]);
        assert_eq!(candidates(&stays).iter().filter(|it| ***it == *one).count(), 1);
    }

    #[test]
    fn what_is_forgotten_leaves_nothing_behind() {
        let filters = [r#"{"status":"active"}"#, r#"{"status":["active","b"]}"#, "{}"];
        let mut queries = queries(&filters);
        queries.forget(filters[1]);
        let run = [change(11, None, Some("active"))];
        assert_eq!(queries.tell(10, &run.iter().collect::<Vec<_>>()).len(), 2);
        queries.forget(filters[0]);
        queries.forget(filters[2]);
        queries.forget("unknown");
        assert!(queries.len() == 0 && queries.anchored.is_empty() && queries.loose.is_empty());
    }
}
