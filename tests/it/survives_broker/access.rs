//! A worker that the broker does not let in any more says why, is not ready, and comes back when it may.

use std::path::Path;

use url::Url;

use crate::support::*;

const PASSWORD: &str = "hunter2";
const VHOST: [&str; 2] = ["add_vhost", "own"];
const PERMISSIONS: [&str; 7] = ["set_permissions", "--vhost", "own", "worker", ".*", ".*", ".*"];

/// What is taken, what the broker calls it, and what gives it back.
type Loss = (&'static [&'static str], &'static str, &'static [&'static [&'static str]]);

const LOSSES: [Loss; 4] = [
    (&["change_password", "worker", "another"], "ACCESS_REFUSED", &[&["change_password", "worker", PASSWORD]]),
    (&["clear_permissions", "--vhost", "own", "worker"], "NOT_ALLOWED", &[&PERMISSIONS]),
    (&["set_permissions", "--vhost", "own", "worker", ".*", ".*", "^$"], "may not read", &[&PERMISSIONS]),
    (&["delete_vhost", "own"], "NOT_ALLOWED", &[&VHOST, &PERMISSIONS]),
];

#[tokio::test]
async fn a_worker_that_lost_its_access_says_so_and_comes_back_with_it() {
    let servers = PrivateServers::start().await;
    for command in [&VHOST[..], &["add_user", "worker", PASSWORD], &PERMISSIONS] {
        servers.ctl(command).await;
    }
    let site = Site::on(&servers).await;
    let mut url = Url::parse(site.amqp_url()).unwrap();
    url.set_username("worker").unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    url.set_path("own");
    let file = site.folder().join("url");
    write_at_once(&file, &format!("{url}\n"));
    let site = site.env("AMQP_URL", url.as_str());
    let receiver = Receiver::start().await;
    site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let launch = site.launch(&["worker"]).remove_env("AMQP_URL");
    let mut worker = launch.env("AMQP_URL_FILE", file.to_str().unwrap()).start_worker().await;
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
    change_password(&servers, &mut worker, &url, &file).await;
    assert!(!worker.log().contains(PASSWORD));
    worker.wait_for_its_level().await;
    worker.terminate();
    assert_eq!(worker.wait().await.code(), Some(0));
}

/// For good, and in the file a little later: no restart is needed.
async fn change_password(servers: &PrivateServers, worker: &mut Replica, url: &Url, file: &Path) {
    let said = worker.log().matches("ACCESS_REFUSED").count();
    servers.ctl(&["change_password", "worker", "another"]).await;
    servers.ctl(&["close_all_connections", "--global", "a test"]).await;
    worker.wait_for_log_times("ACCESS_REFUSED", said + 1).await;
    let mut url = url.clone();
    url.set_password(Some("another")).unwrap();
    write_at_once(file, url.as_str());
    worker.wait_for_log("its URL was read again").await;
    wait_until("it is ready with the new password", async || worker.is_ready().await).await;
}
