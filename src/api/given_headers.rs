//! Reads the headers of a webhook from JSON. No error repeats a value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaType, Type};

use crate::secret::SecretText;
use crate::webhook::{CustomHeaders, HeaderRefusal, LONGEST_NAME, LONGEST_VALUE, MOST_HEADERS, WantedHeaders};

/// A JSON object of names and values, in its order. A name may stand there twice: that is refused later.
#[derive(Default)]
pub(crate) struct GivenHeaders(Vec<(String, Option<SecretText>)>);

impl GivenHeaders {
    /// The headers of a new webhook, which has no values to keep.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub(crate) fn check_all(self) -> Result<CustomHeaders, HeaderRefusal> {
        self.check()?.with_kept(&CustomHeaders::default(), true)
    }

    /// The headers of a changed webhook.
    ///
    /// # Errors
    ///
    /// The first rule that is broken without regard to what is stored.
    pub(crate) fn check(self) -> Result<WantedHeaders, HeaderRefusal> {
        WantedHeaders::parse(self.0)
    }
}

/// How the API describes the headers of a new webhook.
pub(super) fn of_new_webhook() -> Object {
    let description = "Headers for its requests, such as `{\"Authorization\":\"Bearer x\"}`, with 4 KiB of names and values in all. \
                       Values are never shown again.";
    described(description, Type::String.into())
}

/// How the API describes the headers of a change.
pub(super) fn of_change() -> Object {
    let description = "They replace all that it has; null keeps the stored value of that name. When the URL gets another scheme, host \
                       or port, all values must be given again. Values are never shown.";
    described(description, SchemaType::from_iter([Type::String, Type::Null]))
}

// By hand: the macro has no `maxProperties` for a field.
fn described(description: &str, value: SchemaType) -> Object {
    let text = |schema_type: SchemaType, longest| {
        ObjectBuilder::new().schema_type(schema_type).min_length(Some(1)).max_length(Some(longest)).build()
    };
    ObjectBuilder::new()
        .description(Some(description))
        .property_names(Some(text(Type::String.into(), LONGEST_NAME)))
        .additional_properties(Some(RefOr::T(Schema::Object(text(value, LONGEST_VALUE)))))
        .max_properties(Some(MOST_HEADERS))
        .build()
}

impl fmt::Debug for GivenHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl<'de> Deserialize<'de> for GivenHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as it is written first: an error of the deserializer would repeat what it found in the place of the object.
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        if !raw.get().starts_with('{') {
            return Err(D::Error::custom("must be an object of names and values"));
        }
        serde_json::from_str::<Pairs>(raw.get())
            .map(|Pairs(headers)| Self(headers))
            .map_err(|_| D::Error::custom("each value must be text, or null"))
    }
}

struct Pairs(Vec<(String, Option<SecretText>)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}
