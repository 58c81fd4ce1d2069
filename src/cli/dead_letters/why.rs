//! Why a message is a dead letter or an unrouted event: the reason, and in words what is wrong and what to do about it.

use jiff::Timestamp;

use crate::cli::nearest;
use crate::event::{EventParser, Malformed};
use crate::ids::EventType;
use crate::queue::{DeadLetter, LetterQueue};
use crate::text::printable;

/// The reason of a dead letter whose properties cannot be read.
pub(super) const UNREADABLE: &str = "unreadable";

pub(super) struct Why {
    pub(super) reason: String,
    /// What is wrong, a colon, and what to do about it.
    pub(super) detail: String,
    /// The same for all letters to which the same is to be done: the detail without the place in the one body.
    pub(super) kind: String,
}

/// Why a message is no event, and that in words.
struct Refusal {
    malformed: Malformed,
    text: String,
}

impl Why {
    /// Why a worker would refuse the letter now, or else why the broker made it a dead letter. What no queue took has a routing key
    /// that was no event type of the catalogue, whatever its body says.
    pub(super) fn of(letter: &DeadLetter, parser: &EventParser) -> Self {
        if letter.unreadable {
            let detail = "the properties of its message cannot be read: correct the publisher, then discard it";
            return Self::other(UNREADABLE, detail.to_owned());
        }
        let parsed = parser.parse(&letter.body, &letter.properties, Timestamp::now());
        let parsed = parsed.map_err(|malformed| Refusal {
            text: nearest::refusal(&malformed, &letter.body, &letter.properties, parser),
            malformed,
        });
        match (parsed, letter.kept_in) {
            (parsed, LetterQueue::Unrouted) => {
                Self::unrouted(parsed.map(|event| event.event_type), &letter.routing_key)
            }
            (Err(refusal), LetterQueue::Dead) => Self::refused(refusal),
            (Ok(_), LetterQueue::Dead) => Self::given_up(letter.broker_reason.as_deref().unwrap_or("unknown")),
        }
    }

    fn refused(Refusal { malformed, text }: Refusal) -> Self {
        let kind = match malformed {
            // What is to be done depends on the type.
            Malformed::UnknownType => text.clone(),
            _ => malformed.without_place().to_string(),
        };
        Self { kind, ..Self::other(malformed.reason(), text) }
    }

    fn unrouted(parsed: Result<EventType, Refusal>, routing_key: &str) -> Self {
        let key = printable(routing_key, 200);
        let detail = match parsed {
            Ok(event_type) if event_type.as_str() == routing_key => format!(
                "no queue took its routing key \"{key}\" when it was published; its type is in the catalogue now: requeue it"
            ),
            Ok(event_type) => format!(
                "no queue takes its routing key \"{key}\", which is not its type {event_type}: correct the publisher, whose \
                 routing key must be the type, then requeue it"
            ),
            Err(Refusal { malformed: Malformed::UnknownType, text }) => {
                format!("no queue takes its routing key \"{key}\": {text}")
            }
            Err(refusal) => return Self::refused(refusal),
        };
        Self::other(Malformed::UnknownType.reason(), detail)
    }

    /// Of an event that the broker made a dead letter for this reason.
    fn given_up(reason: &str) -> Self {
        let detail = match reason {
            "delivery_limit" => {
                "RabbitMQ handed it out `queue.delivery_limit` times, and each time the worker was lost: see in the workers' \
                 logs why, then requeue it"
            }
            "rejected" => "a worker refused it, and the settings here accept it: requeue it when all workers have them",
            "expired" => {
                "it waited longer than its `expiration` or a policy's `message-ttl` allows: remove that, then requeue it"
            }
            "maxlen" => "the queue of the workers was full, as a policy limits it: remove that, then requeue it",
            _ => "it is an event, and RabbitMQ does not say why it is here: requeue it",
        };
        Self::other(reason, detail.to_owned())
    }

    fn other(reason: &str, detail: String) -> Self {
        Self { reason: reason.to_owned(), kind: detail.clone(), detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Looks;

    fn refusal(malformed: Malformed) -> Refusal {
        Refusal { text: malformed.to_string(), malformed }
    }

    #[test]
    fn an_unrouted_event_is_told_by_its_routing_key_and_by_what_its_body_says() {
        let created = || EventType::parse("content.created").unwrap();
        let why = Why::unrouted(Ok(created()), "content.created");
        assert!(why.reason == "unknown_type" && why.detail.ends_with("its type is in the catalogue now: requeue it"));
        let why = Why::unrouted(Ok(created()), "events\u{1b}");
        let expected = r#"no queue takes its routing key "events ", which is not its type content.created: correct"#;
        assert!(why.reason == "unknown_type" && why.detail.starts_with(expected), "{}", why.detail);
        let why = Why::unrouted(Err(refusal(Malformed::UnknownType)), "no.such");
        let expected = r#"no queue takes its routing key "no.such": the event type is not in the catalogue"#;
        assert!(why.reason == "unknown_type" && why.detail.starts_with(expected), "{}", why.detail);
        let why = Why::unrouted(Err(refusal(Malformed::Empty)), "no.such");
        assert_eq!((why.reason.as_str(), why.detail), ("empty", Malformed::Empty.to_string()));
    }

    #[test]
    fn an_event_that_the_broker_gave_up_says_what_to_do() {
        let reasons = ["delivery_limit", "rejected", "expired", "maxlen", "unknown"];
        let details: std::collections::BTreeSet<String> = reasons.map(|reason| Why::given_up(reason).detail).into();
        assert_eq!(details.len(), reasons.len());
        for detail in details {
            let (_, cure) = detail.split_once(": ").unwrap();
            assert!(cure.contains("requeue it"), "{detail}");
        }
    }

    #[test]
    fn letters_that_differ_only_in_the_place_of_a_mistake_are_of_one_kind() {
        let [first, second] =
            [1, 2].map(|line| Why::refused(refusal(Malformed::NotJson { line, column: 7, looks: Looks::Unknown })));
        assert!(first.kind == second.kind && first.detail != second.detail);
        let [id, data] = ["id", "data"].map(|field| Why::refused(refusal(Malformed::Missing(field))));
        assert!(id.kind != data.kind && id.reason == data.reason);
    }
}
