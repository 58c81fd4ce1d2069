//! Missing settings, and those that are less safe than production should be. Settings that no process would start with were
//! refused before.

use super::Check;
use crate::cli::CONFIG_FILE;
use crate::config::Settings;

pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    vec![
        present(settings),
        published_keys(settings),
        private_networks(settings),
        private_hosts(settings),
        https(settings),
        retries(settings),
        shutdown(settings),
    ]
}

fn present(settings: &Settings) -> Check {
    // A published key has a check of its own.
    let keyring = settings.keyring().err().filter(|_| settings.keyring.is_none());
    let needed = [settings.database_url().err(), settings.amqp_url().err(), keyring];
    let missing: Vec<String> = needed.iter().flatten().map(ToString::to_string).collect();
    if missing.is_empty() {
        let file = std::env::var(CONFIG_FILE);
        let file = file.map_or_else(|_| "no file".to_owned(), |path| format!("the file {path}"));
        return Check::ok("settings", format!("loaded from {file} and the environment"));
    }
    Check::fails("settings", missing.join("; "), "workers do not start without")
}

fn published_keys(settings: &Settings) -> Check {
    let found: Vec<String> = settings.published_keys.found().map(ToString::to_string).collect();
    if found.is_empty() {
        return Check::ok("published_keys", "no key is set that is published");
    }
    Check::fails("published_keys", found.join("; "), "until then anybody can act for every account")
}

fn private_networks(settings: &Settings) -> Check {
    let networks = settings.sender.urls.addresses.allowed();
    if networks.is_empty() {
        return Check::ok("private_networks", "no webhook can call an address that is not public");
    }
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let detail = format!("sender.allow_networks lets webhooks call {}", networks.join(", "));
    Check::warns("private_networks", detail, "allow only what holds no service of your own")
}

fn private_hosts(settings: &Settings) -> Check {
    let hosts: Vec<String> = settings.sender.urls.allowed_hosts.iter().map(|host| host.to_string()).collect();
    if hosts.is_empty() {
        return Check::ok("private_hosts", "webhooks can name public hosts alone");
    }
    let detail = format!("sender.allow_hosts lets every account register webhooks at {}", hosts.join(", "));
    Check::warns("private_hosts", detail, "name only receivers that may get requests of any account")
}

fn https(settings: &Settings) -> Check {
    if settings.sender.urls.require_https {
        return Check::ok("https", "http:// URLs are refused");
    }
    Check::warns(
        "https",
        "webhooks may have http:// URLs, which anybody on the way can read",
        "set sender.require_https",
    )
}

fn retries(settings: &Settings) -> Check {
    let waits = settings.retry.schedule.len();
    if waits == 0 {
        return Check::warns("retries", "retry.schedule is empty: nothing is tried again", "give it some waits");
    }
    let total = settings.retry.schedule.iter().sum();
    Check::ok("retries", format!("{} attempts within {}", waits + 1, humantime::format_duration(total)))
}

fn shutdown(settings: &Settings) -> Check {
    let (grace, timeout) = (settings.shutdown_grace, settings.sender.timeout);
    let shown = |duration| humantime::format_duration(duration).to_string();
    if grace < timeout {
        let detail = format!("shutdown.grace is {}, an attempt may take {}", shown(grace), shown(timeout));
        return Check::warns("shutdown", detail, "make it longer, or every stop repeats attempts");
    }
    let (drain, request) = (settings.api.drain_delay, settings.api.limits.request_timeout);
    let left = grace.saturating_sub(drain);
    if left < request {
        let detail = format!(
            "behind api.drain_delay ({}) an API has {} of shutdown.grace, a request may take {}",
            shown(drain),
            shown(left),
            shown(request)
        );
        return Check::warns("shutdown", detail, "make shutdown.grace longer, or a stop cuts requests that are slow");
    }
    Check::ok("shutdown", format!("what is in flight at a stop has {} to finish", shown(grace)))
}
