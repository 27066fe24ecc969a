//! Entities as they are said: documents as raw text, changes, and the rules that compare and merge them.

mod change;
mod conflated;
mod declaration;
mod derived;
mod document;
mod filter;
mod json_patch;
mod mask;
mod merge_patch;
mod order;
mod page;
mod patch;
mod projection;
pub(crate) mod raw;
mod schema;
mod sight;
mod words;

pub use change::{Change, INLINE_DOC_LIMIT, MAX_CHANGED, Op, held_by_query, lean, told_by_query};
pub use conflated::Conflated;
pub use declaration::{
    Action, Declaration, DeclarationError, MAX_DISPLAY, MAX_FIELD, MAX_FIELDS, MAX_GRANTS, MAX_REFERENCES, MAX_SCHEMA,
    MAX_SORTS, MAX_TEXTS,
};
pub use derived::{Derived, MAX_FIELD_VALUE, filterable};
pub use document::{
    Fields, MAX_DEPTH, MAX_NUMBER, Unfit, changed_fields, check, content_hash, filter_values, scalar_at, value_at,
};
pub use filter::{
    Check, Comparison, Concern, Decimal, FieldChange, Filter, FilterError, MAX_EXPONENT_DIGITS, MAX_FILTER_BYTES,
    MAX_FILTER_DEPTH, MAX_FILTER_LIST, MAX_FILTER_NUMBER, MAX_FILTER_TESTS, Operand, Operands, USER, Undeclared,
    Values,
};
pub use json_patch::{JsonPatch, JsonPatchError, JsonPatchFault, MAX_OPERATIONS, Pointer};
pub use mask::{MAX_MASK_PATH, MAX_MASK_PATHS, MAX_MASK_STEPS, MAX_MASKS, Mask, MaskError};
pub use merge_patch::merge_patch;
pub use order::{By, Order, Place, SortAs};
pub use page::{MAX_CURSOR, MAX_EPOCH, PageCursor};
pub use patch::{MAX_PAD, MAX_PATHS, PatchError, merge_set};
pub use projection::{MAX_PROJECTED, MAX_PROJECTED_PATH, Projection};
pub use schema::{DRAFT, MAX_JUDGED, MAX_OPTIONS, MAX_PATTERNS, MAX_STACKED, SchemaFault, check_schema};
pub use sight::{MORE, Shown, Sight, View, masked};
pub use words::{MAX_SOUGHT, MAX_WORDS, Words, vector};
