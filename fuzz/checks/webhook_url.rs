//! Parses any text as a webhook's URL. The parser must not panic. An accepted URL must be accepted again unchanged, and its
//! host must be neither an address that the policy refuses nor a private name.

use std::net::IpAddr;

use penr_webhooks::webhook::{UrlPolicy, WebhookUrl};

/// Whether the text is an acceptable URL. Panics if the policy breaks its promise.
pub fn check(text: &[u8]) -> bool {
    let policy = UrlPolicy::default();
    let Ok(raw) = std::str::from_utf8(text) else { return false };
    let Ok(url) = WebhookUrl::parse(raw, &policy) else { return false };
    let again = WebhookUrl::parse(url.as_str(), &policy).expect("an accepted URL is accepted again");
    assert_eq!(again, url);
    let host = url.host();
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    assert!(address.is_none_or(|ip| policy.addresses.permits(ip)));
    let is_below = |name: &str| host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    assert!(!["localhost", "internal", "local"].into_iter().any(is_below));
    true
}
