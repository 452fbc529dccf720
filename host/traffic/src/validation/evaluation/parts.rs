//! Assertions about the items and properties of a value.

use std::borrow::Cow;

use super::SchemaEvaluation;
use super::evaluated::EvaluatedParts;
use super::place::ValuePlace;
use crate::validation::json::{Entry, Json, find};
use crate::validation::schema::node::{Contained, ItemSchemas, NodeId, PropertySchemas};

impl SchemaEvaluation<'_> {
    /// Checks one item or property, and adds it to those that were evaluated, also if it is not valid: its object is not, either.
    pub(super) fn part(
        &mut self,
        node: NodeId,
        (number, value): (usize, &Json<'_>),
        at: &ValuePlace<'_>,
        evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        if let Some(evaluated) = evaluated {
            evaluated.add(number);
        }
        self.meets(node, value, at, None)
    }

    pub(super) fn items(
        &mut self,
        schemas: &ItemSchemas,
        items: &[Json<'_>],
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let mut valid = true;
        for (number, item) in items.iter().enumerate() {
            let Some(node) = schemas.first.get(number).copied().or(schemas.rest) else { break };
            valid &= self.part(node, (number, item), &ValuePlace::Item(at, number), evaluated.as_deref_mut());
            if !valid && self.is_done() {
                break;
            }
        }
        valid
    }

    pub(super) fn contains(
        &mut self,
        of: &Contained,
        items: &[Json<'_>],
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let mut count = 0;
        for (number, item) in items.iter().enumerate() {
            if self.exhausted {
                return false;
            }
            if self.quietly(of.schema, item, &ValuePlace::Item(at, number), None) {
                count += 1;
                if let (true, Some(evaluated)) = (of.marks, evaluated.as_deref_mut()) {
                    evaluated.add(number);
                }
            }
        }
        count >= of.least && of.most.is_none_or(|most| count <= most)
    }

    pub(super) fn other_items(
        &mut self,
        node: NodeId,
        items: &[Json<'_>],
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let mut valid = true;
        for (number, item) in items.iter().enumerate() {
            if evaluated.as_ref().is_some_and(|evaluated| evaluated.has(number)) {
                continue;
            }
            valid &= self.part(node, (number, item), &ValuePlace::Item(at, number), evaluated.as_deref_mut());
            if !valid && self.is_done() {
                break;
            }
        }
        valid
    }

    pub(super) fn properties(
        &mut self,
        schemas: &PropertySchemas,
        entries: &[Entry<'_>],
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let mut valid = true;
        for (number, (key, value)) in entries.iter().enumerate() {
            let (place, mut known) = (ValuePlace::Key(at, key), false);
            if let Some(node) = find(&schemas.named, key) {
                known = true;
                valid &= self.part(*node, (number, value), &place, evaluated.as_deref_mut());
            }
            for (pattern, node) in &schemas.patterns {
                if self.matches(pattern, key) {
                    known = true;
                    valid &= self.part(*node, (number, value), &place, evaluated.as_deref_mut());
                }
            }
            if let Some(node) = schemas.rest.filter(|_| !known) {
                valid &= self.part(node, (number, value), &place, evaluated.as_deref_mut());
            }
            if !self.spend(1) || !valid && self.is_done() {
                return false;
            }
        }
        valid
    }

    pub(super) fn other_properties(
        &mut self,
        node: NodeId,
        entries: &[Entry<'_>],
        at: &ValuePlace<'_>,
        mut evaluated: Option<&mut EvaluatedParts>,
    ) -> bool {
        let mut valid = true;
        for (number, (key, value)) in entries.iter().enumerate() {
            if evaluated.as_ref().is_some_and(|evaluated| evaluated.has(number)) {
                continue;
            }
            valid &= self.part(node, (number, value), &ValuePlace::Key(at, key), evaluated.as_deref_mut());
            if !valid && self.is_done() {
                break;
            }
        }
        valid
    }

    pub(super) fn property_names(&mut self, node: NodeId, entries: &[Entry<'_>], at: &ValuePlace<'_>) -> bool {
        let mut valid = true;
        for (key, _) in entries {
            let place = ValuePlace::Key(at, key);
            let name = Json::Text(Cow::Borrowed(key));
            if !self.quietly(node, &name, &place, None) {
                valid = self.fail(&place, || "must have a name that meets `propertyNames`".to_owned());
                if self.is_done() {
                    break;
                }
            }
        }
        valid
    }
}
