//! If a queue or an exchange exists with other arguments, the worker names it and ends, and deletes nothing. It goes on without
//! those that only keep unrouted events.

use lapin::ExchangeKind;

use crate::support::*;

/// Checks that a worker ends at once with one line that says all of this.
async fn the_worker_refuses(site: &Site, words: &[&str]) {
    let mut worker = site.launch(&["worker"]).start();
    assert_eq!(worker.wait().await.code(), Some(1));
    let log = worker.log();
    let errors: Vec<_> = log.lines().filter(|line| line.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{log}");
    assert!(words.iter().all(|word| errors[0].contains(word)), "{} does not say {words:?}", errors[0]);
}

#[tokio::test]
async fn a_queue_without_our_arguments_is_named_and_kept_with_what_is_in_it() {
    let site = Site::new().await;
    site.own_amqp().await.declare_queue(site.worker_queue(), &[]).await.unwrap();
    assert_eq!(site.publish_message(&site.message_to_queue("precious")).await, Fate::Confirmed);
    the_worker_refuses(&site, &["inequivalent arg 'x-dead-letter-exchange'", site.worker_queue()]).await;
    assert_eq!(site.queue_depth(site.worker_queue()).await, 1);
}

#[tokio::test]
async fn a_queue_with_another_dead_letter_exchange_is_named_and_kept() {
    let site = Site::new().await;
    let arguments = [("x-queue-type", "quorum"), ("x-dead-letter-exchange", "elsewhere")];
    site.own_amqp().await.declare_queue(site.worker_queue(), &arguments).await.unwrap();
    the_worker_refuses(&site, &["inequivalent arg 'x-dead-letter-exchange'", "elsewhere", site.worker_queue()]).await;
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
}

#[tokio::test]
async fn a_queue_with_another_delivery_limit_is_named_and_kept() {
    let site = Site::new().await;
    drop(site.worker().await);
    assert_eq!(site.publish_message(&site.message_to_queue("precious")).await, Fate::Confirmed);
    let site = site.set("queue.delivery_limit", "7");
    the_worker_refuses(&site, &["inequivalent arg 'x-delivery-limit'", site.worker_queue()]).await;
    // The broker may have handed the message to the first worker before it noticed that this one was gone.
    wait_until("the message is there", async || site.queue_depth(site.worker_queue()).await == 1).await;
}

#[tokio::test]
async fn a_dead_letter_queue_of_another_type_is_named_and_kept() {
    let site = Site::new().await;
    site.own_amqp().await.declare_queue(site.dead_queue(), &[]).await.unwrap();
    the_worker_refuses(&site, &["inequivalent arg 'x-queue-type'", site.dead_queue()]).await;
    assert_eq!(site.queue_depth(site.dead_queue()).await, 0);
}

#[tokio::test]
async fn an_exchange_of_another_type_is_named_and_kept() {
    let site = Site::new().await;
    site.own_amqp().await.declare_exchange(site.events_exchange(), ExchangeKind::Direct).await.unwrap();
    the_worker_refuses(&site, &["inequivalent arg 'type'", site.events_exchange()]).await;
    site.own_amqp()
        .await
        .declare_exchange(site.events_exchange(), ExchangeKind::Direct)
        .await
        .expect("it is as it was");
}

#[tokio::test]
async fn the_queue_of_unrouted_events_may_have_other_arguments_and_is_used_as_it_is() {
    let site = Site::new().await;
    site.own_amqp().await.declare_queue(site.unrouted_queue(), &[]).await.unwrap();
    let precious = Message::to("", site.unrouted_queue(), "precious");
    assert_eq!(site.publish_message(&precious).await, Fate::Confirmed);
    the_worker_delivers_and_warns_once(&site, &["used as it is", "inequivalent arg", site.unrouted_queue()]).await;
    let unrouted = Message::to(site.unrouted_exchange(), "no.such.type", "kept");
    assert_eq!(site.publish_message(&unrouted).await, Fate::Confirmed);
    assert_eq!(site.queue_depth(site.unrouted_queue()).await, 2);
}

#[tokio::test]
async fn without_an_exchange_of_the_right_type_the_worker_delivers_and_says_that_unrouted_events_are_not_kept() {
    let site = Site::new().await;
    site.own_amqp().await.declare_exchange(site.unrouted_exchange(), ExchangeKind::Topic).await.unwrap();
    let words = ["events that no queue takes are not kept", "inequivalent arg", site.unrouted_exchange()];
    the_worker_delivers_and_warns_once(&site, &words).await;
}

/// Starts a worker that delivers, is ready, and has warned once, with all of these words.
async fn the_worker_delivers_and_warns_once(site: &Site, words: &[&str]) {
    let receiver = Receiver::start().await;
    site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let mut worker = site.worker().await;
    let id = site.publish("acc_1", "content.created", serde_json::json!(1)).await;
    assert_eq!(receiver.next().await.event_id(), id);
    let address = worker.logged("operations address", "address").await;
    let readyz = http::get(&address, "/readyz").await;
    assert!(readyz.status == 200 && !readyz.text().contains("rights"), "{}", readyz.text());
    let told: Vec<_> = worker.log_lines().into_iter().filter(|line| line["level"] == "WARN").collect();
    let [told] = &told[..] else { panic!("not one warning: {told:?}") };
    for said in words {
        assert!(told.to_string().contains(said), "no {said} in {told}");
    }
}
