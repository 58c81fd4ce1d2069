//! What a failed attempt means and what to do about it, in one table that the page, the command line and the documentation
//! share. Pure. None of its texts repeats what a receiver sent.

use crate::delivery::ErrorDetail;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Advice {
    /// What the row is about: an `error_detail` or, for an attempt without one, an `error`.
    pub(crate) cause: &'static str,
    /// What happened, as a sentence.
    pub(crate) meaning: &'static str,
    /// What to do, as a sentence or two.
    pub(crate) cure: &'static str,
}

const fn row(cause: &'static str, meaning: &'static str, cure: &'static str) -> Advice {
    Advice { cause, meaning, cure }
}

/// For attempts without an answer: first by `error_detail`, then by `error`, for attempts whose cause is not known.
pub(crate) const CAUSES: [Advice; 26] = [
    row(
        "dns_not_found",
        "The host name does not exist, or has no address.",
        "Check its spelling in the URL, and its DNS records (A or AAAA).",
    ),
    row(
        "dns_failed",
        "The name servers of the host name failed.",
        "Check that they answer for this name: an expired domain or a broken DNSSEC signature looks like this.",
    ),
    row(
        "dns_timeout",
        "The name servers of the host name did not answer in time.",
        "Check that all of them run, and that they are the ones that the domain names.",
    ),
    row(
        "refused",
        "The server refused the connection: nothing listens at this port.",
        "Check that the server runs, and that the URL has its port.",
    ),
    row(
        "unreachable",
        "There is no route to the server's address.",
        "Check the host's DNS records: an AAAA record for a server without IPv6 looks like this.",
    ),
    row(
        "connect_timeout",
        "No connection came about in time.",
        "A firewall may be dropping our packets: open the port for our addresses (GET /v1/sending-addresses lists them), and check that the server is not overloaded.",
    ),
    row(
        "not_tls",
        "The server does not speak TLS at this port.",
        "Save the URL with the port of HTTPS, usually 443, or switch TLS on at this one.",
    ),
    row("http2_only", "The server takes HTTP/2 alone.", "Let it take HTTP/1.1 as well (ALPN http/1.1)."),
    row(
        "no_common_cipher",
        "The server and we have no TLS version or cipher in common.",
        "Offer TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20.",
    ),
    row(
        "certificate_expired",
        "The server's certificate has expired.",
        "Renew it, and have the server load the new one.",
    ),
    row(
        "certificate_name",
        "The server's certificate is for other hosts.",
        "Have it issued for the host of the URL, or save the URL with a host that it names.",
    ),
    row(
        "certificate_issuer",
        "The server's certificate is not signed by an authority that we trust.",
        "Send the intermediate certificates along with it, and use no self-signed one.",
    ),
    row(
        "certificate_other",
        "The server's certificate is not valid.",
        "It may be revoked, not valid yet, too old in form or signed by an old algorithm: have it issued again.",
    ),
    row(
        "tls_other",
        "The TLS handshake failed.",
        "Look at the server's log for this time; a server that demands a certificate of its clients cannot be called.",
    ),
    row("response_timeout", "No answer came in time.", "Answer with a 2xx status first and do the work afterwards."),
    row(
        "closed_early",
        "The connection ended before the answer.",
        "Look at the receiver's log for this time: it may have crashed or been restarted, or a proxy before it gave up.",
    ),
    row(
        "not_http",
        "The answer was not valid HTTP/1.1.",
        "Check that an HTTP server listens at this port, and that http and https are not mixed up in the URL.",
    ),
    row(
        "protocol_other",
        "The answer could not be used.",
        "Look at its headers: too many of them, or very long ones, are refused.",
    ),
    row(
        "blocked_address",
        "The host leads to an address that may not be called.",
        "Use one that is reachable from the public internet.",
    ),
    row("invalid_url", "The URL is not accepted any more.", "Save another one in the settings."),
    row("dns", "The host name could not be resolved.", "Check its spelling in the URL, and its DNS records."),
    row(
        "connect",
        "No connection could be made.",
        "Check that the server runs, its port is open, and no firewall keeps us out.",
    ),
    row(
        "tls",
        "No secure connection could be made.",
        "Check that the certificate is valid, covers this host, and comes with its intermediates.",
    ),
    row("timeout", "No answer came in time.", "Answer with a 2xx status first and do the work afterwards."),
    row(
        "protocol",
        "The answer was not valid HTTP.",
        "Check that an HTTP server, and nothing else, listens at this port.",
    ),
    row("internal", "Something failed on our side.", "Nothing for you to do: it will be repeated."),
];

