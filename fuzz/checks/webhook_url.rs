//! Whatever a customer types as a URL: no panic. A URL that is accepted is accepted again unchanged, and its host is neither a
//! refused address nor a private name.

use penr_webhooks::webhook::{UrlPolicy, WebhookUrl};

/// Whether the text is an acceptable URL. Panics if the policy breaks its promise.
pub fn check(text: &[u8]) -> bool {
    let policy = UrlPolicy::default();
    let Ok(raw) = std::str::from_utf8(text) else { return false };
    let Ok(url) = WebhookUrl::parse(raw, &policy) else { return false };
    let again = WebhookUrl::parse(url.as_str(), &policy).expect("an accepted URL is accepted again");
    assert_eq!(again, url);
    assert!(url.ip().is_none_or(|ip| policy.addresses.permits(ip)));
    let is_below = |name: &str| url.host().strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    assert!(!["localhost", "internal", "local"].into_iter().any(is_below));
    true
}
