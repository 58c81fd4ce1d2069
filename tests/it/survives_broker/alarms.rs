//! A broker out of memory or disk space takes no messages from publishers, but delivers those that it has.

use std::time::{Duration, Instant};

use crate::support::*;

const ALARMS: [(&[&str], &[&str]); 2] = [
    (&["set_vm_memory_high_watermark", "absolute", "1MB"], &["set_vm_memory_high_watermark", "0.4"]),
    (&["set_disk_free_limit", "1000000GB"], &["set_disk_free_limit", "50MB"]),
];

async fn wait_for_alarms(servers: &PrivateServers, count: usize) {
    let alarms = format!("length(rabbit_alarm:get_alarms()) == {count}.");
    wait_until(&format!("{count} alarms"), async || servers.ctl(&["eval", &alarms]).await.trim() == "true").await;
}

/// The messages in the queue, unsettled ones included. Asked by command, since the broker blocks the test's own connection,
/// which publishes.
async fn depth(servers: &PrivateServers, queue: &str) -> usize {
    let queues = servers.ctl(&["list_queues", "--quiet", "name", "messages"]).await;
    let line = queues.lines().find_map(|line| line.strip_prefix(&format!("{queue}\t")));
    line.expect("the queue is there").parse().unwrap()
}

#[tokio::test]
async fn a_broker_in_alarm_is_drained_and_a_publish_ends_in_time() {
    let servers = PrivateServers::broker().await;
    // A worker is paused for as long as another one starts.
    let site = Site::on(&servers).await.set("amqp.heartbeat", "120s").set("queue.confirm_timeout", "1s");
    let ledger = Ledger::open(site).await;
    let mut workers = vec![ledger.site.worker().await];
    for (alarm, all_clear) in ALARMS {
        workers[0].pause();
        ledger.publish(200).await;
        servers.ctl(alarm).await;
        wait_for_alarms(&servers, 1).await;
        // A worker that starts during the alarm consumes, too.
        workers.push(ledger.site.worker().await);
        workers[0].resume();
        ledger.wait_until_done().await;
        wait_until("all is acked", async || depth(&servers, ledger.site.worker_queue()).await == 0).await;
        let began = Instant::now();
        // For an account without webhooks, since the event may be published after the alarm.
        let publish = ledger.site.cli(&["publish", "--account", "acc_2", "--type", "content.created"]).await;
        assert!(publish.code == 1 && publish.stderr.contains("did not confirm within 1s"), "{publish:?}");
        assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
        servers.ctl(all_clear).await;
        wait_for_alarms(&servers, 0).await;
    }
    for worker in &workers {
        assert!(!worker.log().contains("lost the broker"), "{}", worker.log());
    }
    ledger.close(workers).await.assert_sound(0);
    assert_eq!(servers.protocol_errors().await, [""; 0]);
}