/// What to do after an answer with another status than 2xx, by status, by class of statuses (`3xx`), and for all others.
pub(crate) const STATUSES: [(&str, &str); 13] = [
    ("3xx", "Redirects are not followed: save the final address as the URL."),
    ("400", "Often the receiver verifies the parsed body instead of the raw bytes."),
    ("401", "Let us in without a login, and verify the signature instead."),
    (
        "403",
        "Bot protection or a firewall may have refused us: let requests with the User-Agent penr-webhooks pass. Do not ask for a \
         login; verify the signature instead.",
    ),
    ("404", "There is nothing at this path: check the URL."),
    ("405", "This path takes no POST requests: check the URL."),
    ("410", "It wants nothing any more; this answer to a delivery disables the webhook."),
    ("413", "The receiver takes no body of this size: raise the limit of it and of the proxies before it."),
    ("415", "The receiver takes no application/json: let it take that content type at this path."),
    (
        "422",
        "The receiver read the body and refused what is in it: look at its answer, and let it accept events it does not need.",
    ),
    ("429", "The receiver wants fewer requests: raise its limit, or answer with Retry-After."),
    ("5xx", "The receiver failed: look at its own log for this time."),
    ("other", "Answer with 200 to 299 once the event is accepted."),
];

/// What a failed attempt means and what to do, as sentences. `None` after a success.
pub(crate) fn sentences(error: Option<&str>, detail: Option<ErrorDetail>, status: Option<i32>) -> Option<String> {
    let error = error?;
    let of = |cause: &str| CAUSES.iter().find(|row| row.cause == cause);
    if let Some(row) = detail.and_then(|detail| of(detail.as_str())).or_else(|| of(error)) {
        return Some(format!("{} {}", row.meaning, row.cure));
    }
    let status = status?;
    let names = [status.to_string(), format!("{}xx", status / 100), "other".to_owned()];
    let cure = names.iter().find_map(|name| STATUSES.iter().find(|(status, _)| status == name));
    cure.map(|(_, cure)| format!("The receiver answered {status} instead of a 2xx status. {cure}"))
}

/// The table as a module for the page.
pub(crate) fn page_module() -> String {
    let causes: serde_json::Map<_, _> =
        CAUSES.iter().map(|row| (row.cause.to_owned(), [row.meaning, row.cure].into_iter().collect())).collect();
    let statuses: serde_json::Map<_, _> =
        STATUSES.iter().map(|(status, cure)| ((*status).to_owned(), (*cure).into())).collect();
    let (causes, statuses) = (serde_json::Value::Object(causes), serde_json::Value::Object(statuses));
    format!("// Made from src/advice.rs.\nexport const CAUSES = {causes};\nexport const STATUSES = {statuses};\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two tables of `docs/receiving.md`.
    fn documented() -> [String; 2] {
        use std::fmt::Write as _;
        let mut causes = "| `error` | `error_detail` | what happened | what to do |\n|---|---|---|---|\n".to_owned();
        for Advice { cause, meaning, cure } in CAUSES {
            let (error, detail) = match ErrorDetail::from_name(cause) {
                Some(detail) => (detail.phase().as_str(), format!("`{cause}`")),
                None => (cause, "null".to_owned()),
            };
            let cure = cure.replace("our addresses", "[our addresses](#our-addresses)");
            writeln!(causes, "| `{error}` | {detail} | {meaning} | {cure} |").unwrap();
        }
        let mut statuses = "| status | what to do |\n|---|---|\n".to_owned();
        for (status, cure) in STATUSES {
            writeln!(statuses, "| {status} | {cure} |").unwrap();
        }
        [causes, statuses]
    }

    #[test]
    fn the_documentation_has_the_same_tables() {
        let document = include_str!("../docs/receiving.md");
        for table in documented() {
            assert!(document.contains(&table), "put this into docs/receiving.md:\n\n{table}");
        }
    }

    #[test]
    fn every_cause_has_advice_of_its_own() {
        for detail in ErrorDetail::ALL {
            let error = Some(detail.phase().as_str());
            let own = sentences(error, Some(detail), None).unwrap();
            assert!(CAUSES.iter().any(|row| row.cause == detail.as_str() && own.starts_with(row.meaning)), "{own}");
            assert!(sentences(error, None, None).is_some(), "{error:?} without a detail");
        }
    }

    #[test]
    fn a_status_has_its_own_advice_or_that_of_its_class() {
        let cure = |status| sentences(Some("http_status"), None, Some(status)).unwrap();
        assert!(cure(403).contains("User-Agent penr-webhooks"), "{}", cure(403));
        for (status, part) in [(307, "Redirects"), (415, "content type"), (503, "own log"), (418, "200 to 299")] {
            assert!(cure(status).contains(part), "{}", cure(status));
        }
        assert_eq!(sentences(None, None, Some(200)), None);
    }
}
