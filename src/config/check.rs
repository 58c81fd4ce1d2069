//! Checks the settings as a whole, so that nothing unusable or unsafe starts.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;

use super::layers::Layers;
use super::{Api, ConfigError, EgressProxy, PublishedKeys, Raw, RawEventType, RawSender, Sender, Settings, listen};
use crate::address::NAT64;
use crate::event::{Catalogue, CatalogueEntry};
use crate::ids::EventType;
use crate::retry::RetryPolicy;
use crate::secret::{Keyring, SecretText, is_published_text};
use crate::token::Tokens;
use crate::webhook::AllowedHosts;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MIB: usize = 1024 * 1024;

pub(super) fn settings(mut raw: Raw, layers: &Layers) -> Result<Settings, ConfigError> {
    let check = Check(layers);
    check.numbers(&raw)?;
    check.durations(&raw)?;
    check.schedule(&raw)?;
    check.networks(&raw)?;
    let allowed_hosts = check.hosts(&raw)?;
    check.names(&raw)?;
    check.filter(&raw)?;
    let catalogue = check.catalogue(&raw)?;
    let keyring = check.keyring(&raw.security.encryption_keys)?;
    let tokens = check.tokens(&raw)?;
    let published_keys = check.published(&raw, keyring.as_ref(), tokens.as_ref());
    let proxy = check.proxy(&raw.sender)?;
    let ops_listen = check.listen("ops.listen", &raw.ops.listen)?;
    let api_listen = check.listen("api.listen", &raw.api.listen)?;
    check.origins("api.cors_origins", &raw.api.cors_origins)?;
    check.origins("api.frame_ancestors", &raw.api.frame_ancestors)?;
    super::password::complete(&mut raw, layers)?;
    Ok(Settings {
        events: raw.event_parser(catalogue),
        retry: RetryPolicy {
            schedule: raw.retry.schedule.clone(),
            jitter: raw.retry.jitter,
            max_retry_after: raw.retry.max_retry_after,
            internal_delay: raw.retry.internal_delay,
        },
        sender: Sender {
            timeout: raw.sender.timeout,
            body_timeout: raw.sender.body_timeout,
            max_body_bytes: raw.sender.max_body_bytes,
            idle_connections_per_host: raw.sender.idle_connections_per_host,
            max_idle_connections: raw.sender.max_idle_connections,
            idle_timeout: raw.sender.idle_timeout,
            max_connection_age: raw.sender.max_connection_age,
            dns_timeout: raw.sender.dns_timeout,
            max_dns_lookups: raw.sender.max_dns_lookups,
            dns_servers: raw.sender.dns_servers.clone(),
            proxy,
            urls: raw.url_policy(allowed_hosts),
        },
        database: raw.database,
        amqp: raw.amqp,
        queue: raw.queue,
        worker: raw.worker,
        health: raw.health,
        recover: raw.recover,
        retention: raw.retention,
        shutdown_grace: raw.shutdown.grace,
        ops_listen,
        api: Api {
            listen: api_listen,
            drain_delay: raw.api.drain_delay,
            tokens,
            limits: raw.api.limits,
            database_timeout: raw.api.database_timeout,
            cors_origins: raw.api.cors_origins,
            frame_ancestors: raw.api.frame_ancestors,
        },
        keyring,
        published_keys,
        log: raw.log,
    })
}

/// Names a setting by the place where the operator gave it.
struct Check<'a>(&'a Layers);

