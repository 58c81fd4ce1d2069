//! What attempts need from this machine: names, certificates, files.

use super::{Check, Deadline, millis};
use crate::config::Settings;
use crate::error_chain;
use crate::sender::{Sender, look_up};

/// Always there: reserved by IANA (RFC 2606).
const WELL_KNOWN_NAME: &str = "example.com";

/// Sockets of one lookup.
const PER_LOOKUP: u64 = 2;

/// The broker's connections, the log, the operations address, the runtime itself.
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

pub(super) fn certificates(settings: &Settings) -> Check {
    match Sender::new(&settings.sender) {
        Ok(_) => Check::ok("certificates", "there are CA certificates to trust"),
        Err(error) => Check::fails("certificates", error_chain(&error), "workers do not start without"),
    }
}

pub(super) fn open_files(settings: &Settings) -> Check {
    let needed = needed_files(settings);
    // A worker raises the soft limit itself.
    let Ok((_, limit)) = rlimit::Resource::NOFILE.get() else {
        return Check::ok("open_files", format!("a busy worker needs about {needed}; the limit is not known here"));
    };
    let detail = format!("{limit} allowed here, a busy worker needs about {needed}");
    if limit < needed {
        let advice =
            format!("raise the limit to {} (ulimit -Hn, LimitNOFILE=, --ulimit nofile)", needed.next_power_of_two());
        return Check::warns("open_files", detail, advice);
    }
    Check::ok("open_files", detail)
}

/// Requests in flight and the names they wait for, connections kept to one busy receiver, and the database's.
fn needed_files(settings: &Settings) -> u64 {
    let (sender, in_flight) = (&settings.sender, settings.worker.max_in_flight);
    let lookups = sender.max_dns_lookups.min(in_flight);
    let files = in_flight + sender.idle_connections_per_host + settings.database.pool_size;
    files as u64 + PER_LOOKUP * lookups as u64 + OTHER_FILES
}
