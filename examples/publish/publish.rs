//! Publishes an event and waits until RabbitMQ has it: cargo run -- [TYPE]; in this project cargo run --example publish [TYPE]

use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};

/// Returns `Ok` when RabbitMQ has the event. The channel is in confirm mode.
async fn publish(channel: &Channel, event: &Value) -> anyhow::Result<()> {
    let text = |field: &str| event[field].as_str().unwrap_or_default();
    let mut headers = FieldTable::default();
    headers.insert("account_id".into(), AMQPValue::LongString(text("account_id").into()));
    let properties = BasicProperties::default()
        .with_delivery_mode(2) // persistent
        .with_message_id(text("id").into())
        .with_content_type("application/json".into())
        .with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let (key, body) = (text("type"), event.to_string());
    let sent = channel.basic_publish("penr.events".into(), key.into(), options, body.as_bytes(), properties).await?;
    match sent.await? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => anyhow::bail!("returned: {} for the type {key}", returned.reply_text),
        _ => anyhow::bail!("RabbitMQ refused it (nack)"),
    }
}

async fn run(event: &Value) -> anyhow::Result<()> {
    let connection = Connection::connect(&std::env::var("AMQP_URL")?, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let published = tokio::time::timeout(Duration::from_secs(10), publish(&channel, event)).await;
    published.unwrap_or_else(|_| anyhow::bail!("not confirmed within 10 seconds"))
}

#[tokio::main]
async fn main() {
    let event = json!({
        // In a service: made with the row that the event is about, and kept there.
        "id": format!("evt_{}", uuid::Uuid::new_v4()),
        "type": std::env::args().nth(1).unwrap_or_else(|| "content.published".to_owned()),
        "account_id": "acc_42",
        "occurred_at": jiff::Timestamp::now(),
        "data": { "title": "Hello" },
    });
    if let Err(error) = run(&event).await {
        eprintln!("not published: {error}");
        std::process::exit(1);
    }
    println!("published {}", event["id"].as_str().unwrap_or_default());
}
