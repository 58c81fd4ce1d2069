//! The settings of events: how large one may be, and the catalogue of their types.

use serde::Deserialize;
use toml::Value;

use super::ConfigError;
use super::layers::Layers;
use crate::bounds::{self, MIB};
use crate::event::{Catalogue, CatalogueEntry, EventData, EventParser};
use crate::ids::EventType;

/// `[event]`
#[derive(Deserialize)]
struct EventLimits {
    #[serde(deserialize_with = "bounds::number::<_, _, 1024, { 16 * MIB }>")]
    max_event_bytes: usize,
}

/// One of `[event_types]`, under the type's own name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventTypeEntry {
    name: String,
    description: String,
    /// JSON text. Empty: none.
    #[serde(default)]
    example: String,
}

/// Reads both sections.
///
/// # Errors
///
/// A value is none that its setting allows, a name is no event type, an entry is not a name with a description, or its example
/// is not JSON.
pub(super) fn read(layers: &Layers) -> Result<EventParser, ConfigError> {
    let EventLimits { max_event_bytes } = layers.section("event")?;
    let types: toml::Table = layers.section("event_types")?;
    let entries = types.into_iter().map(|(name, value)| entry(layers, &name, value));
    Ok(EventParser { catalogue: Catalogue::new(entries.collect::<Result<_, _>>()?), max_event_bytes })
}

fn entry(layers: &Layers, name: &str, value: Value) -> Result<CatalogueEntry, ConfigError> {
    let setting = format!("event_types.{name}");
    let Some(event_type) = EventType::parse(name) else {
        return layers.refuse(&setting, "must be lower-case words separated by dots, such as content.created");
    };
    let Ok(EventTypeEntry { name, description, example }) = value.try_into() else {
        let problem = "needs a name and a description, and may have an example, all of them text, and nothing else";
        return layers.refuse(&setting, problem);
    };
    let example = Some(example).filter(|text| !text.is_empty()).map(|text| EventData::parse(&text)).transpose();
    match example {
        Ok(example) => Ok(CatalogueEntry { event_type, name, description, example }),
        Err(refusal) => layers.refuse(&format!("{setting}.example"), refusal.to_string()),
    }
}
