//! What roles see of a kind: from the configuration's words to the view of a set of roles.
//!
//! Whoever has several roles sees the union: a field is hidden only where every role that may read the kind hides it, and a
//! row is seen where one of them shows it. A role that may read the kind without a view of it sees everything, and so does a
//! token's own permission.
//!
//! Invariants: of one kind there are at most [`MAX_MASKS`] masks, those of unions included, and each exists once: viewers who
//! see the same share what is made for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dzvin_protocols::{
    entities::{Filter, MAX_MASKS, Mask, View},
    identity::Permissions,
    platform::Kind,
};

use crate::platform::config::ViewsConfig;

/// A view that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("identity.views.{at}: {why}")]
pub struct ViewError {
    at: String,
    why: String,
}

/// What one role sees of one kind.
#[derive(Debug)]
struct OfRole {
    mask: Option<Mask>,
    rows: Option<Filter>,
}

/// The views of all roles.
#[derive(Debug, Default)]
pub struct RoleViews {
    of: BTreeMap<String, BTreeMap<Kind, OfRole>>,
    /// Of each kind that has views.
    masks: BTreeMap<Kind, Vec<Arc<Mask>>>,
}

impl RoleViews {
    /// Reads the configuration's.
    ///
    /// # Errors
    /// [`ViewError`] names the role, the kind and the key.
    pub fn read(config: &ViewsConfig) -> Result<Self, ViewError> {
        let mut all = Self::default();
        for (role, kinds) in config {
            for (kind, view) in kinds {
                let wrong = |key: &str, why: String| ViewError { at: format!("{role}.{kind}{key}"), why };
                let mask = Mask::parse(&view.mask).map_err(|error| wrong(".mask", error.to_string()))?;
                let rows = view.rows.as_deref().map(Filter::parse).transpose();
                let rows = rows.map_err(|error| wrong(".rows", error.to_string()))?;
                if mask.is_none() && rows.is_none() {
                    return Err(wrong("", "neither mask nor rows: leave it out to show everything".to_owned()));
                }
                all.of.entry(role.clone()).or_default().insert(kind.clone(), OfRole { mask, rows });
            }
        }
        let kinds: BTreeSet<&Kind> = all.of.values().flat_map(BTreeMap::keys).collect();
        for kind in kinds {
            let masks = Mask::all_of(all.of_kind(kind).filter_map(|view| view.mask.as_ref())).ok_or_else(|| {
                let why =
                    format!("more than {MAX_MASKS} masks of one kind, those of users with several roles included");
                ViewError { at: format!("*.{kind}.mask"), why }
            })?;
            all.masks.insert(kind.clone(), masks.into_iter().map(Arc::new).collect());
        }
        Ok(all)
    }

    fn of_kind<'a>(&'a self, kind: &'a Kind) -> impl Iterator<Item = &'a OfRole> {
        self.of.values().filter_map(move |kinds| kinds.get(kind))
    }

