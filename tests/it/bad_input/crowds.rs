//! An event that no webhook subscribes to is not stored; an event for a thousand webhooks reaches each.

use std::sync::Arc;
use std::time::Duration;

use penr_webhooks::ids::{AccountId, WebhookId};
use penr_webhooks::secret::{Keyring, Owner, SigningSecret};
use serde_json::json;
use uuid::Uuid;

use super::{ACCOUNT, MARKER, TYPE};
use crate::support::settings::encryption_key;
use crate::support::{Configure, Receiver, Reply, Request, Site, wait_until};

#[tokio::test]
async fn an_event_that_no_webhook_subscribes_to_is_acknowledged_and_not_stored() {
    let mut scene = super::Scene::open().await;
    for (account, event_type) in [("acc_unknown", TYPE), (ACCOUNT, "site.connected")] {
        scene.site.publish(account, event_type, json!(MARKER)).await;
    }
    scene.publish_good(100).await;
    scene.all_good_arrive().await;
    wait_until("all is recorded", async || scene.site.count("SELECT count(*) FROM attempts").await == 100).await;
    assert_eq!(scene.site.count("SELECT count(*) FROM events").await, 100, "an event without a webhook was stored");
    scene.ends_unharmed().await;
}

#[tokio::test]
async fn an_event_for_a_thousand_webhooks_reaches_each_with_bounded_concurrency() {
    const WEBHOOKS: usize = 1_000;
    const AT_ONCE: usize = 20;
    const HELD: Duration = Duration::from_millis(25);
    let site = Site::new().await.set("worker.max_in_flight", &AT_ONCE.to_string());
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(200).after(HELD));
    let urls: Vec<String> = (0..WEBHOOKS).map(|n| receiver.url_at(&format!("/{n}"))).collect();
    let site = with_webhooks(site, &urls).await;
    let mut worker = site.worker().await;
    site.publish(ACCOUNT, TYPE, json!(MARKER)).await;
    let requests = receiver.wait_for(WEBHOOKS).await;
    let paths = requests.iter().map(|request| request.path.clone()).collect();
    super::same(paths, (0..WEBHOOKS).map(|n| format!("/{n}")).collect());
    assert!(most_at_once(&requests, HELD) <= AT_ONCE);
    let logged = async || site.count("SELECT count(*) FROM attempts").await == WEBHOOKS as i64;
    wait_until("each attempt is in the log", logged).await;
    // The ack follows the last row: a worker that is killed may not have sent it yet.
    worker.terminate();
    assert!(worker.wait().await.success());
    assert_eq!(site.queue_depth(site.worker_queue()).await, 0, "the event was not acked");
}

/// Registers webhooks for `TYPE` events of `ACCOUNT` with the product's own sealing: by command they would take minutes.
pub async fn with_webhooks(site: Site, urls: &[String]) -> Site {
    let keys = encryption_key("k1");
    let keyring = Keyring::parse(&keys).unwrap();
    let account_id = AccountId::parse(ACCOUNT).unwrap();
    let ids: Vec<Uuid> = urls.iter().map(|_| Uuid::new_v4()).collect();
    let seal = |id: &Uuid| {
        let (owner, secret) = (Owner { account_id: &account_id, webhook_id: WebhookId(*id) }, [7; 32]);
        keyring.seal(&SigningSecret::from_random(secret), owner, [0; 24])
    };
    let secrets: Vec<Vec<u8>> = ids.iter().map(seal).collect();
    let insert = "
        INSERT INTO webhooks (id, account_id, name, url, event_types, secret)
        SELECT id, $4, 'A test''s', url, ARRAY[$5], secret
        FROM unnest($1::uuid[], $2::text[], $3::bytea[]) AS w (id, url, secret)";
    site.sql().await.execute(insert, &[&ids, &urls, &secrets, &ACCOUNT, &TYPE]).await.unwrap();
    site.set("security.encryption_keys", &keys)
}

/// The number of requests that were certainly open at a time, if each got its answer after this delay.
fn most_at_once(requests: &[Arc<Request>], held: Duration) -> usize {
    let open_at = |request: &Arc<Request>| {
        let began = |other: &&Arc<Request>| other.at <= request.at && request.at < other.at + held;
        requests.iter().filter(began).count()
    };
    requests.iter().map(open_at).max().unwrap_or(0)
}
