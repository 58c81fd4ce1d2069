//! The log tells apart why a name gave no address.

use super::stage::{Row, Stage};
use crate::support::{Configure, NameServer, Says, Site};

#[tokio::test]
async fn names_that_give_no_address_are_told_apart() {
    let names = NameServer::start(|name, _| match name.split('.').next() {
        Some("unknown") => Says::no_such_name(),
        Some("empty") => Says::addresses(&[]),
        Some("failing") => Says::failed(),
        Some("refusing") => Says::refused(),
        Some("mute") => Says::silence(),
        _ => Says::addresses(&["127.0.0.1"]),
    })
    .await;
    let site = Site::new().await.set("sender.dns_servers", &format!("[\"{}\"]", names.address()));
    let stage = Stage::open(site).await;
    let row =
        |name: &str, verdict: &'static str| Row::at_url(name, format!("https://{name}.example.com/hook"), verdict);
    stage
        .play(vec![
            row("unknown", "dns dns_not_found"),
            row("empty", "dns dns_not_found"),
            row("failing", "dns dns_failed"),
            row("refusing", "dns dns_failed"),
            row("mute", "dns dns_timeout"),
        ])
        .await;
    stage.close().await;
}
