//! Operators give headers in a file or on standard input. No output and no error has a value.

use serde_json::{Value, json};

use super::{ACCOUNT, NOBODY, TYPE, assert_fails, create};
use crate::support::*;

const VALUE: &str = "Bearer 5ecret-of-the-gateway";

/// Writes a file beside the settings and returns its name.
fn file(site: &Site, text: &str) -> &'static str {
    std::fs::write(site.folder().join("headers.json"), text).unwrap();
    "headers.json"
}

/// The first values of two headers as a receiver gets them.
async fn received(site: &Site, id: &str, receiver: &Receiver) -> [Option<String>; 2] {
    assert_eq!(site.cli(&["webhooks", "test", id]).await.code, 0);
    let request = receiver.next().await;
    ["authorization", "x-team"].map(|name| request.head.header(name).map(str::to_owned))
}

#[tokio::test]
async fn headers_come_from_a_file_or_standard_input_and_are_sent_and_never_shown() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let flags = ["--name", "n", "--url", &receiver.url(), "--events", TYPE];
    let given = json!({ "Authorization": VALUE, "x-team": "blue" }).to_string();
    let from_file = site.json(&create(&[&flags[..], &["--headers", file(&site, &given)]].concat())).await;
    let created = site.cli_with_input(&create(&[&flags[..], &["--headers", "-", "--json"]].concat()), &given).await;
    let from_input: Value = serde_json::from_str(&created.stdout).expect("it succeeded");
    for webhook in [&from_file, &from_input] {
        assert_eq!(webhook["headers"], json!({ "Authorization": null, "x-team": null }));
        let id = webhook["id"].as_str().unwrap();
        assert_eq!(received(&site, id, &receiver).await, [Some(VALUE.to_owned()), Some("blue".to_owned())]);
    }
    let id = from_file["id"].as_str().unwrap();
    let show = ["webhooks", "show", id];
    let list = ["webhooks", "list", "--account", ACCOUNT];
    let all = ["webhooks", "list", "--all-accounts"];
    let update = ["webhooks", "update", id, "--name", "other"];
    for command in [&show[..], &list, &all, &update] {
        let (shown, document) = (site.cli(command).await, site.json(command).await.to_string());
        assert!(shown.stdout.contains("HEADERS") && shown.stdout.contains("Authorization: [hidden]"), "{shown:?}");
        assert!(!format!("{shown:?}{document}").contains("5ecret"), "{shown:?}{document}");
    }
    let test = ["webhooks", "test", id];
    let shown = site.json(&test).await;
    assert_eq!(shown["request"]["headers"]["Authorization"], "[hidden]", "{shown}");
    assert!(
        !shown.to_string().contains("5ecret")
            && !site.cli(&["webhooks", "log", id, "--json"]).await.stdout.contains("5ecret")
    );
}

