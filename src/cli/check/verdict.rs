//! Decides what becomes of a message, as a worker with these settings does. Pure: the caller brings the clock.

use clap::Args;
use jiff::Timestamp;
use serde::Deserialize;

use crate::config::Queue;
use crate::event::{Event, EventParser, Malformed, Properties};
use crate::text::printable;

/// Bytes of a routing key that a text repeats.
const MOST_KEY_BYTES: usize = 64;

/// What stands outside a message's body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(in crate::cli) struct Outside {
    /// The AMQP property message_id: the event's id if the event has none
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// The AMQP property timestamp in Unix seconds: the event's time if the event has none
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<u64>,
    /// The AMQP property content_encoding, such as utf-8
    #[arg(long, value_name = "ENCODING")]
    content_encoding: Option<String>,
    /// The routing key; the event's type unless given
    #[arg(long, value_name = "KEY")]
    routing_key: Option<String>,
}

impl Outside {
    pub(super) fn properties(&self) -> Properties {
        Properties {
            message_id: self.message_id.clone(),
            timestamp: self.timestamp,
            content_encoding: self.content_encoding.clone(),
            ..Properties::default()
        }
    }
}

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Fate {
    /// A worker takes it for this event. The time is the one that is sent, `None` if that is the time of taking it.
    Deliver {
        event: Event,
        time: Option<String>,
    },
    DeadLetter(Malformed),
    /// No queue takes it: what to say of that.
    Unrouted(String),
}

/// A message that was checked.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) fate: Fate,
    /// The queues of which one takes it.
    pub(super) queues: Vec<String>,
    /// Sentences about what its publisher may not have meant.
    pub(super) warnings: Vec<String>,
}

impl Verdict {
    pub(super) fn of(body: &[u8], outside: &Outside, parser: &EventParser, queue: &Queue, now: Timestamp) -> Self {
        let properties = outside.properties();
        let warnings = parser.warnings(body, &properties);
        let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let key = outside.routing_key.as_deref();
        let unbound = key.filter(|key| parser.catalogue.get(key).is_none()).map(unrouted);
        let queues: Vec<String> = match unbound {
            None => queue.all_shards().filter(|shard| shard.gets_events).map(|shard| shard.queue).collect(),
            Some(_) => Vec::new(),
        };
        let fate = match (parser.parse(body, &properties, now), unbound) {
            (Err(malformed), unbound) => {
                warnings.extend(unbound);
                Fate::DeadLetter(malformed)
            }
            (Ok(_), Some(unbound)) => Fate::Unrouted(unbound),
            (Ok(event), None) => {
                warnings.extend(key.and_then(|key| other_key(key, &event, &queues)));
                let long_ago = parser.parse(body, &properties, Timestamp::UNIX_EPOCH);
                let time = time_sent(&event).filter(|_| long_ago.is_ok_and(|then| then.body == event.body));
                warnings.extend(time.is_none().then(|| NO_TIME.to_owned()));
                Fate::Deliver { event, time }
            }
        };
        Self { fate, queues, warnings }
    }
}

const NO_TIME: &str = "neither the event nor the message has a time, so the time at which a worker takes it is sent: give the event its own";

fn time_sent(event: &Event) -> Option<String> {
    #[derive(Deserialize)]
    struct Sent {
        timestamp: String,
    }
    serde_json::from_slice::<Sent>(&event.body).map(|sent| sent.timestamp).ok()
}

/// A warning about the routing key of another type.
fn other_key(key: &str, event: &Event, queues: &[String]) -> Option<String> {
    (key != event.event_type.as_str()).then(|| {
        format!(
            "the routing key {key} is not the event's type: {} takes the message all the same, and the worker goes by the type",
            queues.join(" or ")
        )
    })
}

fn unrouted(key: &str) -> String {
    format!(
        "no queue is bound for the routing key \"{}\": publish with the event's type as the key. The broker returns such a message \
         if it is `mandatory`, and drops it if not, unless a policy keeps it",
        printable(key, MOST_KEY_BYTES)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Catalogue;

    fn verdict(body: &str, outside: &Outside) -> Verdict {
        let parser = EventParser { catalogue: Catalogue::of_types(&["a.b", "c.d"]), max_event_bytes: 1000 };
        let queue = Queue { shards: 2, shard_queues: 3, ..Queue::example() };
        Verdict::of(body.as_bytes(), outside, &parser, &queue, "2026-11-23T10:00:00Z".parse().unwrap())
    }

    fn event(more: &str) -> String {
        format!(r#"{{"id":"e","type":"a.b","account_id":"acc","data":1{more}}}"#)
    }

    fn time(verdict: &Verdict) -> Option<&str> {
        let Fate::Deliver { time, .. } = &verdict.fate else { panic!("{verdict:?}") };
        time.as_deref()
    }

    #[test]
    fn the_time_is_the_one_that_is_sent() {
        let own = verdict(&event(r#","occurred_at":"2026-11-23t11:00:00+01:00""#), &Outside::default());
        assert_eq!(time(&own), Some("2026-11-23T10:00:00Z"));
        assert_eq!(own.warnings.len(), 1, "it is rewritten: {own:?}");
        let outside = Outside { timestamp: Some(1_795_428_000), ..Outside::default() };
        assert_eq!(time(&verdict(&event(""), &outside)), Some("2026-11-23T10:00:00Z"));
        let none = verdict(&event(""), &Outside::default());
        assert_eq!((time(&none), &none.warnings[..]), (None, &[NO_TIME.to_owned()][..]));
    }

    #[test]
    fn a_routing_key_decides_which_queue_takes_a_message_and_if_any_does() {
        let with = |key: Option<&str>| Outside { routing_key: key.map(str::to_owned), ..Outside::default() };
        let timed = event(r#","occurred_at":"2026-11-23T10:00:00Z""#);
        for key in [None, Some("a.b")] {
            let verdict = verdict(&timed, &with(key));
            assert!(matches!(verdict.fate, Fate::Deliver { .. }) && verdict.warnings.is_empty(), "{verdict:?}");
            assert_eq!(verdict.queues, ["events.queue", "events.queue.2"], "the third gets no events");
        }
        let other = verdict(&timed, &with(Some("c.d")));
        assert!(matches!(other.fate, Fate::Deliver { .. }));
        assert!(other.warnings[0].contains("c.d is not the event's type: events.queue or events.queue.2 takes"));
        let unbound = verdict(&timed, &with(Some("x.\u{202e}y")));
        let Fate::Unrouted(text) = &unbound.fate else { panic!("{unbound:?}") };
        assert!(text.contains(r#"routing key "x.\u{202e}y": publish"#), "{text}");
        assert!(unbound.queues.is_empty() && unbound.warnings.is_empty());
        let both = verdict("{", &with(Some("x")));
        assert!(matches!(both.fate, Fate::DeadLetter(_)) && both.warnings.len() == 1, "{both:?}");
    }
}
