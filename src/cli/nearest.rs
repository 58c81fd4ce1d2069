//! Says what a person probably meant: the event type, the command or the flag that is nearest to what was written.

use clap::error::{ContextKind, ContextValue};

use super::Failure;
use crate::event::{Catalogue, EventParser, Malformed, Properties};
use crate::ids::EventType;
use crate::webhook::{Subscriptions, WebhookRefusal};

/// Names that have less in common than this are not suggested. The measure is Jaro's, with 1 for the same name.
const LIKENESS: f64 = 0.7;

/// The event types with these names.
///
/// # Errors
///
/// As [`Subscriptions::parse`]; the error of an unknown type names the nearest one.
pub(super) fn subscriptions(names: &[String], catalogue: &Catalogue) -> Result<Subscriptions, Failure> {
    Subscriptions::parse(names, catalogue).map_err(|refusal| match refusal {
        WebhookRefusal::UnknownEvent(name) => unknown_event_type(&name, catalogue),
        refusal => refusal.into(),
    })
}

/// The event type with this name.
///
/// # Errors
///
/// There is none. The error names the nearest one.
pub(super) fn event_type(name: &str, catalogue: &Catalogue) -> Result<EventType, Failure> {
    catalogue.get(name).cloned().ok_or_else(|| unknown_event_type(name, catalogue))
}

fn unknown_event_type(name: &str, catalogue: &Catalogue) -> Failure {
    let unknown = WebhookRefusal::UnknownEvent(name.chars().filter(char::is_ascii_graphic).take(64).collect());
    let known: Vec<&str> = catalogue.types().map(|known| known.as_str()).collect();
    Failure::Usage(match nearest(name, &known) {
        Some(nearest) => format!("{unknown}; did you mean `{nearest}`?"),
        None => format!("{unknown}; there are {}", known.join(", ")),
    })
}

/// What to tell people of a message that is no event: what [`Malformed`] says, and of an event type that the catalogue lacks, which
/// it is, and the nearest one.
pub(super) fn refusal(malformed: &Malformed, body: &[u8], properties: &Properties, parser: &EventParser) -> String {
    let written = match malformed {
        Malformed::UnknownType => parser.written_type(body, properties),
        _ => None,
    };
    let Some(written) = written else { return malformed.to_string() };
    let known: Vec<&str> = parser.catalogue.types().map(|known| known.as_str()).collect();
    match nearest(&written, &known) {
        Some(nearest) => format!("{malformed} (it is `{written}`; did you mean `{nearest}`?)"),
        None => format!("{malformed} (it is `{written}`)"),
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    // A name with something before it or behind it, such as `ai.penr.content.published`.
    if let Some(contained) = known.iter().find(|known| name.contains(*known)) {
        return Some(contained);
    }
    let likeness = known.iter().map(|known| (strsim::jaro(known, &name), *known));
    let near = likeness.filter(|(likeness, _)| *likeness >= LIKENESS);
    near.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, known)| known)
}

/// What clap says of wrong arguments, in one line: the first paragraph of its text, and its suggestion.
pub(super) fn wrong_arguments(error: &clap::Error) -> String {
    let text = error.to_string();
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let said = first.join(" ");
    match suggestion(error) {
        Some(nearest) => format!("{said}; did you mean `{nearest}`? (see --help)"),
        None => format!("{said} (see --help)"),
    }
}

fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(nearest) => Some(nearest.clone()),
        ContextValue::Strings(all) => all.first().cloned(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> Catalogue {
        Catalogue::of_types(&["content.created", "content.published", "site.connected"])
    }

    #[test]
    fn a_wrong_event_type_gets_the_nearest_one_or_else_all() {
        let said = |name: &str| unknown_event_type(name, &catalogue()).to_string();
        assert_eq!(
            said("content.publish"),
            "there is no event type `content.publish`; did you mean `content.published`?"
        );
        assert!(said("Content.Created").ends_with("did you mean `content.created`?"));
        assert!(said("site_connected").ends_with("did you mean `site.connected`?"));
        assert!(said("ai.penr.content.published.v1").ends_with("did you mean `content.published`?"));
        assert!(said("xyz").ends_with("; there are content.created, content.published, site.connected"));
    }

    #[test]
    fn a_message_of_an_unknown_type_is_told_with_the_type_and_the_nearest_one() {
        let parser = EventParser { catalogue: catalogue(), max_event_bytes: 1000 };
        let said = |event_type: &str| {
            let body = format!(r#"{{"type":"{event_type}"}}"#);
            refusal(&Malformed::UnknownType, body.as_bytes(), &Properties::default(), &parser)
        };
        let begin = Malformed::UnknownType.to_string();
        let expected = format!("{begin} (it is `content.publishd`; did you mean `content.published`?)");
        assert_eq!(said("content.publishd"), expected);
        assert_eq!(said(""), format!("{begin} (it is ``)"));
        assert_eq!(said("\\u001b[1m\\u202e"), format!(r"{begin} (it is ` [1m\u{{202e}}`)"));
        assert_eq!(said(&"é".repeat(100)), format!("{begin} (it is `{}`)", "é".repeat(32)));
        let other = refusal(&Malformed::Empty, b"", &Properties::default(), &parser);
        assert_eq!(other, Malformed::Empty.to_string());
    }
}
