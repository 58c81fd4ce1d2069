//! If a queue or an exchange exists with other arguments, the worker names it and ends, and deletes nothing.

use crate::support::raw_amqp::RawAmqp;
use crate::support::{Fate, Site, Table};

async fn amqp(site: &Site) -> RawAmqp {
    RawAmqp::connect(site.amqp_url()).await.unwrap()
}

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
    amqp(&site).await.declare_queue(site.worker_queue(), &Table::default()).await.unwrap();
    assert_eq!(site.publish_raw(&site.message_to_queue("precious")).await, Fate::Confirmed);
    the_worker_refuses(&site, &["inequivalent arg 'x-dead-letter-exchange'", site.worker_queue()]).await;
    assert_eq!(site.queue_depth(site.worker_queue()).await, 1);
}

#[tokio::test]
async fn a_queue_with_another_dead_letter_exchange_is_named_and_kept() {
    let site = Site::new().await;
    let arguments = Table::default().long_string("x-queue-type", "quorum");
    let arguments = arguments.long_string("x-dead-letter-exchange", "elsewhere");
    amqp(&site).await.declare_queue(site.worker_queue(), &arguments).await.unwrap();
    the_worker_refuses(&site, &["inequivalent arg 'x-dead-letter-exchange'", "elsewhere", site.worker_queue()]).await;
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0);
}

#[tokio::test]
async fn a_queue_with_another_delivery_limit_is_named_and_kept() {
    let site = Site::new().await;
    drop(site.worker().await);
    assert_eq!(site.publish_raw(&site.message_to_queue("precious")).await, Fate::Confirmed);
    let site = site.set("queue.delivery_limit", "7");
    the_worker_refuses(&site, &["inequivalent arg 'x-delivery-limit'", site.worker_queue()]).await;
    assert_eq!(site.queue_depth(site.worker_queue()).await, 1);
}

#[tokio::test]
async fn a_dead_letter_queue_of_another_type_is_named_and_kept() {
    let site = Site::new().await;
    amqp(&site).await.declare_queue(site.dead_queue(), &Table::default()).await.unwrap();
    the_worker_refuses(&site, &["inequivalent arg 'x-queue-type'", site.dead_queue()]).await;
    assert_eq!(site.queue_depth(site.dead_queue()).await, 0);
}

#[tokio::test]
async fn an_exchange_of_another_type_is_named_and_kept() {
    let site = Site::new().await;
    amqp(&site).await.declare_exchange(site.events_exchange(), "direct").await.unwrap();
    the_worker_refuses(&site, &["inequivalent arg 'type'", site.events_exchange()]).await;
    amqp(&site).await.declare_exchange(site.events_exchange(), "direct").await.expect("it is as it was");
}
