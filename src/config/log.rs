//! The settings of the log.

use serde::{Deserialize, Deserializer, de};
use tracing_subscriber::EnvFilter;

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
pub struct Log {
    /// How a line is written.
    pub format: LogFormat,
    /// Which lines are written, in the syntax of tracing's `EnvFilter`.
    #[serde(deserialize_with = "filter")]
    pub filter: String,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object.
    Json,
}

impl TryFrom<String> for LogFormat {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be text or json"),
        }
    }
}

fn filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let filter = String::deserialize(deserializer)?;
    match filter.parse::<EnvFilter>() {
        Ok(_) => Ok(filter),
        Err(_) => Err(de::Error::custom("must be a filter such as info,penr_webhooks=debug")),
    }
}
