//! Objects of the Prozorro.Sale shape, made from a seed: the same seed gives the same objects. Synthetic from end to end: names,
//! codes and addresses mean nobody.

use crate::body::filling;
use crate::error::WorldError;
use crate::{clock, json};
use rand::{Rng, SeedableRng, rngs::StdRng};

const STATUSES: [&str; 14] = [
    "active_rectification",
    "active_tendering",
    "active_auction",
    "active_qualification",
    "qualification",
    "active_awarded",
    "active_contract",
    "pending_payment",
    "pending_admission",
    "complete",
    "unsuccessful",
    "cancelled",
    "active_tendering",
    "awaiting_something_new",
];
const METHODS: [&str; 5] = [
    "landRental-english",
    "legitimateProperty-english",
    "timber-english",
    "commercialSell-dutch",
    "landRental-english-fast",
];
const THINGS: [&str; 6] = [
    "Нежитлове приміщення площею",
    "Земельна ділянка площею",
    "Лісопродукція, партія",
    "Транспортний засіб, пробіг",
    "Об’єкт незавершеного будівництва, ступінь готовності",
    "Майновий комплекс «Ґанок», корпус",
];
const TITLES: [&str; 3] = ["", " <script>alert('дзвін')</script>", " <b>терміново</b> & «без комісії»"];
const PLACES: [&str; 4] = ["Львівська область", "Чернівецька область", "місто Київ", "Запорізька область"];

/// A generator of objects.
#[derive(Debug)]
pub struct Generator {
    rng: StdRng,
}

impl Generator {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed) }
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.rng.random_range(0..from.len())]
    }

    fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(b"0123456789abcdef"[self.rng.random_range(0..16usize)])).collect()
    }

    /// An amount such as 904.240: always with a fraction, at times with a zero at its end.
    fn amount(&mut self) -> String {
        format!("{}.{:02}0", self.rng.random_range(1..9_000_000u32), self.rng.random_range(0..100u8))
    }

    fn money(&mut self) -> String {
        format!(
            r#"{{"amount":{},"currency":"UAH","valueAddedTaxIncluded":{}}}"#,
            self.amount(),
            self.rng.random::<bool>()
        )
    }

    fn time(&mut self) -> String {
        json::quote(&clock::millis_z(1_790_000_000_000_000 + self.rng.random_range(0..5_000_000_000_000i64)))
    }

    /// The next object of a collection: registry objects for a name with `registry` in it, procedures otherwise.
    pub fn object(&mut self, collection: &str) -> String {
        if collection.contains("registry") { self.registry_object() } else { self.procedure() }
    }

    /// The next procedure.
    pub fn procedure(&mut self) -> String {
        let (id, lot) = (self.hex(24), self.rng.random_range(1..99_999u32));
        let title = format!("{} {}{}", self.pick(&THINGS), self.amount(), self.pick(&TITLES));
        let status = self.pick(&STATUSES);
        let bids = if status == "active_tendering" { "null".to_owned() } else { self.bids() };
        let items = (0..self.rng.random_range(1..4)).map(|_| self.item()).collect::<Vec<_>>().join(",");
        let documents = (0..self.rng.random_range(0..6)).map(|_| self.document()).collect::<Vec<_>>().join(",");
        let english = if self.rng.random_bool(0.3) { r#","en_US":"Lot of property""# } else { "" };
        let modified = self.time();
        format!(
            r#"{{"_id":"{id}","_meta":{{"systemDateModified":{modified}}},"auctionId":"LLE001-UA-20261101-{lot:05}","lotId":"{lot}","owner":"sandbox-platform","sellingMethod":"{method}","status":"{status}","title":{{"uk_UA":{title}{english}}},"description":{{"uk_UA":{description}}},"value":{value},"minimalStep":{step},"guarantee":{guarantee},"leaseDuration":"P2Y11M","tenderAttempts":{attempts},"datePublished":{published},"dateModified":{modified},"auctionPeriod":{{"startDate":{auction}}},"minNumberOfQualifiedBids":1,"sellingEntity":{entity},"items":[{items}],"documents":[{documents}],"bids":{bids},"awards":[],"contracts":[],"cancellations":[],"x_dutchStepHint":{{"value":1e-3,"note":"поле, якого немає в схемі"}},"futureField_{extra}":[null,true,{{"глибина":1}}]}}"#,
            method = self.pick(&METHODS),
            title = json::quote(&title),
            description =
                json::quote(&format!("Опис лота № {lot}. Місце: {}.\nОгляд за домовленістю.", self.pick(&PLACES))),
            value = self.money(),
            step = self.money(),
            guarantee = self.money(),
            attempts = self.rng.random_range(1..9u8),
            published = self.time(),
            auction = self.time(),
            entity = self.entity(),
            extra = self.hex(4),
        )
    }

    /// The next registry object.
    pub fn registry_object(&mut self) -> String {
        let (id, number) = (self.hex(24), self.rng.random_range(1..99_999u32));
        let title = format!("{} {}{}", self.pick(&THINGS), self.amount(), self.pick(&TITLES));
        let modified = self.time();
        format!(
            r#"{{"_id":"{id}","_meta":{{"systemDateModified":{modified}}},"registryObjectId":"RGL001-UA-20261101-{number:05}","owner":"sandbox-platform","title":{{"uk_UA":{title}}},"dateModified":{modified},"relatedOrganizations":{{"sellingEntity":{entity},"currentTenants":null}},"leaseRules":null,"statusesDecisions":[],"registryObjectItems":[{{"basicInfo":{item},"itemType":"realEstate"}}],"documents":[{document}],"valuesCharacteristics":{{"residual":{value}}}}}"#,
            title = json::quote(&title),
            entity = self.entity(),
            item = self.item(),
            document = self.document(),
            value = self.money(),
        )
    }

    fn bids(&mut self) -> String {
        let bids = (0..self.rng.random_range(0..4)).map(|_| {
            format!(
                r#"{{"id":"{}","status":"active","value":{},"dateModified":{}}}"#,
                self.hex(24),
                self.money(),
                self.time()
            )
        });
        format!("[{}]", bids.collect::<Vec<_>>().join(","))
    }

    fn entity(&mut self) -> String {
        let code = self.rng.random_range(10_000_000..99_999_999u32);
        format!(
            r#"{{"name":{{"uk_UA":"Орган управління № {}"}},"identifier":{{"scheme":"UA-EDR","id":"{code}"}},"address":{{"region":{{"uk_UA":{}}},"postalCode":"01001"}}}}"#,
            code % 97,
            json::quote(self.pick(&PLACES)),
        )
    }

    fn item(&mut self) -> String {
        format!(
            r#"{{"id":"{}","itemType":"realEstate","description":{{"uk_UA":{}}},"classification":{{"scheme":"CAV","id":"04000000-8"}},"additionalClassifications":[],"quantity":{},"unit":{{"code":"MTK","name":{{"uk_UA":"метри квадратні"}}}},"location":{{"latitude":49.{:06},"longitude":24.0}}}}"#,
            self.hex(32),
            json::quote(self.pick(&THINGS)),
            self.amount(),
            self.rng.random_range(0..1_000_000u32),
        )
    }

    fn document(&mut self) -> String {
        format!(
            r#"{{"id":"{}","title":{{"uk_UA":"Додаток № {}.pdf"}},"documentType":"notice","format":"application/pdf","hash":"md5:{}","url":"/api/documents/public/{}","datePublished":{}}}"#,
            self.hex(32),
            self.rng.random_range(1..20u8),
            self.hex(32),
            self.hex(32),
            self.time(),
        )
    }
}

