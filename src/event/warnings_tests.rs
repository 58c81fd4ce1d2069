use super::*;
use crate::event::Catalogue;

fn warnings_with(body: &str, properties: &Properties) -> Vec<String> {
    let parser = EventParser { catalogue: Catalogue::of_types(&["content.published"]), max_event_bytes: 64 * 1024 };
    parser.warnings(body.as_bytes(), properties).iter().map(Warning::to_string).collect()
}

fn warnings(body: &str) -> Vec<String> {
    warnings_with(body, &Properties::default())
}

const EVENT: &str =
    r#"{"id":"evt_1","type":"content.published","account_id":"acc_42","occurred_at":"2026-11-23T10:00:00Z","data":{}}"#;
const CLOUD_EVENT: &str = r#"{"specversion":"1.0","id":"evt_1","source":"/","type":"content.published","accountid":"acc_42","time":"2026-11-23T10:00:00Z","data":{}}"#;

#[test]
fn what_is_as_it_should_be_is_not_warned_of() {
    let more = EVENT.replacen('{', r#"{"timestamp":1,"version":2,"source":"x","payload":{},"trace":{},"#, 1);
    let attributes =
        CLOUD_EVENT.replacen('{', r#"{"subject":"7","datacontenttype":"application/json","traceparent":"00","#, 1);
    for body in [EVENT, &more, CLOUD_EVENT, &attributes, "", "[]", "{", r#"{"a":1,"a":2}"#] {
        assert_eq!(warnings(body), [""; 0], "{body}");
    }
}

#[test]
fn a_key_that_probably_means_a_missing_field_is_warned_of() {
    for (field, keys) in [
        ("id", &["ID", "eventId", "event_id", "uuid"][..]),
        ("type", &["Type", "eventType", "typ", "event"]),
        ("account_id", &["accountId", "account-id", "accountid", "acount_id", "AccountID", "tenant"]),
        ("occurred_at", &["occurredAt", "occured_at", "occurred", "timestamp", "createdAt", "time", "OccurredAt"]),
        ("data", &["Data", "payload", "dat", "body"]),
    ] {
        for key in keys {
            let body = EVENT.replace(&format!("\"{field}\""), &format!("\"{key}\""));
            let expected = format!("`{key}` is ignored, and there is no `{field}`: rename it if that is what it means");
            assert_eq!(warnings(&body), [expected], "{body}");
        }
    }
    let cloud_event = CLOUD_EVENT.replace("accountid", "accountId").replace("\"time\"", "\"timestamp\"");
    assert_eq!(warnings(&cloud_event).len(), 2, "{cloud_event}");
    // One letter from `data`, but another word.
    let date = EVENT.replace("occurred_at", "date").replace("\"data\"", "\"x\"");
    assert_eq!(warnings(&date).len(), 1, "{date}");
    let null = EVENT.replace(r#""occurred_at":"2026-11-23T10:00:00Z""#, r#""occurred_at":null,"occurredAt":1"#);
    assert!(warnings(&null)[0].contains("there is no `occurred_at`"));
}

#[test]
fn a_key_is_shown_short_and_printable() {
    let long = format!("time\u{202e}stamp{}", "_".repeat(1000));
    let said = warnings(&EVENT.replace("occurred_at", &long));
    assert!(said[0].starts_with(r"`time\u{202e}stamp___") && said[0].len() < 200, "{said:?}");
}

#[test]
fn a_time_that_is_rewritten_is_shown_as_it_is_sent() {
    for body in [EVENT, CLOUD_EVENT] {
        let said = warnings(&body.replace("10:00:00Z", "11:00:00+01:00"));
        assert!(said.len() == 1 && said[0].contains(" is sent as 2026-11-23T10:00:00Z: "), "{said:?}");
        // Python's `isoformat` and .NET's "o" write what receivers see all the same.
        assert_eq!(warnings(&body.replace("10:00:00Z", "10:00:00.1234560+00:00")), [""; 0]);
        // Not a time at all: the parser refuses it.
        assert_eq!(warnings(&body.replace("10:00:00Z", "noon")), [""; 0]);
    }
}

#[test]
fn data_that_was_encoded_twice_is_warned_of() {
    for body in [EVENT, CLOUD_EVENT] {
        let with = |data: &str| warnings(&body.replace("{}", data));
        for data in [r#""{\"title\":\"Hello\"}""#, r#""[]""#] {
            let said = "`data` is a string that holds JSON: encode it once, unless receivers must get a string";
            assert_eq!(with(data), [said], "{data}");
        }
        for data in [r#""{title}""#, r#""42""#, r#""""#, "[]", "null"] {
            assert_eq!(with(data), [""; 0], "{data}");
        }
    }
}

#[test]
fn what_a_framework_has_put_around_an_event_or_taken_from_it_is_warned_of() {
    let said = |key: &str, by: &str| {
        format!("this looks like a message of {by}, with the event in `{key}`: publish the event alone")
    };
    let nest = format!(r#"{{"pattern":"content.published","data":{EVENT},"id":"7"}}"#);
    assert_eq!(warnings(&nest), [said("data", "NestJS")]);
    let mass_transit = format!(r#"{{"messageId":"1","messageType":["urn:message:Event"],"message":{EVENT}}}"#);
    assert_eq!(warnings(&mass_transit), [said("message", "MassTransit")]);
    for data in [r#"{"title":"Hello"}"#, "{}"] {
        let said = warnings(data);
        assert!(said.len() == 1 && said[0].starts_with("this has neither `type` nor `account_id`"), "{said:?}");
    }
    let renamed = EVENT.replace("\"type\"", "\"eventType\"").replace("account_id", "accountId");
    assert_eq!(warnings(&renamed).len(), 2, "each key has its own");
    let own_key = EVENT.replacen('{', r#"{"pattern":1,"#, 1);
    assert_eq!(warnings(&own_key), [""; 0]);
}

#[test]
fn a_timestamp_in_milliseconds_is_warned_of() {
    let with = |timestamp| warnings_with(EVENT, &Properties { timestamp: Some(timestamp), ..Properties::default() });
    assert_eq!(with(1_795_428_000), [""; 0]);
    let said = with(1_795_428_000_000);
    assert_eq!(said, ["the message's timestamp 1795428000000 looks like milliseconds: AMQP counts seconds"]);
}

#[test]
fn an_id_that_comes_from_the_message_is_warned_of() {
    let properties = Properties { message_id: Some("msg_1".into()), ..Properties::default() };
    for id in [r#""id":null,"#, r#""id":"","#, ""] {
        let said = warnings_with(&EVENT.replace(r#""id":"evt_1","#, id), &properties);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("the message_id msg_1 is taken"), "{said:?}");
    }
    let same = Properties { message_id: Some("evt_1".into()), ..Properties::default() };
    assert_eq!(warnings_with(EVENT, &same), [""; 0]);
    let said = warnings_with(EVENT, &properties);
    assert_eq!(said, ["the message_id msg_1 is not the event's `id`, which receivers get: write the same into both"]);
}

#[test]
fn fields_of_the_other_kind_of_event_are_warned_of() {
    let mixed = CLOUD_EVENT.replacen('{', r#"{"occurred_at":"2026-11-23T10:00:00Z","#, 1);
    assert_eq!(
        warnings(&mixed),
        ["`occurred_at` is ignored, since this is read as a CloudEvent, whose time is `time`: leave it out"]
    );
    let mixed = EVENT.replacen('{', r#"{"specversion":"1.0","#, 1);
    let said =
        "`specversion` is ignored, since this is read as an ordinary event, as it has `account_id`: leave it out";
    assert_eq!(warnings(&mixed), [said]);
}