impl Check<'_> {
    fn refuse<T>(&self, setting: &str, problem: impl Into<String>) -> Result<T, ConfigError> {
        Err(ConfigError::new(self.0.origin(setting), problem))
    }

    fn within<T: PartialOrd + std::fmt::Display>(
        &self,
        setting: &str,
        value: T,
        range: RangeInclusive<T>,
    ) -> Result<(), ConfigError> {
        if range.contains(&value) {
            return Ok(());
        }
        self.refuse(setting, format!("must be from {} to {}", range.start(), range.end()))
    }

    fn lasting(&self, setting: &str, value: Duration, range: RangeInclusive<Duration>) -> Result<(), ConfigError> {
        if range.contains(&value) {
            return Ok(());
        }
        let shown = |bound: &Duration| humantime::format_duration(*bound).to_string();
        self.refuse(setting, format!("must be from {} to {}", shown(range.start()), shown(range.end())))
    }

    fn numbers(&self, raw: &Raw) -> Result<(), ConfigError> {
        self.within("database.pool_size", raw.database.pool_size, 2..=1_000)?;
        self.within("queue.delivery_limit", raw.queue.delivery_limit, 1..=1_000_000)?;
        self.within("queue.dead_delivery_limit", raw.queue.dead_delivery_limit, 1..=i64::from(i32::MAX))?;
        self.within("event.max_event_bytes", raw.event.max_event_bytes, 1024..=16 * MIB)?;
        self.within("retry.jitter", raw.retry.jitter, 0.0..=0.5)?;
        self.within("sender.max_body_bytes", raw.sender.max_body_bytes, 0..=MIB)?;
        self.within("sender.idle_connections_per_host", raw.sender.idle_connections_per_host, 0..=10_000)?;
        self.within("sender.max_idle_connections", raw.sender.max_idle_connections, 0..=1_000_000)?;
        self.within("sender.max_dns_lookups", raw.sender.max_dns_lookups, 1..=10_000)?;
        self.within("worker.prefetch", raw.worker.prefetch, 1..=u16::MAX)?;
        self.within("worker.max_in_flight", raw.worker.max_in_flight, 1..=100_000)?;
        self.within("worker.max_in_flight_per_webhook", raw.worker.max_in_flight_per_webhook, 0..=100_000)?;
        self.within("worker.probe_after", raw.worker.probe_after, 1..=1_000_000)?;
        self.within("worker.batch", raw.worker.batch, 1..=10_000)?;
        self.within("health.notice_attempts", raw.health.notice_attempts, 1..=10_000)?;
        self.within("health.disable_attempts", raw.health.disable_attempts, 1..=1_000_000)?;
        self.within("recover.rate", raw.recover.rate, 1..=100_000)?;
        let api = &raw.api.limits;
        self.within("api.max_webhooks", api.max_webhooks, 1..=100_000)?;
        self.within("api.requests_per_second", api.requests_per_second.get(), 1..=1_000_000)?;
        self.within("api.requests_burst", api.requests_burst.get(), 1..=1_000_000)?;
        self.within("api.tests_per_minute", api.tests_per_minute.get(), 1..=1_000_000)?;
        self.within("api.max_body_bytes", api.max_body_bytes, 4096..=MIB)?;
        self.within("api.max_connections", api.max_connections, 1..=100_000)
    }

    fn durations(&self, raw: &Raw) -> Result<(), ConfigError> {
        let millis = Duration::from_millis;
        let seconds = Duration::from_secs;
        self.lasting("database.connect_timeout", raw.database.connect_timeout, millis(100)..=seconds(300))?;
        self.lasting("database.statement_timeout", raw.database.statement_timeout, millis(100)..=seconds(300))?;
        self.lasting("amqp.connect_timeout", raw.amqp.connect_timeout, millis(100)..=seconds(300))?;
        self.lasting("amqp.heartbeat", raw.amqp.heartbeat, seconds(1)..=seconds(600))?;
        self.lasting("queue.confirm_timeout", raw.queue.confirm_timeout, millis(100)..=seconds(300))?;
        self.lasting("retry.max_retry_after", raw.retry.max_retry_after, Duration::ZERO..=7 * DAY)?;
        self.lasting("retry.internal_delay", raw.retry.internal_delay, millis(100)..=DAY)?;
        self.lasting("sender.timeout", raw.sender.timeout, millis(10)..=seconds(60))?;
        self.lasting("sender.body_timeout", raw.sender.body_timeout, Duration::ZERO..=seconds(60))?;
        self.lasting("sender.idle_timeout", raw.sender.idle_timeout, Duration::ZERO..=DAY)?;
        self.lasting("sender.max_connection_age", raw.sender.max_connection_age, seconds(1)..=DAY)?;
        self.lasting("sender.dns_timeout", raw.sender.dns_timeout, millis(10)..=seconds(60))?;
        self.lasting("worker.lookup_lifetime", raw.worker.lookup_lifetime, Duration::ZERO..=seconds(1))?;
        self.lasting("worker.poll_interval", raw.worker.poll_interval, millis(1)..=seconds(60))?;
        let slowest = raw.worker.poll_interval..=seconds(600);
        self.lasting("worker.poll_interval_max", raw.worker.poll_interval_max, slowest)?;
        // A lease that ends during its attempt would have the attempt made twice.
        let shortest = 2 * (raw.sender.timeout + raw.sender.body_timeout);
        self.lasting("worker.lease", raw.worker.lease, shortest..=DAY)?;
        self.lasting("worker.park_after", raw.worker.park_after, millis(1)..=seconds(60))?;
        self.lasting("worker.probe_interval", raw.worker.probe_interval, millis(1)..=seconds(3600))?;
        let widest = raw.worker.probe_interval..=DAY;
        self.lasting("worker.probe_interval_max", raw.worker.probe_interval_max, widest)?;
        self.lasting("worker.give_back_after", raw.worker.give_back_after, seconds(1)..=DAY)?;
        self.lasting("health.notice_after", raw.health.notice_after, Duration::ZERO..=30 * DAY)?;
        self.lasting("health.disable_after", raw.health.disable_after, Duration::ZERO..=365 * DAY)?;
        self.lasting("retention.attempts", raw.retention.attempts, DAY..=3650 * DAY)?;
        self.lasting("retention.events", raw.retention.events, DAY..=3650 * DAY)?;
        self.lasting("api.idle_timeout", raw.api.limits.idle_timeout, millis(100)..=seconds(3600))?;
        self.lasting("api.header_timeout", raw.api.limits.header_timeout, millis(100)..=seconds(300))?;
        self.lasting("api.request_timeout", raw.api.limits.request_timeout, millis(100)..=seconds(300))?;
        self.lasting("api.database_timeout", raw.api.database_timeout, millis(10)..=seconds(60))?;
        self.lasting("shutdown.grace", raw.shutdown.grace, Duration::ZERO..=seconds(3600))?;
        if raw.api.drain_delay > raw.shutdown.grace {
            let grace = humantime::format_duration(raw.shutdown.grace);
            let problem = format!("must not be longer than shutdown.grace ({grace}), of which it is a part");
            return self.refuse("api.drain_delay", problem);
        }
        Ok(())
    }

    fn listen(&self, setting: &str, text: &str) -> Result<SocketAddr, ConfigError> {
        listen::address(text).or_else(|problem| self.refuse(setting, problem))
    }

    fn schedule(&self, raw: &Raw) -> Result<(), ConfigError> {
        if raw.retry.schedule.len() > 100 {
            return self.refuse("retry.schedule", "must have at most 100 entries");
        }
        raw.retry.schedule.iter().try_for_each(|wait| self.lasting("retry.schedule", *wait, Duration::ZERO..=30 * DAY))
    }

    fn networks(&self, raw: &Raw) -> Result<(), ConfigError> {
        if raw.sender.allow_networks.iter().any(|network| network.prefix_len() == 0) {
            return self.refuse("sender.allow_networks", "must not allow every address; list the networks you mean");
        }
        let translated = |network: &IpNet| {
            let nat64 = IpNet::V6(NAT64);
            nat64.contains(network) || network.contains(&nat64)
        };
        if raw.sender.allow_networks.iter().any(translated) {
            let problem = "must name nothing inside or around 64:ff9b::/96: what a DNS64 answers there is called if the \
                           IPv4 address inside is public, and never otherwise";
            return self.refuse("sender.allow_networks", problem);
        }
        Ok(())
    }

    fn hosts(&self, raw: &Raw) -> Result<AllowedHosts, ConfigError> {
        match AllowedHosts::parse(&raw.sender.allow_hosts) {
            Ok(hosts) => Ok(hosts),
            Err((at, error)) => self.refuse("sender.allow_hosts", format!("entry {at} {error}")),
        }
    }

    fn names(&self, raw: &Raw) -> Result<(), ConfigError> {
        let queue = &raw.queue;
        let names = [
            ("queue.events_exchange", &queue.events_exchange),
            ("queue.worker_queue", &queue.worker_queue),
            ("queue.dead_exchange", &queue.dead_exchange),
            ("queue.dead_queue", &queue.dead_queue),
            ("queue.notices_exchange", &queue.notices_exchange),
        ];
        for (setting, name) in names {
            if name.is_empty() || name.len() > 255 || name.starts_with("amq.") || name.chars().any(char::is_control) {
                return self.refuse(setting, "must have 1 to 255 bytes and not start with amq.");
            }
        }
        if queue.worker_queue == queue.dead_queue {
            return self.refuse("queue.dead_queue", "must differ from queue.worker_queue");
        }
        Ok(())
    }

    /// No message repeats any part of the URL: who puts a password into it by mistake does not find it in the log.
    fn proxy(&self, sender: &RawSender) -> Result<Option<EgressProxy>, ConfigError> {
        let credentials = (!sender.proxy_credentials.is_empty()).then(|| sender.proxy_credentials.clone());
        if sender.proxy.is_empty() {
            return match credentials {
                None => Ok(None),
                Some(_) => self.refuse("sender.proxy_credentials", "are for sender.proxy, which is not set"),
            };
        }
        let url = match url::Url::parse(sender.proxy.expose()) {
            Ok(url) if ["http", "https"].contains(&url.scheme()) => url,
            Ok(_) => return self.refuse("sender.proxy", "must begin with http:// or https://"),
            Err(error) => return self.refuse("sender.proxy", format!("is not a URL: {error}")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return self.refuse("sender.proxy", "must name no user or password; give them as sender.proxy_credentials");
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return self.refuse("sender.proxy", "must be no more than scheme, host and port: http://proxy:3128");
        }
        if credentials
            .as_ref()
            .is_some_and(|text| !text.expose().contains(':') || text.expose().contains(char::is_control))
        {
            return self.refuse("sender.proxy_credentials", "must be user:password in one line");
        }
        Ok(Some(EgressProxy { url, credentials }))
    }

    fn filter(&self, raw: &Raw) -> Result<(), ConfigError> {
        match raw.log.filter.parse::<tracing_subscriber::EnvFilter>() {
            Ok(_) => Ok(()),
            Err(_) => self.refuse("log.filter", "must be a filter such as info,penr_webhooks=debug"),
        }
    }

    fn catalogue(&self, raw: &Raw) -> Result<Catalogue, ConfigError> {
        let entry = |(name, value): (&String, &toml::Value)| {
            let setting = format!("event_types.{name}");
            let Some(event_type) = EventType::parse(name) else {
                return self.refuse(&setting, "must be lower-case words separated by dots, such as content.created");
            };
            match value.clone().try_into::<RawEventType>() {
                Ok(RawEventType { name, description }) => Ok(CatalogueEntry { event_type, name, description }),
                Err(_) => self.refuse(&setting, "needs a name and a description, both text, and nothing else"),
            }
        };
        Ok(Catalogue::new(raw.event_types.iter().map(entry).collect::<Result<_, _>>()?))
    }

    fn keyring(&self, text: &SecretText) -> Result<Option<Keyring>, ConfigError> {
        if text.is_empty() {
            return Ok(None);
        }
        match Keyring::parse(text.expose()) {
            Ok(keyring) => Ok(Some(keyring)),
            Err(error) => self.refuse("security.encryption_keys", error.to_string()),
        }
    }

    fn tokens(&self, raw: &Raw) -> Result<Option<Tokens>, ConfigError> {
        let text = raw.api.jwt_secret.expose();
        if text.is_empty() {
            return Ok(None);
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let secrets: Vec<SecretText> = parts.map(SecretText::from).collect();
        if secrets.is_empty() {
            return self.refuse("api.jwt_secret", "holds no secret, only blanks");
        }
        if secrets.iter().any(|secret| secret.expose().len() < 32) {
            return self.refuse("api.jwt_secret", "must have at least 32 bytes in each of its comma-separated secrets");
        }
        if secrets.iter().any(|secret| secret.expose().contains(['\n', '\r'])) {
            return self
                .refuse("api.jwt_secret", "must have a comma between two secrets: one of them has several lines");
        }
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Ok(Some(Tokens { secrets, issuer: given(&raw.api.jwt_issuer), audience: given(&raw.api.jwt_audience) }))
    }

    fn published(&self, raw: &Raw, keyring: Option<&Keyring>, tokens: Option<&Tokens>) -> PublishedKeys {
        let found = |setting: &str, problem: String| ConfigError::new(self.0.origin(setting), problem);
        let encryption_key = keyring.and_then(Keyring::published_key_id).map(|id| {
            let problem = format!(
                "holds a published key ({id}), which everybody has: make one of your own, \
                 \"k1:$(openssl rand -base64 32)\" (security.allow_published_keys takes it, for development)"
            );
            found("security.encryption_keys", problem)
        });
        let is_published = |secret: &SecretText| is_published_text(secret.expose());
        let jwt_secret = tokens.filter(|tokens| tokens.secrets.iter().any(is_published)).map(|_| {
            let problem = "holds a published secret, with which anybody can make tokens: make one of your own, \
                           \"$(openssl rand -base64 32)\" (security.allow_published_keys takes it, for development)";
            found("api.jwt_secret", problem.to_owned())
        });
        PublishedKeys { allowed: raw.security.allow_published_keys, encryption_key, jwt_secret }
    }

    /// An origin as a browser writes it, so that comparing texts is enough.
    fn origins(&self, setting: &str, origins: &[String]) -> Result<(), ConfigError> {
        let is_origin = |text: &String| {
            let url = url::Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
            url.is_some_and(|url| url.origin().ascii_serialization() == *text)
        };
        match origins.iter().all(is_origin) {
            true => Ok(()),
            false => self.refuse(setting, "must list origins such as https://app.example.com, without a path"),
        }
    }
}
