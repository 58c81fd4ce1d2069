//! The keys that secrets are encrypted with, and the settings that hold a key which this repository publishes.

use serde::{Deserialize, Deserializer, de};

use super::ConfigError;
use super::layers::Layers;
use crate::secret::{Keyring, SecretText, is_published_text};
use crate::token::Tokens;

/// `[security]`
#[derive(Debug, Deserialize)]
pub(super) struct Security {
    /// `None` if it was not set.
    #[serde(rename = "encryption_keys", deserialize_with = "keyring")]
    pub(super) keyring: Option<Keyring>,
    allow_published_keys: bool,
}

fn keyring<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Keyring>, D::Error> {
    let text = SecretText::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    Keyring::parse(text.expose()).map(Some).map_err(de::Error::custom)
}

/// The settings that hold a published key, and whether such a key may be used.
#[derive(Debug, Clone)]
pub struct PublishedKeys {
    allowed: bool,
    encryption_key: Option<ConfigError>,
    jwt_secret: Option<ConfigError>,
}

impl PublishedKeys {
    pub(super) fn of(security: &Security, tokens: Option<&Tokens>, layers: &Layers) -> Self {
        let found = |setting: &str, problem: String| ConfigError::new(layers.origin(setting), problem);
        let encryption_key = security.keyring.as_ref().and_then(Keyring::published_key_id).map(|id| {
            let problem = format!(
                "holds a published key ({id}), which everybody has: make one of your own, \
                 \"k1:$(openssl rand -base64 32)\" (security.allow_published_keys takes it, for development)"
            );
            found("security.encryption_keys", problem)
        });
        let is_published = |secret: &SecretText| is_published_text(secret.expose());
        let jwt_secret = tokens.filter(|tokens| tokens.secrets.iter().any(is_published)).map(|_| {
            let problem = "holds a published secret, with which anybody can make tokens: make one of your own, \
                           \"$(openssl rand -base64 32)\" (security.allow_published_keys takes it, for development)";
            found("api.jwt_secret", problem.to_owned())
        });
        Self { allowed: security.allow_published_keys, encryption_key, jwt_secret }
    }

    /// Each setting that holds a published key, whether or not it may be used.
    pub(crate) fn found(&self) -> impl Iterator<Item = &ConfigError> {
        [&self.encryption_key, &self.jwt_secret].into_iter().flatten()
    }

    /// # Errors
    ///
    /// A setting holds a published key that may not be used.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        self.check_encryption_key().and_then(|()| self.check_jwt_secret())
    }

    pub(super) fn check_encryption_key(&self) -> Result<(), ConfigError> {
        self.refuse(self.encryption_key.as_ref())
    }

    pub(super) fn check_jwt_secret(&self) -> Result<(), ConfigError> {
        self.refuse(self.jwt_secret.as_ref())
    }

    fn refuse(&self, found: Option<&ConfigError>) -> Result<(), ConfigError> {
        match found {
            Some(found) if !self.allowed => Err(found.clone()),
            _ => Ok(()),
        }
    }
}
