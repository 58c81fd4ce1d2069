//! Who consumes from a queue, as the management plugin tells.

use std::fmt;

use reqwest::StatusCode;
use serde_json::Value;

use super::{Management, ManagementError};
use crate::text::printable;

/// A consumer of a queue. Of what the plugin does not tell, the text is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QueueConsumer {
    pub(crate) tag: String,
    /// The name that the client gave to its connection, or RabbitMQ's.
    pub(crate) connection: String,
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) user: String,
}

impl fmt::Display for QueueConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consumer {}", self.tag)?;
        for (of, text) in [("of connection", &self.connection), ("from", &self.address), ("as user", &self.user)] {
            if !text.is_empty() {
                write!(f, " {of} {text}")?;
            }
        }
        Ok(())
    }
}

impl Management {
    /// The consumers of a queue.
    ///
    /// # Errors
    ///
    /// As [`Management::check_login`].
    pub(crate) async fn consumers(&self, queue: &str) -> Result<Vec<QueueConsumer>, ManagementError> {
        match self.get(&["queues", &self.virtual_host, queue]).await? {
            (StatusCode::OK, told) => Ok(consumers(&told)),
            (StatusCode::NOT_FOUND, _) => Ok(Vec::new()),
            (status, _) => Err(ManagementError::OtherServer(status.as_u16())),
        }
    }
}

fn consumers(told: &Value) -> Vec<QueueConsumer> {
    told["consumer_details"].as_array().into_iter().flatten().map(consumer).collect()
}

fn consumer(told: &Value) -> QueueConsumer {
    let text = |value: &Value| value.as_str().map(|text| printable(text, 200)).unwrap_or_default();
    let channel = &told["channel_details"];
    let address = match (text(&channel["peer_host"]), &channel["peer_port"]) {
        (host, port) if !host.is_empty() && port.is_u64() => format!("{host}:{port}"),
        (host, _) => host,
    };
    let connection = text(&channel["connection_name"]);
    QueueConsumer { tag: text(&told["consumer_tag"]), connection, address, user: text(&channel["user"]) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_consumer_is_described_as_far_as_it_is_told() {
        let told = json!({"consumer_details": [
            {"consumer_tag": "a", "channel_details": {"connection_name": "127.0.0.1:5 -> 127.0.0.1:6", "peer_host": "127.0.0.1",
                "peer_port": 5, "user": "guest"}},
            {"consumer_tag": "b", "channel_details": []}]});
        let texts: Vec<String> = consumers(&told).iter().map(ToString::to_string).collect();
        let full = "consumer a of connection 127.0.0.1:5 -> 127.0.0.1:6 from 127.0.0.1:5 as user guest";
        assert_eq!(texts, [full, "consumer b"]);
        assert!(consumers(&json!({})).is_empty());
    }
}
