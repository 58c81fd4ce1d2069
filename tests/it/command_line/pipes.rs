//! `| head`: no command fails, panics or hangs because the reader has closed stdout.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{ACCOUNT, NOBODY, TYPE, create};
use crate::support::http::ask;
use crate::support::*;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

#[tokio::test]
async fn no_command_fails_because_nobody_reads_what_it_prints() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    let webhook = site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    let _worker = site.worker().await;
    site.publish_message(&site.message("no event")).await;
    let created = create(&["--name", "n", "--url", "https://hooks.example.com/", "--events", "site.connected"]);
    let commands: [&[&str]; 13] = [
        &["--help"],
        &["migrate"],
        &created,
        &["webhooks", "list", "--account", ACCOUNT],
        &["webhooks", "show", &webhook.id],
        &["webhooks", "secret", &webhook.id],
        &["webhooks", "log", &webhook.id],
        &["webhooks", "test", &webhook.id],
        &["webhooks", "reencrypt"],
        &["token", "--account", ACCOUNT],
        &["publish", "--account", ACCOUNT, "--type", TYPE, "--id", "evt_published"],
        &["dead-letters", "list", "--show"],
        &["doctor"],
    ];
    for command in commands {
        for json in [&[][..], &["--json"]] {
            let command = [command, json].concat();
            let output = site.cli_into_head(&command).await;
            let said = output.stderr.lines().any(|line| !line.starts_with('{'));
            assert!(output.code == 0 && !said, "{command:?}: {output:?}");
        }
    }
    let published = async || receiver.requests().iter().any(|request| request.event_id() == "evt_published");
    wait_until("what was published arrives", published).await;
}

#[tokio::test]
async fn an_error_that_nobody_reads_keeps_its_exit_code() {
    let site = Site::new().await;
    for (command, code) in
        [(&["webhooks", "show", NOBODY][..], 1), (&["webhooks", "explode"], 2), (&["doctor", "-x"], 2)]
    {
        assert_eq!(site.cli_unread(command).await.code(), Some(code), "{command:?}");
    }
}

#[tokio::test]
async fn a_worker_whose_log_has_no_reader_any_more_delivers_and_stops() {
    let site = Site::new().await;
    let receiver = Receiver::start().await;
    site.create_webhook(ACCOUNT, &receiver.url(), &[TYPE]).await;
    drop(site.worker().await);
    let mut worker = tokio::process::Command::new(env!("CARGO_BIN_EXE_penr-webhooks"));
    site.settings().give_to(&mut worker);
    worker.arg("worker").current_dir(site.folder()).stderr(cli::closed_pipe()).kill_on_drop(true);
    let mut worker = worker.spawn().unwrap();
    let event = site.publish(ACCOUNT, TYPE, json!({})).await;
    assert_eq!(receiver.next().await.event_id(), event);
    let pid = worker.id().unwrap().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert_eq!(within("it stops", PATIENCE, worker.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn listen_ends_when_nobody_reads_its_lines() {
    let site = Site::new().await;
    for json in [&[][..], &["--json"]] {
        let listen = [&["listen", "--port", "0", "--secret", SECRET], json].concat();
        let mut listener = tokio::process::Command::new(env!("CARGO_BIN_EXE_penr-webhooks"));
        site.settings().give_to(&mut listener);
        let (output, written) = std::io::pipe().unwrap();
        listener.args(&listen).stdout(written).stderr(Stdio::null()).kill_on_drop(true);
        let mut listening = listener.spawn().unwrap();
        drop(listener);
        let mut output = BufReader::new(output);
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        drop(output);
        let (_, address) = first.trim_end().trim_end_matches("\"}").split_once("http://").unwrap();
        assert_eq!(ask(address, "POST", "/", &[], b"{}").await.status, 200);
        assert_eq!(within("it ends", PATIENCE, listening.wait()).await.unwrap().code(), Some(0));
        assert_eq!(site.cli_unread(&listen).await.code(), Some(0), "from the start");
    }
}
