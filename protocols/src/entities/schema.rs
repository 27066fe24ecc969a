//! Which JSON Schemas a kind may have: of draft 2020-12 those that stand by themselves and whose cost is bounded, whatever document is judged.
//!
//! One person declares a schema, and every write of everybody is judged by it: one that leads back to itself in one place would never end, and
//! one that leads back by two ways doubles with each level of a document. Both are refused when they are declared.
//!
//! Invariants: a reference leads to a place of the same schema; no value is reached through more than [`MAX_JUDGED`] subschemas. Not here: what a
//! document must be like by it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::MAX_DEPTH;

/// Most subschemas through which one value of a document is judged: the schemas of real forms come to some tens.
pub const MAX_JUDGED: u32 = 4_000;
/// Most subschemas that may stand within one another for one and the same value: each is a few frames of the stack, at every level of a document.
pub const MAX_STACKED: u32 = 16;
/// Most options of an enumeration: each value is compared with all.
pub const MAX_OPTIONS: usize = 1_000;
/// Most patterns: each is compiled, and held by every node.
pub const MAX_PATTERNS: usize = 64;
/// The draft, as `$schema` names it.
pub const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Why a schema is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaFault {
    /// `true` and `false` are schemas, and say nothing of a document.
    #[error("a schema of a kind is an object")]
    NotObject,
    /// Another draft.
    #[error("$schema is {DRAFT}, or is left out")]
    Draft,
    /// A reference out of it, or to nowhere.
    #[error("$ref {0:?} is no place of this schema: write \"#/$defs/name\"")]
    Reference(String),
    /// What makes references depend on where they are come from.
    #[error("{0} is not taken: refer by \"#/$defs/name\"")]
    Keyword(&'static str),
    /// It leads back to itself without going deeper into the document.
    #[error("{0:?} is judged by itself again, without an end")]
    Endless(String),
    /// Above [`MAX_OPTIONS`].
    #[error("an enumeration has at most {MAX_OPTIONS} options")]
    Options,
    /// Above [`MAX_PATTERNS`].
    #[error("a schema has at most {MAX_PATTERNS} patterns")]
    Patterns,
    /// Above [`MAX_STACKED`].
    #[error("more than {MAX_STACKED} schemas stand within one another for one value")]
    Stacked,
    /// Above [`MAX_JUDGED`].
    #[error("a value could be judged more than {MAX_JUDGED} times: the schema leads back to itself by several ways")]
    Costly,
}

/// Judges a schema by its form.
///
/// # Errors
/// The first fault.
pub fn check_schema(schema: &Value) -> Result<(), SchemaFault> {
    let root = schema.as_object().ok_or(SchemaFault::NotObject)?;
    if root.get("$schema").is_some_and(|draft| draft.as_str() != Some(DRAFT)) {
        return Err(SchemaFault::Draft);
    }
    let mut graph = Graph::default();
    graph.walk(schema, "")?;
    let ways = graph.resolve()?;
    let order = ways.order(&graph)?;
    ways.judge(&order)
}

/// A subschema, and where a value that it judges is judged further.
#[derive(Default)]
struct Node {
    at: String,
    reference: Option<String>,
    /// The same value.
    same: Vec<usize>,
    /// Members and items of it: each another one.
    apart: Vec<usize>,
    /// Members and items of it, whichever.
    any: Vec<usize>,
}

#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    places: BTreeMap<String, usize>,
    patterns: usize,
}

/// What every keyword says of where its subschemas lead.
#[derive(Clone, Copy)]
enum Leads {
    Same,
    Apart,
    Any,
    Nowhere,
}

const OF_ONE: [(&str, Leads); 10] = [
    ("not", Leads::Same),
    ("if", Leads::Same),
    ("then", Leads::Same),
    ("else", Leads::Same),
    ("additionalProperties", Leads::Any),
    ("unevaluatedProperties", Leads::Any),
    ("propertyNames", Leads::Any),
    ("items", Leads::Any),
    ("contains", Leads::Any),
    ("unevaluatedItems", Leads::Any),
];
const OF_MANY: [(&str, Leads); 10] = [
    ("allOf", Leads::Same),
    ("anyOf", Leads::Same),
    ("oneOf", Leads::Same),
    ("dependentSchemas", Leads::Same),
    ("dependencies", Leads::Same),
    ("properties", Leads::Apart),
    ("prefixItems", Leads::Apart),
    ("patternProperties", Leads::Any),
    ("$defs", Leads::Nowhere),
    ("definitions", Leads::Nowhere),
];
/// With these, a reference means something else wherever it is come from.
const UNTOLD: [&str; 5] = ["$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$anchor"];

