//! `docs/asyncapi.yaml` describes what workers really take from RabbitMQ and send to it.

use std::collections::BTreeSet;

use jsonschema::{Registry, Validator};
use penr_webhooks::event::Properties;
use serde_json::{Value, json};

use crate::courtesy::impatient_site;
use crate::event_schema::{file, parser, schema, settings, types};
use crate::support::amqp::Taken;
use crate::support::{Receiver, Reply, Webhook};

const TYPE: &str = "content.published";
const DOCUMENT: &str = "https://docs.invalid/asyncapi.yaml";
const SCHEMA: &str = "https://docs.invalid/event.schema.json";

struct Document(Value);

impl Document {
    fn read() -> Self {
        Self(serde_saphyr::from_str(&file("docs/asyncapi.yaml")).expect("the document is YAML"))
    }

    fn at(&self, pointer: &str) -> &Value {
        self.0.pointer(pointer).unwrap_or_else(|| panic!("there is no {pointer}"))
    }

    /// The messages of a channel, as `components` has them.
    fn messages(&self, channel: &str) -> Vec<&Value> {
        let messages = self.at(&format!("/channels/{channel}/messages")).as_object().unwrap();
        messages.values().map(|message| self.at(reference(message).trim_start_matches('#'))).collect()
    }

    /// Checks payloads of a message, by its name.
    fn payload(&self, name: &str) -> Validator {
        let messages = self.at("/components/messages").as_object().unwrap();
        let (key, _) = messages.iter().find(|(_, message)| message["name"] == name).expect("it is a message");
        let documents = [(DOCUMENT, self.0.clone()), (SCHEMA, schema())];
        let registry = Registry::new().extend(documents).unwrap().prepare().expect("all references lead somewhere");
        let payload = json!({ "$ref": format!("{DOCUMENT}#/components/messages/{key}/payload") });
        let options = jsonschema::options().should_validate_formats(true).with_registry(&registry);
        options.build(&payload).expect("the payload is a schema")
    }
}

fn reference(value: &Value) -> &str {
    value["$ref"].as_str().unwrap_or_else(|| panic!("no reference: {value}"))
}

fn names(messages: &[&Value]) -> BTreeSet<String> {
    messages.iter().map(|message| message["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_description_of_the_broker_has_the_exchanges_and_types_of_the_delivered_settings() {
    let (document, settings) = (Document::read(), settings());
    for channel in ["events", "notices"] {
        let name = settings["queue"][&format!("{channel}_exchange")].as_str().unwrap();
        let exchange = document.at(&format!("/channels/{channel}/bindings/amqp/exchange"));
        assert_eq!(*exchange, json!({"name": name, "type": "topic", "durable": true, "autoDelete": false}));
    }
    assert_eq!(*document.at("/channels/events/parameters/type/enum"), json!(types()));
    let kinds = document.at("/channels/notices/parameters/kind/enum").as_array().unwrap();
    let kinds: BTreeSet<_> = kinds.iter().map(|kind| kind.as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, names(&document.messages("notices")));
}

#[test]
fn the_description_of_the_broker_takes_events_from_their_schema_and_errors_from_the_api() {
    let document = Document::read();
    let events = document.messages("events");
    let payloads: BTreeSet<_> = events.iter().map(|message| reference(&message["payload"])).collect();
    assert_eq!(payloads, BTreeSet::from(["./event.schema.json#/$defs/event", "./event.schema.json#/$defs/cloudEvent"]));
    let api: Value = serde_json::from_str(&file("openapi.json")).unwrap();
    let errors = document.at("/components/schemas/notice/properties/last_error/enum");
    assert_eq!(*errors, api["components"]["schemas"]["ErrorName"]["enum"]);
}

#[test]
fn the_examples_of_the_broker_s_description_fit_their_schemas_and_events_are_events() {
    let document = Document::read();
    for channel in ["events", "notices"] {
        for message in document.messages(channel) {
            let payload = document.payload(message["name"].as_str().unwrap());
            let examples = message["examples"].as_array().unwrap();
            assert!(!examples.is_empty());
            for example in examples.iter().map(|example| &example["payload"]) {
                payload.validate(example).unwrap_or_else(|error| panic!("{error}: {example}"));
                let body = serde_json::to_vec(example).unwrap();
                let event = parser().parse(&body, &Properties::default(), jiff::Timestamp::UNIX_EPOCH);
                assert_eq!(event.is_ok(), channel == "events", "{example}");
            }
        }
    }
}

/// Checks a notice as its receivers would, and that all its fields are described.
fn assert_described(document: &Document, notice: &Taken, webhook: &Webhook) {
    let body: Value = serde_json::from_slice(&notice.body).expect("notices are JSON");
    let payload = document.payload(&notice.routing_key);
    payload.validate(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(keys(&body), keys(document.at("/components/schemas/notice/properties")));
    assert_eq!((&body["type"], &body["webhook_id"]), (&json!(notice.routing_key), &json!(webhook.id)));

    let properties = &notice.properties;
    assert_eq!(properties.message_id().as_ref().map(ToString::to_string).as_deref(), body["id"].as_str());
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), document.at("/defaultContentType"));
    let mode = document.at("/operations/sendNotices/bindings/amqp/deliveryMode");
    assert_eq!(properties.delivery_mode().map(u64::from), mode.as_u64());
}

#[tokio::test]
async fn the_notices_that_workers_send_are_those_that_are_described() {
    let (document, site) = (Document::read(), impatient_site().await);
    let (failing, gone) = (Receiver::start().await, Receiver::start().await);
    failing.script([500, 500, 500, 200].map(Reply::status));
    failing.always(Reply::status(500));
    gone.always(Reply::status(410));
    let _worker = site.worker().await;
    let mut notices = site.notices().await;
    let failing = site.create_webhook("acc_1", &failing.url(), &[TYPE]).await;
    let gone = site.create_webhook("acc_2", &gone.url(), &[TYPE]).await;

    let mut seen = BTreeSet::new();
    let mut next = async |webhook: &Webhook, kind: &str, reason: &str| {
        let notice = notices.take().await;
        let body: Value = serde_json::from_slice(&notice.body).unwrap();
        assert_eq!((notice.routing_key.as_str(), &body["reason"]), (kind, &json!(reason)));
        assert_described(&document, &notice, webhook);
        seen.insert(notice.routing_key);
    };
    site.publish("acc_1", TYPE, json!({})).await;
    next(&failing, "webhook.failing", "failing").await;
    next(&failing, "webhook.recovered", "recovered").await;
    site.publish("acc_1", TYPE, json!({})).await;
    next(&failing, "webhook.failing", "failing").await;
    next(&failing, "webhook.disabled", "failing").await;
    site.publish("acc_2", TYPE, json!({})).await;
    next(&gone, "webhook.disabled", "gone").await;
    assert_eq!(seen, names(&document.messages("notices")), "a notice is described and not tried");
}
