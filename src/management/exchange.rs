//! Where the broker sends what no queue takes, as the management plugin tells: the alternate exchange, and what is bound to it.

use reqwest::StatusCode;
use serde_json::Value;

use super::{Management, ManagementError};

/// What becomes of a message that no queue takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// The exchange that it is published to is not declared.
    NoExchange,
    /// The broker drops it, or returns it if it is mandatory.
    Dropped,
    /// This policy applies, and this user may not read whether it names an alternate exchange: that takes the tag policymaker.
    Unread { policy: String },
    /// It goes to this alternate exchange.
    To { exchange: String, set_by: String, leads: Leads },
}

/// Where an alternate exchange sends messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Leads {
    /// It does not exist: the broker drops the message, or returns it if it is mandatory.
    NotThere,
    /// The names of the queues and exchanges that are bound to it.
    To(Vec<String>),
}

impl Management {
    /// What becomes of a message that is published to this exchange and that no queue takes.
    ///
    /// # Errors
    ///
    /// As [`Management::check_login`].
    pub(crate) async fn way_of_unrouted(&self, exchange: &str) -> Result<Way, ManagementError> {
        let Some(told) = self.exchange(exchange).await? else { return Ok(Way::NoExchange) };
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        // An argument wins over a policy.
        let (alternate, set_by) = match (text(&told["arguments"]["alternate-exchange"]), text(&told["policy"])) {
            (Some(alternate), _) => (alternate, "the exchange's own argument".to_owned()),
            (None, None) => return Ok(Way::Dropped),
            (None, Some(policy)) => match self.definition("policies", &policy).await {
                None => return Ok(Way::Unread { policy }),
                Some(definition) => match definition.get("alternate-exchange").and_then(text) {
                    Some(alternate) => (alternate, format!("the policy {policy}")),
                    None => return Ok(Way::Dropped),
                },
            },
        };
        let leads = match self.exchange(&alternate).await? {
            Some(_) => Leads::To(self.bound_to(&alternate).await?),
            None => Leads::NotThere,
        };
        Ok(Way::To { exchange: alternate, set_by, leads })
    }

    /// The plugin's description of an exchange. `None` if there is no such exchange.
    async fn exchange(&self, name: &str) -> Result<Option<Value>, ManagementError> {
        match self.get(&["exchanges", &self.virtual_host, name]).await? {
            (StatusCode::OK, told) if told.is_object() => Ok(Some(told)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, _) => Err(ManagementError::OtherServer(status.as_u16())),
        }
    }

    async fn bound_to(&self, exchange: &str) -> Result<Vec<String>, ManagementError> {
        match self.get(&["exchanges", &self.virtual_host, exchange, "bindings", "source"]).await? {
            (StatusCode::OK, told) => {
                let bindings = told.as_array().into_iter().flatten();
                Ok(bindings.filter_map(|binding| Some(binding["destination"].as_str()?.to_owned())).collect())
            }
            (StatusCode::NOT_FOUND, _) => Ok(Vec::new()),
            (status, _) => Err(ManagementError::OtherServer(status.as_u16())),
        }
    }
}