impl Graph {
    fn walk(&mut self, schema: &Value, at: &str) -> Result<usize, SchemaFault> {
        let place = self.nodes.len();
        self.nodes.push(Node { at: at.to_owned(), ..Node::default() });
        self.places.insert(at.to_owned(), place);
        let Some(members) = schema.as_object() else { return Ok(place) };
        let untold = UNTOLD.into_iter().find(|name| members.contains_key(*name));
        if let Some(name) = untold.or_else(|| (place > 0 && members.contains_key("$id")).then_some("$id")) {
            return Err(SchemaFault::Keyword(name));
        }
        if members.get("enum").and_then(Value::as_array).is_some_and(|options| options.len() > MAX_OPTIONS) {
            return Err(SchemaFault::Options);
        }
        let by_name = members.get("patternProperties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
        self.patterns += usize::from(members.contains_key("pattern")) + by_name;
        if self.patterns > MAX_PATTERNS {
            return Err(SchemaFault::Patterns);
        }
        self.nodes[place].reference = members.get("$ref").map(|to| to.as_str().unwrap_or_default().to_owned());
        for (keyword, leads) in OF_ONE {
            if let Some(of) = members.get(keyword) {
                self.lead(place, of, &format!("{at}/{keyword}"), leads)?;
            }
        }
        for (keyword, leads) in OF_MANY {
            match members.get(keyword) {
                Some(Value::Array(all)) => {
                    let all = all.iter().enumerate();
                    all.into_iter()
                        .try_for_each(|(n, of)| self.lead(place, of, &format!("{at}/{keyword}/{n}"), leads))?;
                }
                Some(Value::Object(all)) => {
                    let name = |name: &str| name.replace('~', "~0").replace('/', "~1");
                    let mut all = all.iter();
                    all.try_for_each(|(n, of)| self.lead(place, of, &format!("{at}/{keyword}/{}", name(n)), leads))?;
                }
                _ => {}
            }
        }
        // To know what is left over, what stands beside it is judged once more.
        if members.contains_key("unevaluatedProperties") || members.contains_key("unevaluatedItems") {
            let again = self.nodes[place].same.clone();
            self.nodes[place].same.extend(again);
        }
        Ok(place)
    }

    fn lead(&mut self, from: usize, to: &Value, at: &str, leads: Leads) -> Result<(), SchemaFault> {
        let to = self.walk(to, at)?;
        let from = &mut self.nodes[from];
        match leads {
            Leads::Same => from.same.push(to),
            Leads::Apart => from.apart.push(to),
            Leads::Any => from.any.push(to),
            Leads::Nowhere => {}
        }
        Ok(())
    }

    /// The ways with those of references.
    fn resolve(&self) -> Result<Ways, SchemaFault> {
        let of = |node: &Node| {
            let mut same = node.same.clone();
            if let Some(reference) = &node.reference {
                let to = reference.strip_prefix('#').and_then(|pointer| self.places.get(pointer));
                same.push(*to.ok_or_else(|| SchemaFault::Reference(reference.clone()))?);
            }
            Ok(Way { same, apart: node.apart.clone(), any: node.any.clone() })
        };
        Ok(Ways(self.nodes.iter().map(of).collect::<Result<_, SchemaFault>>()?))
    }
}

struct Way {
    same: Vec<usize>,
    apart: Vec<usize>,
    any: Vec<usize>,
}

struct Ways(Vec<Way>);

impl Ways {
    /// The subschemas so that each stands behind those that judge the same value for it.
    fn order(&self, graph: &Graph) -> Result<Vec<usize>, SchemaFault> {
        let (mut order, mut stacked) = (Vec::with_capacity(self.0.len()), vec![0_u32; self.0.len()]);
        let mut begun = vec![false; self.0.len()];
        for root in 0..self.0.len() {
            // A stack of ours: a schema may be as deep as a document.
            let mut path = vec![(root, 0)];
            if stacked[root] > 0 {
                continue;
            }
            begun[root] = true;
            while let Some((at, next)) = path.last_mut() {
                let at = *at;
                if let Some(&to) = self.0[at].same.get(*next) {
                    *next += 1;
                    if stacked[to] == 0 && begun[to] {
                        return Err(SchemaFault::Endless(format!("#{}", graph.nodes[to].at)));
                    }
                    if stacked[to] == 0 {
                        begun[to] = true;
                        path.push((to, 0));
                    }
                    continue;
                }
                stacked[at] = 1 + self.0[at].same.iter().map(|to| stacked[*to]).max().unwrap_or(0);
                if stacked[at] > MAX_STACKED {
                    return Err(SchemaFault::Stacked);
                }
                order.push(at);
                path.pop();
            }
        }
        Ok(order)
    }

