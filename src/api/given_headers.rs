//! Reads the headers of a webhook from a request's body. No error repeats a value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::secret::SecretText;
use crate::webhook::{CustomHeaders, HeaderRefusal, WantedHeaders};

/// A JSON object of names and values, in its order. A name may stand there twice: that is refused later.
#[derive(Default)]
pub(super) struct GivenHeaders(Vec<(String, Option<SecretText>)>);

impl GivenHeaders {
    /// The headers of a new webhook, which has no values to keep.
    ///
    /// # Errors
    ///
    /// The first rule that is broken.
    pub(super) fn check_all(self) -> Result<CustomHeaders, HeaderRefusal> {
        self.check()?.with_kept(&CustomHeaders::default(), true)
    }

    /// The headers of a changed webhook.
    ///
    /// # Errors
    ///
    /// The first rule that is broken without regard to what is stored.
    pub(super) fn check(self) -> Result<WantedHeaders, HeaderRefusal> {
        WantedHeaders::parse(self.0)
    }
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
        serde_json::from_str::<Object>(raw.get())
            .map(|Object(headers)| Self(headers))
            .map_err(|_| D::Error::custom("each value must be text, or null"))
    }
}

struct Object(Vec<(String, Option<SecretText>)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
