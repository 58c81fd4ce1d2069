//! The settings of the connections to Postgres, and how long it keeps rows.

use std::time::Duration;

use serde::Deserialize;

use super::layers::Layers;
use super::{ConfigError, UrlSource, password};
use crate::bounds::{self, DAY, SECOND};
use crate::secret::SecretText;

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
pub struct Database {
    /// With the password. Empty if it was not set; see [`Settings::database_url`](super::Settings::database_url).
    pub url: SecretText,
    /// Where the URL was given, and its files, which may change while the process runs.
    #[serde(skip)]
    pub url_from: UrlSource,
    /// Connections per process.
    #[serde(deserialize_with = "bounds::number::<_, _, 2, 1_000>")]
    pub pool_size: usize,
    /// For opening a connection, login included; all hosts of the URL share it.
    #[serde(deserialize_with = "bounds::duration::<_, 100, { 300 * SECOND }>")]
    pub connect_timeout: Duration,
    /// For one statement, measured in this process.
    #[serde(deserialize_with = "bounds::duration::<_, 100, { 300 * SECOND }>")]
    pub statement_timeout: Duration,
}

impl Database {
    /// Reads the section.
    ///
    /// # Errors
    ///
    /// A value is none that its setting allows, or the password cannot be put into the URL.
    pub(super) fn read(layers: &Layers) -> Result<Self, ConfigError> {
        let mut database: Self = layers.section("database")?;
        (database.url, database.url_from) =
            password::complete(layers, "database", database.url, password::into_database_url)?;
        Ok(database)
    }
}

/// `[retention]`: rows older than this are dropped, whole days at a time.
#[derive(Debug, Clone, Deserialize)]
pub struct Retention {
    /// How long the log is kept.
    #[serde(deserialize_with = "bounds::duration::<_, DAY, { 3650 * DAY }>")]
    pub attempts: Duration,
    /// How long events and their deliveries are kept.
    #[serde(deserialize_with = "bounds::duration::<_, DAY, { 3650 * DAY }>")]
    pub events: Duration,
}
