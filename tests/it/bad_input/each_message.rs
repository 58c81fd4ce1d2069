//! Each message of the table, and one that is too large, published through a client library to a worker.

use serde_json::{Value, json};

use super::table::{Fate, NOW, Properties, Row, rows};
use super::{Scene, event_with_data, same};
use crate::support::{Message, wait_until};

/// Where the events of the table go.
const PATH: &str = "/table";

/// What is expected of the messages that were published.
#[derive(Default)]
struct Expected {
    /// The ids and bodies of events.
    sent: Vec<(String, String)>,
    /// The reasons of dead letters and their texts, in the order in which they were published.
    dead: Vec<(String, String)>,
}

#[tokio::test]
async fn each_message_is_delivered_or_listed_as_a_dead_letter_with_its_reason_in_words() {
    let mut scene = Scene::open().await;
    let rows: Vec<Row> =
        rows().into_iter().enumerate().map(|(number, row)| row.with_an_id_of_its_own(number)).collect();
    for account in ["acc_42", "' OR 1=1--", &"~".repeat(128)] {
        scene.site.create_webhook(account, &scene.receiver.url_at(PATH), &["content.published"]).await;
    }
    let mut expected = Expected::default();
    let limit = 256 * 1024;
    scene.publish(&scene.site.message(event_with_data("evt_large", &format!("\"{}\"", "x".repeat(limit))))).await;
    let cure = "publish less `data`, or where receivers find it";
    let text = format!("the body is larger than event.max_event_bytes ({limit} bytes): {cure}");
    expected.dead.push(("too_large".to_owned(), text));
    for row in &rows {
        scene.publish(&scene.message_of(row)).await;
        expected.note(row);
        scene.publish_good(1).await;
    }
    scene.good.extend(expected.sent.iter().map(|(id, _)| id.clone()));
    scene.all_good_arrive().await;
    scene.events_were_sent_as(&expected.sent);
    scene.dead_letters_are_listed_as(&expected.dead).await;
    scene.ends_unharmed().await;
}

impl Row {
    /// An event of the table with an id that no other has, in place of `evt_1` or `msg_1`.
    fn with_an_id_of_its_own(self, number: usize) -> Self {
        if matches!(self.fate, Fate::Dead { .. }) {
            return self;
        }
        self.with_texts(|text| {
            let ids = ["evt_1", r"evt\u005f1", "msg_1"];
            ids.iter().fold(text.to_owned(), |text, id| text.replace(id, &format!("{id}{number:03}")))
        })
    }
}

impl Expected {
    fn note(&mut self, row: &Row) {
        match &row.fate {
            Fate::Sent { sent } => {
                let [id, _] = id_and_time(sent);
                self.sent.push((id.to_owned(), sent.clone()));
            }
            Fate::Dead { reason, text } => self.dead.push((reason.clone(), text.clone())),
        }
    }
}

impl Scene {
    fn message_of(&self, row: &Row) -> Message {
        let mut message = self.site.message(row.body());
        let Properties { message_id, timestamp, content_encoding, compression } = &row.properties;
        if let Some(id) = message_id {
            message = message.with_id(id);
        }
        if let Some(method) = compression {
            message = message.with_header("compression", method);
        }
        message.with(|mut properties| {
            if let Some(timestamp) = *timestamp {
                properties = properties.with_timestamp(timestamp);
            }
            if let Some(encoding) = content_encoding {
                properties = properties.with_content_encoding(encoding.as_str().into());
            }
            properties
        })
    }

    fn events_were_sent_as(&self, expected: &[(String, String)]) {
        let requests = self.receiver.requests_at(PATH);
        for (id, body) in expected {
            let request = requests.iter().find(|request| request.event_id() == id);
            let request = request.unwrap_or_else(|| panic!("{id} did not arrive at its own webhook"));
            let arrived = std::str::from_utf8(&request.body).expect("JSON is UTF-8");
            let [_, time] = id_and_time(arrived);
            assert_eq!(arrived, body.replace(NOW, time));
            assert!(time.len() <= "2026-11-23T10:00:00.123456Z".len() && time.ends_with('Z'), "{time}");
        }
    }

    async fn dead_letters_are_listed_as(&self, expected: &[(String, String)]) {
        let queue = self.site.dead_queue();
        wait_until("all dead letters are there", async || {
            self.site.queue_depth(queue).await as usize == expected.len()
        })
        .await;
        let list = self.site.json(&["dead-letters", "list", "--limit", "1000"]).await;
        let letters = list["data"].as_array().expect("it is a list");
        // Of an unknown type, the list also says which it is.
        let text =
            |letter: &Value| letter["detail"].as_str().map(|text| text.split(" (it is `").next().map(str::to_owned));
        let listed = letters.iter().map(|letter| json!([letter["reason"], text(letter)]).to_string()).collect();
        same(listed, expected.iter().map(|letter| json!(letter).to_string()).collect());
        let reasons: Vec<_> = expected.iter().map(|(reason, _)| reason.clone()).collect();
        assert_eq!(super::reasons_logged(&self.worker), reasons);
        // The next event must bring no further letter.
        self.site.wait_for_dead_letters(expected.len()).await;
    }
}

/// The texts of `id` and `timestamp` in a body that was sent. Not every parser reads the numbers and texts behind them.
fn id_and_time(body: &str) -> [&str; 2] {
    let texts: Vec<&str> = body.split('"').collect();
    let ["{", "id", ":", id, ",", "type", ":", _, ",", "timestamp", ":", time, ",", "data", ..] = texts[..] else {
        panic!("another body than all have: {body}")
    };
    [id, time]
}