    /// Whether everybody sees everything.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.of.is_empty()
    }

    /// How many masks each kind has.
    pub fn counts(&self) -> impl Iterator<Item = (&Kind, usize)> {
        self.masks.iter().map(|(kind, masks)| (kind, masks.len()))
    }

    /// The rows that views show, each with where it stands and the fields that it names.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &Kind, BTreeSet<&str>)> {
        self.of.iter().flat_map(|(role, kinds)| {
            let named = |(kind, view)| {
                let OfRole { rows, .. }: &OfRole = view;
                rows.as_ref().map(|rows| (role.as_str(), kind, rows.fields()))
            };
            kinds.iter().filter_map(named)
        })
    }

    /// What somebody sees whose rights come from these roles, `None` for rights that come from no role.
    #[must_use]
    pub fn of(&self, grants: &[(Option<&str>, Permissions)]) -> BTreeMap<Kind, Arc<View>> {
        self.masks.keys().filter_map(|kind| Some((kind.clone(), Arc::new(self.view(kind, grants)?)))).collect()
    }

    /// `None`: everything.
    fn view(&self, kind: &Kind, grants: &[(Option<&str>, Permissions)]) -> Option<View> {
        let readers = grants.iter().filter(|(_, granted)| granted.may_read(kind));
        let views = readers.map(|(role, _)| self.of.get((*role)?)?.get(kind)).collect::<Option<Vec<_>>>()?;
        let masks = views.iter().map(|view| view.mask.as_ref()).collect::<Option<Vec<_>>>();
        let mask = masks.and_then(|masks| {
            let mut masks = masks.into_iter();
            let first = masks.next()?.clone();
            masks.try_fold(first, |so_far, mask| so_far.both(mask))
        });
        // All unions are known; one that were not would hide all the same.
        let known = |mask: &Mask| self.masks.get(kind)?.iter().find(|it| &***it == mask).cloned();
        let mask = mask.map(|mask| known(&mask).unwrap_or_else(|| Arc::new(mask)));
        let rows = views.iter().map(|view| view.rows.clone()).collect::<Option<Vec<_>>>();
        let rows = rows.filter(|rows| !rows.is_empty()).map(Into::into);
        (mask.is_some() || rows.is_some()).then_some(View { mask, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn views(text: &str) -> Result<RoleViews, String> {
        RoleViews::read(&toml::from_str(text).expect("toml")).map_err(|error| error.to_string())
    }

    const TEXT: &str = r#"
[viewer.deal]
mask = ["phone", "contacts.email", "margin"]
[clerk.deal]
mask = ["margin", "contacts"]
rows = '{"owner": "$user"}'
[guest.deal]
rows = '{"public": true}'
[viewer.call]
mask = ["number"]
"#;

    fn deal() -> Kind {
        Kind::new("deal").expect("kind")
    }

    /// What a user of these roles, each of which may read everything, sees of deals.
    fn seen(views: &RoleViews, roles: &[Option<&str>]) -> Option<View> {
        let all = Permissions::parse(["entities:read:*"]).expect("permissions");
        let grants: Vec<_> = roles.iter().map(|role| (*role, all.clone())).collect();
        views.of(&grants).remove(&deal()).map(|view| (*view).clone())
    }

    fn mask(paths: &[&str]) -> Option<Arc<Mask>> {
        Mask::parse(paths).expect("paths").map(Arc::new)
    }

    #[test]
    fn several_roles_see_the_union() {
        let views = views(TEXT).expect("views");
        let of = |roles: &[Option<&str>]| seen(&views, roles);
        let viewer = of(&[Some("viewer")]).expect("a view");
        assert_eq!((viewer.mask, viewer.rows), (mask(&["phone", "contacts.email", "margin"]), None));
        let clerk = of(&[Some("clerk")]).expect("a view");
        assert_eq!((clerk.mask, clerk.rows.map(|rows| rows.len())), (mask(&["margin", "contacts"]), Some(1)));
        let both = of(&[Some("viewer"), Some("clerk")]).expect("a view");
        assert_eq!((both.mask, both.rows), (mask(&["margin", "contacts.email"]), None), "viewers see every row");
        let rows = of(&[Some("guest"), Some("clerk")]).expect("a view");
        assert_eq!((rows.mask, rows.rows.map(|rows| rows.len())), (None, Some(2)));
        assert_eq!(of(&[Some("guest"), Some("viewer")]), None, "one shows every row, the other every field");
        assert_eq!(of(&[Some("viewer"), Some("other")]), None, "a role without a view sees everything");
        assert_eq!(of(&[Some("viewer"), None]), None, "and so does a permission of the token's own");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_union_that_nobody_foresaw_hides_all_the_same() {
        let mut views = views(TEXT).expect("views");
        views.masks.insert(deal(), Vec::new());
        let seen = seen(&views, &[Some("viewer"), Some("clerk")]).expect("a view");
        assert_eq!(seen.mask, mask(&["margin", "contacts.email"]));
    }

    #[test]
    fn roles_that_may_not_read_the_kind_show_nothing_of_it() {
        let views = views(TEXT).expect("views");
        let [all, none] = [&["entities:read:*"][..], &["entities:read:call"][..]]
            .map(|granted| Permissions::parse(granted.iter().copied()).expect("permissions"));
        let grants = [(Some("viewer"), all), (Some("other"), none)];
        assert!(views.of(&grants).get(&deal()).is_some_and(|view| view.mask.is_some()));
    }

    #[test]
    fn equal_masks_are_one() {
        let views = views(TEXT).expect("views");
        let of = |roles: &[Option<&str>]| seen(&views, roles).and_then(|view| view.mask).expect("a mask");
        let roles = [Some("viewer"), Some("clerk")];
        assert!(Arc::ptr_eq(&of(&roles), &of(&[roles[1], roles[0]])));
        assert_eq!(views.counts().map(|(kind, n)| (kind.as_str(), n)).collect::<Vec<_>>(), [("call", 1), ("deal", 3)]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("[a.deal]", "identity.views.a.deal: neither mask nor rows: leave it out to show everything"),
            ("[a.deal]\nmask = ['x..y']", "identity.views.a.deal.mask: \"x..y\" is no path"),
            ("[a.deal]\nmask = ['x.0.y']", "identity.views.a.deal.mask: \"x.0.y\" names a place in an array"),
            ("[a.deal]\nrows = '['", "identity.views.a.deal.rows: the filter: a filter is an object"),
        ] {
            let error = views(text).expect_err(text);
            assert!(error.starts_with(expected), "{error}");
        }
        let many: String = (0..17).map(|n| format!("[r{n}.deal]\nmask = ['f{n}']\n")).collect();
        assert!(views(&many).expect_err("too many").contains("more than 16 masks of one kind"));
        // Five roles, of which every two hide another set of fields: those of unions count.
        let sets: String = (0..5)
            .map(|n| {
                format!(
                    "[r{n}.deal]\nmask = [{}]\n",
                    (0..5).filter(|m| *m != n).map(|m| format!("'f{m}'")).collect::<Vec<_>>().join(",")
                )
            })
            .collect();
        assert!(views(&sets).expect_err("too many").starts_with("identity.views.*.deal.mask: more than 16"));
    }
}
