//! Decides which DNS names a webhook may have as its host. Pure.

use super::UrlRefusal;

/// RFC 1035, 2.3.4. The final dot does not count.
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Top-level names that never belong to a public host. `.example` is missing because RFC 6761 (6.5) asks software not
/// to treat it specially: it resolves to nothing.
const PRIVATE_TOP_LEVELS: &[&str] = &[
    "alt",         // RFC 9476
    "arpa",        // RFC 3172: infrastructure only; home.arpa (RFC 8375) lies below it
    "corp",        // RFC 6762, appendix G; withheld by ICANN for collisions, 2018
    "home",        // as `corp`
    "internal",    // reserved by ICANN for private use, 2024: cloud metadata
    "intranet",    // RFC 6762, appendix G
    "invalid",     // RFC 6761, 6.4
    "lan",         // RFC 6762, appendix G
    "local",       // RFC 6762: mDNS, and Kubernetes' cluster.local
    "localdomain", // written into /etc/hosts by installers
    "localhost",   // RFC 6761, 6.3
    "mail",        // withheld by ICANN for collisions, 2018
    "onion",       // RFC 7686
    "private",     // RFC 6762, appendix G
    "test",        // RFC 6761, 6.2
];

/// Accepts a name of two or more labels below a public top level.
///
/// `name` is in lower case, has no final dot and does not end in a number: the URL parser turns such a name into an IPv4
/// address or refuses it.
pub(super) fn check_public(name: &str) -> Result<(), UrlRefusal> {
    let top_level = name.rsplit('.').next().unwrap_or(name);
    if PRIVATE_TOP_LEVELS.contains(&top_level) {
        return Err(UrlRefusal::PrivateName);
    }
    if name.contains('.') { check_syntax(name) } else { Err(UrlRefusal::Host) }
}

/// Accepts every name that a host can have. `name` has no final dot.
pub(super) fn check_syntax(name: &str) -> Result<(), UrlRefusal> {
    if is_name(name) { Ok(()) } else { Err(UrlRefusal::Host) }
}

/// Whether a host can have this name. `name` has no final dot.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label)
}

/// RFC 1123, 2.1, and the underscore, which real hosts have.
fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
