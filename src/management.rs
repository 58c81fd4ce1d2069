//! Reads from RabbitMQ's management plugin, over HTTP, what AMQP does not tell about our queues: policies, members, alarms, and
//! where the broker sends what no queue takes. No other module speaks to the plugin.
//!
//! Only GET requests are sent, each with a time limit of `amqp.connect_timeout`.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::{Client, StatusCode, redirect, retry};
use serde_json::{Map, Value};
use url::Url;

use crate::config::{self, Amqp, Credentials};
use crate::queue::{self, Login, QueueError};
use crate::text::printable;
use crate::tls;

mod consumers;
mod exchange;
mod policy;

pub(crate) use consumers::QueueConsumer;
pub(crate) use exchange::{Leads, Way};
pub(crate) use policy::{Harm, InForce, OurQueue, SetBy, harms};

/// The largest answer: usually it describes one queue.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Why the plugin could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManagementError {
    #[error("it does not answer")]
    Unreachable(#[source] anyhow::Error),
    /// The plugin refuses the user's login, its tags, or its rights in the virtual host.
    #[error("it refuses the user {user} ({reason})")]
    Refused { user: String, reason: String },
    /// Another server answers, or the URL has another path.
    #[error("what answers is no management plugin (HTTP {0})")]
    OtherServer(u16),
    #[error("its client cannot be set up")]
    Setup(#[source] anyhow::Error),
    #[error(transparent)]
    Login(#[from] QueueError),
}

/// The plugin, with our login.
pub(crate) struct Management {
    client: Client,
    url: Url,
    user: Credentials,
    virtual_host: String,
}

/// The plugin's description of a queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueDescription {
    /// `quorum`, `classic` …
    pub(crate) kind: String,
    pub(crate) arguments: Map<String, Value>,
    /// The policy and the operator policy, merged. `None` if the plugin does not tell: the queue is only seconds old, or
    /// statistics are switched off.
    pub(crate) in_force: Option<Map<String, Value>>,
    pub(crate) policy: Option<Policy>,
    pub(crate) operator_policy: Option<Policy>,
    /// The nodes that hold a copy. Empty if the plugin does not tell.
    pub(crate) members: Vec<String>,
    /// The members that answer. Empty if the plugin does not tell.
    pub(crate) online: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Policy {
    name: String,
    /// `None` unless both kinds of policies apply and this user may read them.
    definition: Option<Map<String, Value>>,
}

impl Management {
    /// `None` unless `amqp.management_url` is set. Sends no request.
    ///
    /// # Errors
    ///
    /// [`ManagementError::Login`] if `AMQP_URL` cannot be used, [`ManagementError::Setup`] if `amqp.ca_file` cannot be
    /// used.
    pub(crate) fn new(amqp: &Amqp) -> Result<Option<Self>, ManagementError> {
        let Some(config::Management { url, credentials }) = &amqp.management else { return Ok(None) };
        let Login { user, password, virtual_host } = queue::login(amqp)?;
        let user = credentials.clone().unwrap_or(Credentials { user, password });
        let client = client(amqp).map_err(ManagementError::Setup)?;
        Ok(Some(Self { client, url: url.clone(), user, virtual_host }))
    }

    /// The plugin's URL, which holds no credentials.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn user(&self) -> &str {
        &self.user.user
    }

    /// Checks the login, and returns how long the answer took.
    ///
    /// # Errors
    ///
    /// [`ManagementError::Refused`] if the login is refused, [`ManagementError::Unreachable`] if nothing answers,
    /// [`ManagementError::OtherServer`] if the answer is not the plugin's.
    pub(crate) async fn check_login(&self) -> Result<Duration, ManagementError> {
        let asked = Instant::now();
        match self.get(&["whoami"]).await? {
            (StatusCode::OK, Value::Object(me)) if me.contains_key("name") => Ok(asked.elapsed()),
            (status, _) => Err(ManagementError::OtherServer(status.as_u16())),
        }
    }

    /// The description of a queue. `None` if there is no such queue.
    ///
    /// # Errors
    ///
    /// As [`Management::check_login`].
    pub(crate) async fn queue(&self, name: &str) -> Result<Option<QueueDescription>, ManagementError> {
        let Some(mut queue) = self.describe(name).await? else { return Ok(None) };
        if let (Some(policy), Some(operator)) = (&mut queue.policy, &mut queue.operator_policy) {
            policy.definition = self.definition("policies", &policy.name).await;
            operator.definition = self.definition("operator-policies", &operator.name).await;
        }
        Ok(Some(queue))
    }

    /// The description without the definitions of the policies.
    async fn describe(&self, name: &str) -> Result<Option<QueueDescription>, ManagementError> {
        match self.get(&["queues", &self.virtual_host, name]).await? {
            (StatusCode::OK, Value::Object(told)) => Ok(Some(described(&told))),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, _) => Err(ManagementError::OtherServer(status.as_u16())),
        }
    }

    /// A policy's definition. `None` if this user may not read it, which takes the tag policymaker.
    async fn definition(&self, kind: &str, name: &str) -> Option<Map<String, Value>> {
        match self.get(&[kind, &self.virtual_host, name]).await {
            Ok((StatusCode::OK, told)) => told.get("definition")?.as_object().cloned(),
            _ => None,
        }
    }

    /// The alarms in force, each as `disk space on rabbit@host`.
    ///
    /// # Errors
    ///
    /// As [`Management::check_login`].
    pub(crate) async fn alarms(&self) -> Result<Vec<String>, ManagementError> {
        match self.get(&["health", "checks", "alarms"]).await? {
            (StatusCode::OK, _) => Ok(Vec::new()),
            (StatusCode::SERVICE_UNAVAILABLE, told) if told.get("alarms").is_some() => {
                Ok(told["alarms"].as_array().into_iter().flatten().map(alarm).collect())
            }
            (status, _) => Err(ManagementError::OtherServer(status.as_u16())),
        }
    }

    /// The status and the JSON of an answer; `null` if the answer is not JSON. A 404 with JSON is the plugin's answer.
    async fn get(&self, path: &[&str]) -> Result<(StatusCode, Value), ManagementError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let (status, body) = self.ask(url).await.map_err(ManagementError::Unreachable)?;
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let reason = told.get("reason").and_then(Value::as_str);
                let reason = reason.map_or_else(|| format!("HTTP {}", status.as_u16()), |text| printable(text, 200));
                Err(ManagementError::Refused { user: self.user.user.clone(), reason })
            }
            // The plugin's own 404 is JSON.
            StatusCode::NOT_FOUND if told.is_null() => Err(ManagementError::OtherServer(404)),
            status => Ok((status, told)),
        }
    }

    async fn ask(&self, url: Url) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let Credentials { user, password } = &self.user;
        let request = self.client.get(url).basic_auth(user, Some(password.expose()));
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            body.extend_from_slice(&part);
            (body.len() <= MAX_ANSWER_BYTES).then_some(()).context("it answers with more than a megabyte")?;
        }
        Ok((response.status(), body))
    }
}

