use lapin::uri::SASLMechanism;
use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Vec<AMQPUri> {
    match Address::read(text) {
        Ok(address) => address.nodes.into_iter().map(|node| node.uri).collect(),
        Err(error) => panic!("{text}: {error:#}"),
    }
}

fn one(text: &str) -> AMQPUri {
    let mut all = read(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

fn refused(text: &str) -> String {
    match Address::read(text) {
        Ok(address) => panic!("{text} is read as {address:?}"),
        Err(error) => format!("{error:#}"),
    }
}

fn shown(text: &str) -> Vec<String> {
    Address::read(text).unwrap().nodes().iter().map(ToString::to_string).collect()
}

#[test]
fn what_the_library_reads_well_is_read_as_by_it() {
    for text in [
        "amqp://host",
        "amqp://host/%2f",
        "amqp://user@host",
        "amqp://user:pass@host:10000/vhost",
        "amqps://user:pass@host/v%2Fhost?heartbeat=5",
        "AMQPS://user:p%C3%A4ss@host//",
        "amqp://user%61:%61pass@ho%61st:10000/v%2fhost",
        "amqp://u:a@b:c%d@host/a/b",
        "amqp://u:p w+&=;'\\\"<|^ä@host/%2f",
        "amqp://u:%41%2C,x@10.0.0.1:5673/%2f",
        "amqp://h/%2f?heartbeat=42&frame_max=64&connection_timeout=30000&channel_max=7&auth_mechanism=external",
        "amqp://:@host:5672",
        "amqp://host?channel_max=7",
    ] {
        assert_eq!(one(text), text.parse().unwrap(), "{text}");
    }
    let query = one("amqp://h?auth_mechanism=EXTERNAL&channel_max=9").query;
    assert_eq!((query.auth_mechanism, query.channel_max), (Some(SASLMechanism::External), Some(9)));
}

#[test]
fn an_ipv6_address_is_a_host() {
    let uri = one("amqp://u:p@[2001:db8::1]:5673/%2f");
    assert_eq!((uri.authority.host.as_str(), uri.authority.port, uri.vhost.as_str()), ("2001:db8::1", 5673, "/"));
    assert_eq!(one("amqps://[::1]").authority.port, 5671);
    assert_eq!(shown("amqp://[::1],amqps://127.0.0.1,amqp://rabbit"), ["[::1]:5672", "127.0.0.1:5671", "rabbit:5672"]);
    for text in ["amqp://[::1", "amqp://::1", "amqp://[::1]5672", "amqp://[::1%25eth0]", "amqp://[rabbit]:1"] {
        let error = refused(text);
        assert!(error.contains("IPv6") || error.contains("a colon"), "{text}: {error}");
    }
}

#[test]
fn several_addresses_have_a_comma_or_a_line_between_them() {
    for text in [
        "amqp://u:p,q@a/%2f,amqps://u:p@b:1/v",
        " amqp://u:p,q@a/%2f , amqps://u:p@b:1/v \n",
        "amqp://u:p,q@a/%2f\namqps://u:p@b:1/v\n",
        "amqp://u:p,q@a/%2f,\r\n  amqps://u:p@b:1/v",
        "AMQP://u:p,q@a/%2f,AMQPS://u:p@b:1/v",
    ] {
        assert_eq!(read(text), [one("amqp://u:p,q@a/%2f"), one("amqps://u:p@b:1/v")], "{text:?}");
    }
    assert_eq!(one("amqp://u:p,amqp@h/a,b").authority.userinfo.password, "p,amqp");
    assert!(refused("amqp://a/%2f,amqp://b/").starts_with("address 2: it names the empty virtual host"));
    for text in ["amqp://u:p@a,b/%2f", "amqp://u:p@a:1,b:2/%2f"] {
        assert!(refused(text).contains("each address is a whole URL"), "{text}");
    }
    for text in ["amqp://u:p@a/%2f amqp://u:p@b/%2f", "amqp://u:p@a/%2f;amqps://u:p@b/%2f", "amqp://a/amqp://b"] {
        assert!(refused(text).contains("a comma between them"), "{text}");
    }
    assert!(refused("amqp://a/%2f,").contains("ends with a comma"));
}

#[test]
fn what_cannot_be_right_is_refused_with_what_would_be() {
    for (text, says) in [
        ("", "must begin with amqp:// or amqps://"),
        ("s3cret", "must begin with amqp:// or amqps://"),
        ("http://u:s3cret@h", "must begin with amqp:// or amqps://"),
        ("amqp:s3cret", "must begin with amqp:// or amqps://"),
        ("amqp://", "names no host"),
        ("amqp:///", "names no host"),
        ("amqp://u:s3cret@/%2f", "names no host"),
        ("amqp://u:s3cret@:5672/%2f", "names no host"),
        ("amqp://u:s3cret@h:5672/", "names the empty virtual host; write %2f"),
        ("amqp://u:s3cret@h/?heartbeat=5", "names the empty virtual host"),
        ("amqp://u:s3cret#x@h:5672/%2f", "must be written %23 %2F %3F or %40"),
        ("amqp://u:1234#s3cret@h:5672/%2f", "must be written %23 %2F %3F or %40"),
        ("amqp://u:1234/s3cret@h:5672/%2f", "must be written %23 %2F %3F or %40"),
        ("amqp://u:1234?s3cret@h:5672/%2f", "must be written %23 %2F %3F or %40"),
        ("amqp://u:s3cret@h/%2f#x", "must be written %23"),
        ("amqp://u:s3cret@h:port", "a port must be a number"),
        ("amqp://u:s3cret", "a port must be a number"),
        ("amqp://h:0", "a port must be a number from 1"),
        ("amqp://h:65536", "a port must be a number from 1"),
        ("amqp://u:s3cret@h;x/%2f", "letters, digits and . - _"),
        ("amqp://u:p@h/a\tb", "control character"),
        ("amqp://u:%ff@h", "not UTF-8"),
        ("amqp://h/%2f?heartbeat=s3cret", "heartbeat must be a number of seconds, as in heartbeat=10"),
        ("amqp://h/%2f?auth_mechanism=s3cret", "auth_mechanism must be a mechanism"),
        ("amqp://h/%2f?cacertfile=/ca.pem", "amqp.ca_file"),
        ("amqp://h/%2f?retries=5", "its parameter 1 is unknown"),
        // One password, or two addresses.
        ("amqp://user:?s3cret=,amqp://@host/%2f", "its parameter 1 is unknown"),
        ("amqp://h/%2f?heartbeat=5&s3cret", "its parameter 2 is unknown"),
    ] {
        let error = refused(text);
        assert!(error.contains(says), "{text}: {error}");
        assert!(!error.contains("s3cret") && !error.contains('\n'), "{text}: {error}");
    }
    assert!(refused(&format!("amqp://h/{}", "v".repeat(256))).contains("more than 255 bytes"));
}

/// Percent-encodes a text, as operators must.
fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

proptest! {
    #[test]
    fn whatever_is_encoded_is_read_back(
        logins in proptest::collection::vec(("\\PC{1,20}", "\\PC{1,20}", "\\PC{1,20}", 1..=u16::MAX), 1..4),
    ) {
        let url = |(user, password, vhost, port): &(String, String, String, u16)| {
            format!("amqp://{}:{}@h:{port}/{}", encoded(user), encoded(password), encoded(vhost))
        };
        let text = logins.iter().map(url).collect::<Vec<_>>().join(" , ");
        let nodes = read(&text);
        prop_assert_eq!(nodes.len(), logins.len());
        for (uri, (user, password, vhost, port)) in nodes.iter().zip(&logins) {
            let userinfo = &uri.authority.userinfo;
            prop_assert_eq!((&userinfo.username, &userinfo.password), (user, password));
            prop_assert_eq!((&uri.vhost, uri.authority.port), (vhost, *port));
        }
    }

    #[test]
    fn no_text_panics_and_no_error_or_debug_shows_a_password(
        before in "[a-z0-9/?#:, %\\[\\]]{0,12}", after in "(amqp://|[a-z0-9/?#@:, %=&\\[\\]]){0,12}",
    ) {
        let text = format!("amqp://user:{before}S3CRET{after}@host/%2f");
        let said = match Address::read(&text) {
            Err(error) => format!("{error:#} {error:?}"),
            Ok(address) => format!("{address:?}"),
        };
        prop_assert!(!said.contains("S3CRET"), "{}", said);
    }
}