/// Lengthens an object's `x_filling` until the text has exactly so many bytes.
pub fn with_size(object: &str, bytes: usize) -> Result<String, WorldError> {
    let least = json::set(object, &[("x_filling", "\"\"")])?;
    let missing = bytes.checked_sub(least.len()).ok_or(WorldError::TooSmall { wanted: bytes, least: least.len() })?;
    json::set(object, &[("x_filling", &format!("\"{}\"", filling(missing)))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_objects_and_another_seed_others() {
        let make = |seed| {
            let mut g = Generator::new(seed);
            (0..25).map(|n| g.object(if n < 20 { "procedure" } else { "registry-object" })).collect::<Vec<_>>()
        };
        let mut generator = Generator::new(7);
        let mut twice = || (0..20).map(|_| generator.object("procedure")).collect::<Vec<_>>();
        assert_ne!(twice(), twice());
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
    }

    #[test]
    fn the_awkward_things_are_there_and_all_is_json() {
        let mut generator = Generator::new(1);
        let all: Vec<String> = (0..200).map(|_| generator.procedure()).collect();
        for text in &all {
            serde_json::from_str::<serde_json::Value>(text).unwrap();
            let amount = json::get(text, &["value", "amount"]).unwrap();
            assert!(amount.contains('.') && amount.ends_with('0'), "{amount}");
            assert!((1_000..60_000).contains(&text.len()));
        }
        let some = |needle: &str| all.iter().filter(|text| text.contains(needle)).count();
        assert!(
            some("<script>") > 20
                && some("\"bids\":null") > 5
                && some("en_US") > 20
                && some("awaiting_something_new") > 1
        );
        let registry = generator.registry_object();
        assert!(json::get(&registry, &["registryObjectId"]).is_some());
    }

    #[test]
    fn sizes_are_exact() {
        let object = Generator::new(1).procedure();
        for size in [10_000, 2_000_000, 7_864_320] {
            assert_eq!(with_size(&object, size).unwrap().len(), size);
        }
        assert!(matches!(with_size(&object, 5), Err(WorldError::TooSmall { wanted: 5, .. })));
    }
}