fn client(amqp: &Amqp) -> anyhow::Result<Client> {
    let builder = Client::builder()
        .tls_backend_preconfigured(tls::client(&queue::trust(amqp))?)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .no_proxy()
        .http1_only()
        .timeout(amqp.connect_timeout)
        .connect_timeout(amqp.connect_timeout);
    Ok(builder.build()?)
}

impl QueueDescription {
    /// The limits and rules in force that break a promise of ours, as far as the plugin tells.
    pub(crate) fn harms(&self, queue: OurQueue, expected: &config::Queue) -> Vec<Harm> {
        harms(queue, self.in_force(&Map::new()), expected)
    }

    fn in_force<'a>(&'a self, nothing: &'a Map<String, Value>) -> InForce<'a> {
        InForce { arguments: &self.arguments, policy: self.in_force.as_ref().unwrap_or(nothing) }
    }

    /// How often a message may be delivered, by the queue's argument and its policies. `None` if neither sets it: then the
    /// version of the broker decides.
    pub(crate) fn delivery_limit(&self) -> Option<i64> {
        self.in_force(&Map::new()).limit("delivery-limit").map(|(limit, _)| limit)
    }

    /// What sets a harmful value, such as `the policy a`; both policies if it is not known which.
    pub(crate) fn origin_of(&self, harm: &Harm) -> String {
        if harm.set_by == SetBy::Argument {
            return "the queue's own argument".to_owned();
        }
        let sets = |policy: &Policy| match &policy.definition {
            Some(definition) => definition.get(harm.key).is_some_and(|value| plain(value) == harm.value),
            None => true,
        };
        let policy =
            self.policy.as_ref().filter(|policy| sets(policy)).map(|policy| format!("the policy {}", policy.name));
        let operator = self.operator_policy.as_ref().filter(|policy| sets(policy));
        let operator = operator.map(|policy| format!("the operator policy {}", policy.name));
        match (policy, operator) {
            (Some(policy), Some(operator)) => format!("{policy} or {operator}"),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => "a policy".to_owned(),
        }
    }

