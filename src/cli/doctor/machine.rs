//! The things that attempts need from this machine: name look-ups, a proxy, certificates, open files.

use super::{Check, Deadline, millis};
use crate::config::Settings;
use crate::error_chain;
use crate::sender::{Sender, ask_proxy, look_up, max_idle_connections};

/// A name that always exists: IANA has reserved it (RFC 2606).
const WELL_KNOWN_NAME: &str = "example.com";

/// Sockets that one name look-up uses.
const PER_LOOKUP: u64 = 2;

/// Open files for the broker's connections, the log, the operations address and the runtime.
const OTHER_FILES: u64 = 32;

pub(super) async fn dns(settings: &Settings, deadline: Deadline) -> Check {
    let lookup = look_up(&settings.sender, WELL_KNOWN_NAME);
    match deadline.answer(lookup).await {
        Ok(took) => Check::ok("dns", format!("{WELL_KNOWN_NAME} was looked up in {}", millis(took))),
        Err(error) => {
            let advice = "unless this machine is offline, correct /etc/resolv.conf or sender.dns_servers";
            Check::warns("dns", format!("{WELL_KNOWN_NAME}: {error}"), advice)
        }
    }
}

/// Other software takes its proxies from these variables; this program does not.
const PROXY_VARIABLES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

pub(super) async fn proxy(settings: &Settings, deadline: Deadline) -> Check {
    let given = |name: &&&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let ignored: Vec<&str> = PROXY_VARIABLES.iter().filter(given).copied().collect();
    let ignored = (!ignored.is_empty()).then(|| format!("; {} is not read", ignored.join(", ")));
    let noted = ignored.clone().unwrap_or_default();
    let Some(proxy) = &settings.sender.proxy else {
        let detail = format!("requests go out directly{noted}");
        return match ignored {
            None => Check::ok("proxy", detail),
            Some(_) => Check::warns("proxy", detail, "set sender.proxy if receivers can only be reached through it"),
        };
    };
    match deadline.answer(ask_proxy(&settings.sender, WELL_KNOWN_NAME)).await {
        Ok(took) => Check::ok("proxy", format!("{} answered in {}{noted}", proxy.url, millis(took))),
        Err(error) => {
            let advice = "correct sender.proxy or sender.proxy_credentials: nothing is delivered without";
            Check::fails("proxy", format!("{}: {error}{noted}", proxy.url), advice)
        }
    }
}

pub(super) fn certificates(settings: &Settings) -> Check {
    match Sender::new(&settings.sender) {
        Ok(_) => Check::ok("certificates", "there are CA certificates to trust"),
        Err(error) => Check::fails("certificates", error_chain(&error), "workers do not start without"),
    }
}

pub(super) fn open_files(settings: &Settings) -> Check {
    // A worker raises the soft limit itself.
    let Ok((_, limit)) = rlimit::Resource::NOFILE.get() else {
        let needed = needed_files(settings, 0);
        return Check::ok("open_files", format!("a busy worker needs about {needed}; the limit is not known here"));
    };
    let needed = needed_files(settings, limit);
    let detail = format!("{limit} allowed here, a busy worker needs about {needed}");
    if limit < needed {
        // The number needed grows with the limit: more idle connections are kept then.
        let enough = (0..u64::BITS).map(|bits| 1 << bits).find(|limit| *limit >= needed_files(settings, *limit));
        let enough = enough.unwrap_or(needed);
        let advice = format!("raise the limit to {enough} (ulimit -Hn, LimitNOFILE=, --ulimit nofile)");
        return match limit < least_files(settings) {
            true => Check::fails("open_files", detail, format!("{advice}, or lower worker.max_in_flight")),
            false => Check::warns("open_files", detail, advice),
        };
    }
    Check::ok("open_files", detail)
}

/// The open files without which attempts fail: one for each request in flight, one more for each name look-up, the database's
/// connections and the others.
fn least_files(settings: &Settings) -> u64 {
    let in_flight = settings.worker.max_in_flight;
    let lookups = settings.sender.max_dns_lookups.min(in_flight);
    (in_flight + lookups + settings.database.pool_size) as u64 + OTHER_FILES
}

/// The open files that a busy worker uses: requests in flight, name look-ups, idle connections, the database's connections
/// and the others.
fn needed_files(settings: &Settings, limit: u64) -> u64 {
    let (sender, in_flight) = (&settings.sender, settings.worker.max_in_flight);
    let lookups = sender.max_dns_lookups.min(in_flight);
    let files = in_flight + max_idle_connections(sender, limit) + settings.database.pool_size;
    files as u64 + PER_LOOKUP * lookups as u64 + OTHER_FILES
}
