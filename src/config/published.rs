//! Settings that hold a key which everybody has.

use super::ConfigError;

/// What was found among the keys, and whether that may be used.
#[derive(Debug, Clone, Default)]
pub struct PublishedKeys {
    pub(super) allowed: bool,
    pub(super) encryption_key: Option<ConfigError>,
    pub(super) jwt_secret: Option<ConfigError>,
}

impl PublishedKeys {
    /// Each setting that holds one, whether or not it is allowed.
    pub fn found(&self) -> impl Iterator<Item = &ConfigError> {
        [&self.encryption_key, &self.jwt_secret].into_iter().flatten()
    }

    /// Whether none is set that may not be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.found().try_for_each(|found| self.refuse(Some(found)))
    }

    pub(super) fn refuse(&self, found: Option<&ConfigError>) -> Result<(), ConfigError> {
        match found {
            Some(found) if !self.allowed => Err(found.clone()),
            _ => Ok(()),
        }
    }
}
