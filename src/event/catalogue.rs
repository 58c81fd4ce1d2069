//! The event types that customers can subscribe to.

use super::EventData;
use crate::ids::EventType;

/// One type that customers can subscribe to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// The type as events carry it.
    pub event_type: EventType,
    /// Shown to customers.
    pub name: String,
    /// Shown to customers.
    pub description: String,
    /// The `data` of such an event, as customers may expect it.
    pub example: Option<EventData>,
}

/// All event types, in the order in which customers see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue(Vec<CatalogueEntry>);

impl Catalogue {
    /// The catalogue with these entries.
    pub fn new(entries: Vec<CatalogueEntry>) -> Self {
        Self(entries)
    }

    /// For tests: these types, and nothing that customers see of them.
    #[cfg(test)]
    pub(crate) fn of_types(names: &[&str]) -> Self {
        let entry = |name: &&str| CatalogueEntry {
            event_type: EventType::parse(name).expect("a type"),
            name: String::new(),
            description: String::new(),
            example: None,
        };
        Self(names.iter().map(entry).collect())
    }

    /// The type with this name, if there is one.
    pub fn get(&self, name: &str) -> Option<&EventType> {
        self.types().find(|known| known.as_str() == name)
    }

    /// The types alone.
    pub fn types(&self) -> impl Iterator<Item = &EventType> {
        self.0.iter().map(|entry| &entry.event_type)
    }

    /// The example of a type, if there is one.
    pub fn example(&self, event_type: &EventType) -> Option<&EventData> {
        self.0.iter().find(|entry| entry.event_type == *event_type)?.example.as_ref()
    }

    /// The types with what customers see of them.
    pub(crate) fn entries(&self) -> &[CatalogueEntry] {
        &self.0
    }
}