    /// Through how many subschemas a value is judged in documents of each depth.
    fn judge(&self, order: &[usize]) -> Result<(), SchemaFault> {
        let mut shallower = vec![0_u32; self.0.len()];
        for _ in 0..=MAX_DEPTH {
            let mut judged = vec![0_u32; self.0.len()];
            for &at in order {
                let Way { same, apart, any } = &self.0[at];
                let sum = |of: &[usize], by: &[u32]| of.iter().fold(0_u32, |sum, to| sum.saturating_add(by[*to]));
                let below = apart.iter().map(|to| shallower[*to]).max().unwrap_or(0);
                let here = 1_u32.saturating_add(sum(same, &judged));
                judged[at] = here.saturating_add(below).saturating_add(sum(any, &shallower));
            }
            if judged[0] > MAX_JUDGED {
                return Err(SchemaFault::Costly);
            }
            if judged == shallower {
                return Ok(());
            }
            shallower = judged;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_of_forms_are_taken() {
        for schema in [
            json!({}),
            json!({"$schema": DRAFT, "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}),
            json!({"$defs": {"phone": {"pattern": "^\\+"}}, "properties": {"a/b": {"$ref": "#/$defs/phone"}, "c": {"$ref": "#/properties/a~1b"}}}),
            // A tree, a list, and a choice.
            json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}}),
            json!({"properties": {"children": {"items": {"$ref": "#"}}}, "unevaluatedProperties": false}),
            json!({"oneOf": [{"properties": {"kind": {"const": "a"}}}, {"properties": {"kind": {"const": "b"}}}]}),
        ] {
            assert_eq!(check_schema(&schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn what_leads_out_or_nowhere_is_refused() {
        for (schema, fault) in [
            (json!(true), SchemaFault::NotObject),
            (json!({"$schema": "http://json-schema.org/draft-07/schema#"}), SchemaFault::Draft),
            (json!({"$ref": "https://example.com/x"}), SchemaFault::Reference("https://example.com/x".into())),
            (json!({"$ref": "#/$defs/none"}), SchemaFault::Reference("#/$defs/none".into())),
            (json!({"items": {"$ref": "file:///etc/passwd"}}), SchemaFault::Reference("file:///etc/passwd".into())),
            (json!({"$dynamicRef": "#x"}), SchemaFault::Keyword("$dynamicRef")),
            (json!({"$defs": {"a": {"$id": "https://example.com/"}}}), SchemaFault::Keyword("$id")),
        ] {
            assert_eq!(check_schema(&schema), Err(fault), "{schema}");
        }
    }

    #[test]
    fn what_costs_by_its_number_is_bounded() {
        let options = |n: usize| json!({"items": {"enum": (0..n).collect::<Vec<_>>()}});
        assert_eq!(
            (check_schema(&options(MAX_OPTIONS)), check_schema(&options(MAX_OPTIONS + 1))),
            (Ok(()), Err(SchemaFault::Options))
        );
        let patterns = |n: usize| {
            let of = |n| (format!("^p{n}"), json!({}));
            json!({"properties": {"a": {"patternProperties": (0..n).map(of).collect::<serde_json::Map<_, _>>()}}})
        };
        assert_eq!(
            (check_schema(&patterns(MAX_PATTERNS)), check_schema(&patterns(MAX_PATTERNS + 1))),
            (Ok(()), Err(SchemaFault::Patterns))
        );
    }

    #[test]
    fn what_never_ends_is_refused() {
        for schema in [
            json!({"$ref": "#"}),
            json!({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
            json!({"not": {"if": {"$ref": "#"}}}),
        ] {
            assert!(matches!(check_schema(&schema), Err(SchemaFault::Endless(_))), "{schema}");
        }
    }

    #[test]
    fn what_doubles_is_refused() {
        let twice = json!([{"$ref": "#"}, {"$ref": "#"}]);
        for schema in [
            json!({"properties": {"a": {"allOf": twice}}}),
            json!({"items": {"$ref": "#"}, "contains": {"$ref": "#"}}),
            json!({"patternProperties": {"^a": {"$ref": "#"}, "a$": {"$ref": "#"}}}),
        ] {
            assert_eq!(check_schema(&schema), Err(SchemaFault::Costly), "{schema}");
        }
        let defs = |n: u32| {
            (0..n).map(|n| (format!("d{n}"), json!({"allOf": [{"$ref": format!("#/$defs/d{}", n + 1)}, {"$ref": format!("#/$defs/d{}", n + 1)}]})))
        };
        let doubling = |n: u32| {
            let mut all: serde_json::Map<_, _> = defs(n).collect();
            all.insert(format!("d{n}"), json!({}));
            json!({"$defs": all, "$ref": "#/$defs/d0"})
        };
        assert_eq!((check_schema(&doubling(3)), check_schema(&doubling(40))), (Ok(()), Err(SchemaFault::Stacked)));
    }
}
