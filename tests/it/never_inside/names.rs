//! A name with one forbidden address is refused. It is resolved and checked again at every attempt.

use super::canary::Canary;
use crate::support::{Configure, LoggedAttempt, NameServer, Receiver, Reply, Says, Site, Webhook};

/// Permitted, but never called: it is always part of an answer with a forbidden address.
const PUBLIC: &str = "93.184.216.34";

async fn asking(names: &NameServer) -> Site {
    let servers = format!("[\"{}\"]", names.address());
    Site::new().await.set("sender.dns_servers", &servers).set("retry.schedule", r#"["20ms", "1h"]"#)
}

async fn named(site: &Site, name: &str, port: u16) -> Webhook {
    let url = format!("http://{name}:{port}/{name}");
    site.create_webhook("acc_1", &url, &["content.created"]).await
}

/// The outcomes of the first attempts; further ones may follow at any time.
async fn verdicts(site: &Site, webhook: &Webhook, count: usize) -> Vec<String> {
    site.wait_for_attempts(webhook, count).await.iter().take(count).map(LoggedAttempt::verdict).collect()
}

/// What the name server answers for [`SPOILT`] names, all of which have an address that must not be called.
fn spoilt(name: &str) -> Says {
    match name.split('.').next() {
        Some("private") => Says::addresses(&["127.0.0.2"]),
        Some("mixed") => Says::addresses(&[PUBLIC, "127.0.0.2"]),
        Some("mixed-other-way") => Says::addresses(&["127.0.0.2", PUBLIC]),
        Some("allowed-and-not") => Says::addresses(&["127.0.0.1", "127.0.0.2"]),
        Some("families") => Says::addresses(&[PUBLIC, "::1"]),
        Some("families-other-way") => Says::addresses(&["2606:4700:4700::1111", "127.0.0.2"]),
        Some("mapped") => Says::addresses(&["::ffff:127.0.0.2"]),
        Some("compatible") => Says::addresses(&["::127.0.0.2"]),
        Some("translated") => Says::addresses(&["64:ff9b::7f00:2"]),
        Some("translated-allowed") => Says::addresses(&["64:ff9b::7f00:1"]),
        Some("translated-metadata") => Says::addresses(&["64:ff9b::a9fe:a9fe"]),
        Some("translated-beside") => Says::addresses(&["127.0.0.1", "64:ff9b::7f00:2"]),
        Some("translated-elsewhere") => Says::addresses(&["64:ff9b:1::808:808"]),
        Some("tunnelled") => Says::addresses(&["2002:808:808::1"]),
        Some("nowhere") => Says::addresses(&["0.0.0.0"]),
        Some("alias") => Says::alias("inside.example.net."),
        Some("alias-of-alias") => Says::alias("alias.example.com."),
        Some("elsewhere") => Says::addresses(&["127.8.8.8"]),
        _ => Says::addresses(&["127.0.0.2"]),
    }
}

const SPOILT: [&str; 18] = [
    "private",
    "mixed",
    "mixed-other-way",
    "allowed-and-not",
    "families",
    "families-other-way",
    "mapped",
    "compatible",
    "translated",
    "translated-allowed",
    "translated-metadata",
    "translated-beside",
    "translated-elsewhere",
    "tunnelled",
    "nowhere",
    "alias",
    "alias-of-alias",
    "elsewhere",
];

#[tokio::test]
async fn a_name_with_one_address_inside_is_not_called_at_all() {
    let names = NameServer::start(|name, _| spoilt(name)).await;
    let site = asking(&names).await;
    let (beside, inside) = (Canary::beside().await, Canary::inside().await);
    let mut webhooks = Vec::new();
    for name in SPOILT {
        let allowed = ["allowed-and-not", "translated-allowed", "translated-beside"].contains(&name);
        let port = if allowed { beside.port() } else { inside.port() };
        webhooks.push((name, named(&site, &format!("{name}.example.com"), port).await));
    }
    let worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    for (name, webhook) in &webhooks {
        assert_eq!(verdicts(&site, webhook, 2).await, ["blocked_address", "blocked_address"], "{name}");
    }
    beside.assert_untouched().await;
    inside.assert_untouched().await;
    let log = worker.log();
    assert!(!log.contains("127.0.0.2") && !log.contains(PUBLIC), "no address of a customer's name is logged");
}

#[tokio::test]
async fn hosts_that_the_operator_names_are_called_at_permitted_addresses_alone() {
    let names = NameServer::start(|name, _| match name {
        "receiver." | "blog.hooks.svc.cluster.local." => Says::addresses(&["127.0.0.1"]),
        _ => Says::addresses(&["127.0.0.2"]),
    })
    .await;
    let hosts = r#"["Receiver", "*.hooks.svc.cluster.local", "inside.internal"]"#;
    let site = asking(&names).await.set("sender.allow_hosts", hosts);
    let (receiver, inside) = (Receiver::start().await, Canary::inside().await);
    let port = receiver.address().port();
    let called = [named(&site, "receiver", port).await, named(&site, "blog.hooks.svc.cluster.local", port).await];
    let blocked = named(&site, "inside.internal", inside.port()).await;
    for host in ["receiver2", "other.internal", "a.blog.hooks.svc.cluster.local", "hooks.svc.cluster.local"] {
        let complaint = super::urls::refusal(&site, &format!("http://{host}:{port}/")).await;
        assert!(!complaint.contains("allow_hosts"), "customers cannot change settings: {complaint}");
    }
    assert!(!super::urls::refusal(&site, "http://receiver:5432/").await.is_empty());
    let dropped = named(&site, "receiver", inside.port()).await;
    let _worker = site.worker().await;
    super::urls::smuggle(&site, &dropped, &format!("http://dropped.internal:{}/", inside.port())).await;
    site.publish("acc_1", "content.created", 1.into()).await;
    for webhook in &called {
        assert_eq!(verdicts(&site, webhook, 1).await, ["ok 200"], "{}", webhook.url);
    }
    assert_eq!(verdicts(&site, &blocked, 1).await, ["blocked_address"]);
    assert_eq!(verdicts(&site, &dropped, 1).await, ["invalid_url"], "sender.allow_hosts no longer names the host");
    inside.assert_untouched().await;
}

#[tokio::test]
async fn a_name_that_moves_inside_after_its_first_delivery_is_not_followed() {
    let names = NameServer::start(|_, asked| {
        Says::addresses(if asked == 0 { &["127.0.0.1"] } else { &["127.0.0.2"] }).with_ttl(0)
    })
    .await;
    let site = asking(&names).await;
    let receiver = Receiver::start().await;
    receiver.always(Reply::status(500).then_close());
    let inside = Canary::inside().await;
    let same_port = Canary::at("127.0.0.2", receiver.address().port()).await;
    let webhook = named(&site, "rebinding.example.com", receiver.address().port()).await;
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    assert_eq!(verdicts(&site, &webhook, 2).await, ["http_status 500", "blocked_address"]);
    assert_eq!(receiver.count(), 1);
    inside.assert_untouched().await;
    same_port.assert_untouched().await;
}

#[tokio::test]
async fn a_name_is_asked_for_once_per_connection_and_its_first_answer_counts() {
    // A worker that resolved the name again between check and connection would connect to the canary.
    let names = NameServer::start(|name, asked| {
        let fresh = asked == 0 || name.starts_with("steady");
        Says::addresses(if fresh { &["127.0.0.1"] } else { &["127.0.0.2"] }).with_ttl(0)
    })
    .await;
    let site = asking(&names).await;
    let receiver = Receiver::start().await;
    let port = receiver.address().port();
    let canary = Canary::at("127.0.0.2", port).await;
    let rebinding = named(&site, "rebinding.example.com", port).await;
    let steady = named(&site, "steady.example.com", port).await;
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    assert_eq!(verdicts(&site, &rebinding, 1).await, ["ok 200"]);
    assert_eq!(verdicts(&site, &steady, 1).await, ["ok 200"]);
    assert_eq!(receiver.requests_at("/steady.example.com")[0].header("host"), format!("steady.example.com:{port}"));
    canary.assert_untouched().await;
}

#[tokio::test]
async fn a_denied_address_is_refused_behind_a_name_too() {
    let names = NameServer::start(|_, _| Says::addresses(&["127.0.0.1"])).await;
    let site = asking(&names).await.set("sender.deny_networks", r#"["127.0.0.1/32"]"#);
    let canary = Canary::beside().await;
    let webhook = named(&site, "denied.example.com", canary.port()).await;
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    assert_eq!(verdicts(&site, &webhook, 1).await, ["blocked_address"]);
    canary.assert_untouched().await;
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_a_dns_failure_and_holds_nobody_up() {
    let names = NameServer::start(|name, _| match name.split('.').next() {
        Some("missing") => Says::no_such_name(),
        Some("empty") => Says::addresses(&[]),
        Some("refused") => Says::refused(),
        Some("loop") => Says::alias("loop.example.com."),
        Some("silent") => Says::silence(),
        _ => Says::addresses(&["127.0.0.1"]),
    })
    .await;
    let site = asking(&names).await;
    let receiver = Receiver::start().await;
    let port = receiver.address().port();
    let mut failing = Vec::new();
    for name in ["missing", "empty", "refused", "loop", "silent"] {
        failing.push((name, named(&site, &format!("{name}.example.com"), port).await));
    }
    let good = named(&site, "good.example.com", port).await;
    let literal = site.create_webhook("acc_1", &receiver.url(), &["content.created"]).await;
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    for webhook in [&good, &literal] {
        assert_eq!(verdicts(&site, webhook, 1).await, ["ok 200"]);
    }
    for (name, webhook) in &failing {
        assert_eq!(verdicts(&site, webhook, 2).await, ["dns", "dns"], "{name}");
    }
    let (_, silent) = failing.last().expect("there are some");
    let took = format!("SELECT max(duration_ms)::bigint FROM attempts WHERE webhook_id = '{}'", silent.id);
    assert!(site.count(&took).await < 10_000, "far more than the time of an attempt");
    // The end of an attempt. An attempt that had waited for the silent name would have ended after that.
    let last = "SELECT max(created_at + duration_ms * interval '1 ms') FROM attempts WHERE error IS NULL";
    let silent = format!(
        "SELECT min(created_at + duration_ms * interval '1 ms') FROM attempts WHERE webhook_id = '{}'",
        silent.id
    );
    assert_eq!(site.count(&format!("SELECT (({last}) < ({silent}))::int::bigint")).await, 1, "they waited for it");
    assert_eq!(receiver.count(), 2);
}

#[tokio::test]
async fn one_blocked_address_looks_like_another_and_is_tried_on_the_schedule_alone() {
    let names = NameServer::start(|name, _| spoilt(name)).await;
    let site = asking(&names).await.set("retry.schedule", r#"["1h", "1h"]"#).set("retry.jitter", "0.0");
    let open = Canary::inside().await;
    let mut webhooks = Vec::new();
    for name in ["private", "mixed", "elsewhere", "alias", "nowhere", "families"] {
        webhooks.push(named(&site, &format!("{name}.example.com"), open.port()).await);
        // Nothing listens there: a connection would be refused.
        webhooks.push(named(&site, &format!("{name}.example.com"), 1024).await);
    }
    for url in
        [open.url(), "http://127.0.0.2:1024/".to_owned(), "http://127.8.8.8/".to_owned(), "http://[::1]/".to_owned()]
    {
        let webhook = site.create_webhook("acc_1", "http://127.0.0.1:1024/", &["content.created"]).await;
        super::urls::smuggle(&site, &webhook, &url).await;
        webhooks.push(webhook);
    }
    let _worker = site.worker().await;
    site.publish("acc_1", "content.created", 1.into()).await;
    for webhook in &webhooks {
        let mut attempts = site.wait_for_attempts(webhook, 1).await;
        let wait = attempts[0].wait_seconds.take().expect("it is tried again");
        assert!((3600.0..3700.0).contains(&wait), "{wait}");
        let expected = LoggedAttempt {
            attempt: 1,
            trigger: "event".to_owned(),
            http_status: None,
            error: Some("blocked_address".to_owned()),
            detail: None,
            snippet: None,
            wait_seconds: None,
        };
        assert_eq!(attempts, [expected], "{}", webhook.url);
    }
    open.assert_untouched().await;
}
