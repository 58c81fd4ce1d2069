//! A worker that loses its access to the broker logs why, is not ready, and goes on once it has access again.

use std::path::Path;

use url::Url;

use crate::support::*;

const PASSWORD: &str = "hunter2";
/// Not percent-encoded, it could not stand in a URL.
const NEW_PASSWORD: &str = "ab/cd+ef=@x";
const VHOST: [&str; 2] = ["add_vhost", "own"];
const PERMISSIONS: [&str; 7] = ["set_permissions", "--vhost", "own", "worker", ".*", ".*", ".*"];

/// The command that takes the access, the text of the broker's refusal, and the commands that restore the access.
type Loss = (&'static [&'static str], &'static str, &'static [&'static [&'static str]]);

const LOSSES: [Loss; 4] = [
    (&["change_password", "worker", "another"], "ACCESS_REFUSED", &[&["change_password", "worker", PASSWORD]]),
    (&["clear_permissions", "--vhost", "own", "worker"], "NOT_ALLOWED", &[&PERMISSIONS]),
    (&["set_permissions", "--vhost", "own", "worker", ".*", ".*", "^$"], "may not read", &[&PERMISSIONS]),
    (&["delete_vhost", "own"], "NOT_ALLOWED", &[&VHOST, &PERMISSIONS]),
];

#[tokio::test]
async fn a_worker_that_lost_its_access_says_so_and_comes_back_with_it() {
    let servers = PrivateServers::broker().await;
    for command in [&VHOST[..], &["add_user", "worker", PASSWORD], &PERMISSIONS] {
        servers.ctl(command).await;
    }
    let site = Site::on(&servers).await;
    let mut url = Url::parse(site.amqp_url()).unwrap();
    url.set_username("worker").unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    url.set_path("own");
    let site = site.env("AMQP_URL", url.as_str());
    url.set_password(None).unwrap();
    let file = site.folder().join("password");
    write_at_once(&file, &format!("{PASSWORD}\n"));
    let (receiver, _) = site.subscriber("acc_1", &["content.created"]).await;
    let launch = site.launch(&["worker"]).env("AMQP_URL", url.as_str());
    let password = ("PENR_WEBHOOKS__AMQP__PASSWORD_FILE", file.to_str().unwrap());
    let mut worker = launch.env(password.0, password.1).start_worker().await;
    for (lost, says, given_back) in LOSSES {
        let said = worker.log().matches(says).count();
        servers.ctl(lost).await;
        servers.ctl(&["close_all_connections", "--global", "a test"]).await;
        worker.wait_for_log_times(says, said + 2).await;
        assert!(!worker.is_ready().await, "without {lost:?}");
        for command in given_back {
            servers.ctl(command).await;
        }
        wait_until("it is ready again", async || worker.is_ready().await).await;
        let event = site.json(&["publish", "--account", "acc_1", "--type", "content.created"]).await;
        assert_eq!(receiver.next().await.event_id(), event["event_ids"][0], "after {lost:?}");
    }
    change_password(&servers, &mut worker, &file).await;
    assert!([PASSWORD, NEW_PASSWORD].iter().all(|password| !worker.log().contains(password)));
    worker.wait_for_its_level().await;
    worker.terminate();
    assert_eq!(worker.wait().await.code(), Some(0));
}

/// Changes the password at the broker, and a little later in the worker's file. The worker needs no restart.
async fn change_password(servers: &PrivateServers, worker: &mut Replica, file: &Path) {
    let said = worker.log().matches("ACCESS_REFUSED").count();
    servers.ctl(&["change_password", "worker", NEW_PASSWORD]).await;
    servers.ctl(&["close_all_connections", "--global", "a test"]).await;
    worker.wait_for_log_times("ACCESS_REFUSED", said + 1).await;
    write_at_once(file, NEW_PASSWORD);
    worker.wait_for_log("its URL was read again").await;
    wait_until("it is ready with the new password", async || worker.is_ready().await).await;
}
