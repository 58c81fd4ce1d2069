//! Whatever a customer types: no panic; what is accepted is accepted again unchanged and names no refused address.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penr_webhooks::webhook::{UrlPolicy, WebhookUrl};

fuzz_target!(|raw: &str| {
    let policy = UrlPolicy::default();
    let Ok(url) = WebhookUrl::parse(raw, &policy) else { return };
    let again = WebhookUrl::parse(url.as_str(), &policy).expect("an accepted URL is accepted again");
    assert_eq!(again, url);
    assert!(url.ip().is_none_or(|ip| policy.addresses.permits(ip)));
    let host = url.host();
    assert!(!host.ends_with("localhost") && !host.ends_with(".internal") && !host.ends_with(".local"));
});