    /// The names of the policies that apply.
    pub(crate) fn policies(&self) -> Vec<&str> {
        self.policy.iter().chain(&self.operator_policy).map(|policy| policy.name.as_str()).collect()
    }
}

/// How often a message of the queue may be delivered before RabbitMQ drops it or makes a dead letter of it. `None` if the
/// plugin does not tell, or `amqp.management_url` is not set.
///
/// # Errors
///
/// As [`Management::new`] and [`Management::check_login`].
pub(crate) async fn delivery_limit(amqp: &Amqp, queue: &str) -> Result<Option<u32>, ManagementError> {
    let Some(management) = Management::new(amqp)? else { return Ok(None) };
    let told = management.describe(queue).await?.filter(|queue| queue.in_force.is_some());
    Ok(told.and_then(|queue| u32::try_from(queue.delivery_limit()?).ok()))
}

fn described(told: &Map<String, Value>) -> QueueDescription {
    let text = |key: &str| told.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    // The plugin may send an empty object as an empty list.
    let object = |key: &str| told.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    let nodes = |key: &str| -> Vec<String> {
        let nodes = told.get(key).and_then(Value::as_array).into_iter().flatten();
        nodes.filter_map(Value::as_str).map(|node| printable(node, 200)).collect()
    };
    let policy = |key: &str| text(key).map(|name| Policy { name: printable(name, 200), definition: None });
    QueueDescription {
        kind: text("type").unwrap_or("unknown").to_owned(),
        arguments: object("arguments"),
        in_force: told.contains_key("effective_policy_definition").then(|| object("effective_policy_definition")),
        policy: policy("policy"),
        operator_policy: policy("operator_policy"),
        members: nodes("members"),
        online: nodes("online"),
    }
}

fn alarm(told: &Value) -> String {
    let of = |key: &str| told.get(key).and_then(Value::as_str).map(|text| printable(text, 200));
    match (of("resource"), of("node")) {
        (Some(resource), Some(node)) => format!("{resource} on {node}"),
        _ => printable(&told.to_string(), 200),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(value: Value) -> QueueDescription {
        described(value.as_object().unwrap())
    }

    #[test]
    fn what_a_queue_lacks_is_empty() {
        let queue = told(json!({"effective_policy_definition": [], "policy": "", "operator_policy": null}));
        assert_eq!((queue.kind.as_str(), queue.policies().len(), queue.delivery_limit()), ("unknown", 0, None));
        assert!(queue.in_force.is_some_and(|policy| policy.is_empty()) && queue.members.is_empty());
        assert!(told(json!({})).in_force.is_none());
    }

    #[test]
    fn the_lower_delivery_limit_counts() {
        let limited = |policy: Value| {
            told(json!({"arguments": {"x-delivery-limit": 100}, "effective_policy_definition": policy}))
        };
        assert_eq!(limited(json!({"delivery-limit": 3})).delivery_limit(), Some(3));
        assert_eq!(limited(json!({"delivery-limit": 300})).delivery_limit(), Some(100));
        assert_eq!(limited(json!([])).delivery_limit(), Some(100));
    }

    #[test]
    fn a_harm_is_laid_to_the_policy_that_sets_it() {
        let harm = |set_by| Harm { key: "max-length", value: "5".into(), set_by, loses: true, consequence: "" };
        let mut queue = told(json!({"policy": "a", "operator_policy": "b"}));
        assert_eq!(queue.origin_of(&harm(SetBy::Argument)), "the queue's own argument");
        assert_eq!(queue.origin_of(&harm(SetBy::Policy)), "the policy a or the operator policy b");
        let definition = |value: Value| value.as_object().cloned();
        queue.policy.as_mut().unwrap().definition = definition(json!({"max-length": 9}));
        queue.operator_policy.as_mut().unwrap().definition = definition(json!({"max-length": 5}));
        assert_eq!(queue.origin_of(&harm(SetBy::Policy)), "the operator policy b");
        assert_eq!(told(json!({"policy": "a"})).origin_of(&harm(SetBy::Policy)), "the policy a");
    }

    #[test]
    fn an_alarm_names_what_is_short_and_where() {
        assert_eq!(alarm(&json!({"node": "rabbit@a", "resource": "disk"})), "disk on rabbit@a");
        assert_eq!(alarm(&json!({"x": 1})), r#"{"x":1}"#);
    }
}