#[tokio::test]
async fn an_update_replaces_all_headers_and_null_keeps_a_value_for_the_same_receiver() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let flags = ["--name", "n", "--url", &receiver.url(), "--events", TYPE, "--headers"];
    let both = json!({ "Authorization": VALUE, "x-team": "blue" }).to_string();
    let webhook = site.json(&create(&[&flags[..], &[file(&site, &both)]].concat())).await;
    let id = webhook["id"].as_str().unwrap();
    let update = ["webhooks", "update", id];
    let kept = [&update[..], &["--headers", file(&site, r#"{"AUTHORIZATION":null}"#)]].concat();
    assert_eq!(site.json(&kept).await["headers"], json!({ "AUTHORIZATION": null }));
    assert_eq!(received(&site, id, &receiver).await, [Some(VALUE.to_owned()), None]);
    let elsewhere = ["--url", "https://other.example.com/"];
    let moved = site.cli(&[&kept[..], &elsewhere].concat()).await;
    assert_fails(&moved, 2, &["--headers", "another scheme, host or port", "AUTHORIZATION"]);
    assert_fails(&site.cli(&[&update[..], &elsewhere].concat()).await, 2, &["another scheme, host or port"]);
    let unknown = [&update[..], &["--headers", file(&site, r#"{"X-Other":null}"#)]].concat();
    assert_fails(&site.cli(&unknown).await, 2, &["X-Other"]);
    let removed = site.json(&[&update[..], &["--no-headers"], &elsewhere].concat()).await;
    assert_eq!((&removed["headers"], &removed["url"]), (&json!({}), &json!("https://other.example.com/")));
    let both_flags = [&update[..], &["--no-headers", "--headers", "headers.json"]].concat();
    assert_fails(&site.cli(&both_flags).await, 2, &["--no-headers"]);
}

#[tokio::test]
async fn an_error_names_the_header_and_repeats_no_value() {
    let site = Site::new().await;
    let flags = ["--name", "n", "--url", "https://hooks.example.com/", "--events", TYPE, "--headers"];
    let commands = [create(&flags), vec!["webhooks", "update", NOBODY, "--headers"]];
    let long = json!({ "X-Team": format!("5ecret{}", "a".repeat(70_000)) }).to_string();
    let cases = [
        (r#"{"Host":"5ecret"}"#, "Host"),
        (r#"{"X-Team":" 5ecret"}"#, "X-Team"),
        (r#"{"X-Team":"5ecret","x-team":"5ecret"}"#, "x-team is given twice"),
        (r#"{"X-Team":["5ecret"]}"#, "must be text"),
        (r#"["X-Team","5ecret"]"#, "must be an object"),
        (r#""5ecret""#, "must be an object"),
        (r#"{"X-Team":"5ecret" 5ecret"#, "line 1 column"),
        (r#"{"X-Team":"5ecret"} 5ecret"#, "line 1 column"),
        ("", "cannot be read"),
        (&long, "more than 65536 bytes"),
    ];
    for command in &commands {
        for (text, said) in cases {
            let failed = site.cli_with_input(&[&command[..], &["-"]].concat(), text).await;
            assert_fails(&failed, 2, &["--headers", said]);
            assert!(!format!("{failed:?}").contains("5ecret"), "{text}: {failed:?}");
        }
        // A value in the place of the file's name.
        let failed = site.cli(&[&command[..], &[r#"{"X-Team":"5ecret"}"#]].concat()).await;
        assert_fails(&failed, 2, &["--headers", "cannot be read"]);
        assert!(!format!("{failed:?}").contains("5ecret"), "{failed:?}");
    }
    assert_fails(
        &site.cli_with_input(&[&commands[0][..], &["-"]].concat(), r#"{"X-Team":null}"#).await,
        2,
        &["X-Team"],
    );
    assert_eq!(site.json(&["webhooks", "list", "--account", ACCOUNT]).await["data"], json!([]));
}

#[tokio::test]
async fn a_pace_is_set_shown_and_ended() {
    let site = Site::new().await;
    let flags = ["--name", "n", "--url", "https://hooks.example.com/", "--events", TYPE];
    let pace = |number| ["--max-per-second", number];
    let created = site.json(&create(&[&flags[..], &pace("1000")].concat())).await;
    assert_eq!(created["max_per_second"], 1000);
    let id = created["id"].as_str().unwrap();
    let update = async |number| site.cli(&[&["webhooks", "update", id][..], &pace(number)].concat()).await;
    let shown = site.cli(&["webhooks", "list", "--account", ACCOUNT]).await.stdout;
    assert!(shown.contains("PACE") && shown.contains("1,000 a second") && !shown.contains("HEADERS"), "{shown}");
    let changed = update("5").await;
    assert!(changed.code == 0 && changed.stdout.contains("5 a second"), "{changed:?}");
    for wrong in ["0", "1001", "-1", "1.5", "fast", ""] {
        let failed = site.cli(&["webhooks", "update", id, &format!("--max-per-second={wrong}")]).await;
        assert_fails(&failed, 2, &["--max-per-second", "from 1 to 1000, or none"]);
    }
    assert_fails(
        &site.cli(&create(&[&flags[..], &pace("none")].concat())).await,
        2,
        &["--max-per-second", "from 1 to 1000"],
    );
    let ended = update("none").await;
    assert!(ended.code == 0 && !ended.stdout.contains("PACE"), "{ended:?}");
    assert_eq!(site.webhook(id).await["max_per_second"], Value::Null);
}
