//! Collects the fields of a body that cannot be accepted, so that one answer names all of them.

use std::fmt::Display;

use super::problem::{FieldError, Problem};

#[derive(Default)]
pub(super) struct RefusedFields(Vec<FieldError>);

impl RefusedFields {
    /// The parsed value, or none if it is refused.
    pub(super) fn unless<T, E: Display>(&mut self, field: &str, parsed: Result<T, E>) -> Option<T> {
        let refusal = match parsed {
            Ok(value) => return Some(value),
            Err(refusal) => refusal,
        };
        self.0.push(FieldError { field: field.to_owned(), reason: refusal.to_string() });
        None
    }

    /// # Errors
    ///
    /// 422 if a field was refused.
    pub(super) fn none(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

impl From<RefusedFields> for Problem {
    fn from(refused: RefusedFields) -> Self {
        Self::invalid(refused.0)
    }
}
