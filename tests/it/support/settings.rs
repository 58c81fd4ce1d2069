//! The settings a child process gets, and nothing else of ours: the developer's own never leak into a test.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use uuid::Uuid;

/// What starts processes with settings: a [`super::Site`] for all that it starts from here on, a [`super::Launch`] for one.
pub trait Configure: Sized {
    fn settings_mut(&mut self) -> &mut Settings;

    /// A setting: `.set("retry.schedule", r#"["100ms"]"#)`.
    fn set(mut self, name: &str, value: &str) -> Self {
        self.settings_mut().set(name, value);
        self
    }

    /// The setting has its default again.
    fn unset(mut self, name: &str) -> Self {
        self.settings_mut().unset(name);
        self
    }

    /// A plain environment variable.
    fn env(mut self, variable: &str, value: &str) -> Self {
        self.settings_mut().env(variable, value);
        self
    }

    fn remove_env(mut self, variable: &str) -> Self {
        self.settings_mut().remove_env(variable);
        self
    }
}

#[derive(Clone)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Fresh keys, free ports and a quick worker that may call 127.0.0.1.
    pub fn new(database_url: &str, amqp_url: &str) -> Self {
        let mut settings = Self(BTreeMap::new());
        settings.env("DATABASE_URL", database_url);
        settings.env("AMQP_URL", amqp_url);
        settings.env("RUST_BACKTRACE", "1");
        settings.set("security.encryption_keys", &encryption_key("k1"));
        settings.set("api.jwt_secret", &encryption_key("jwt"));
        settings.set("sender.allow_networks", r#"["127.0.0.1/32"]"#);
        settings.set("worker.poll_interval", "20ms");
        settings.set("worker.poll_interval_max", "100ms");
        settings.set("ops.listen", "127.0.0.1:0");
        settings.set("api.listen", "127.0.0.1:0");
        settings.set("api.drain_delay", "0s");
        settings.set("log.filter", "penr_webhooks=debug");
        settings.set("log.format", "json");
        settings
    }

    /// `worker.prefetch` becomes `PENR_WEBHOOKS__WORKER__PREFETCH`.
    pub fn set(&mut self, name: &str, value: &str) {
        let path = name.to_uppercase().replace('.', "__");
        self.env(&format!("PENR_WEBHOOKS__{path}"), value);
    }

    /// What was set, empty if nothing was.
    pub fn get(&self, name: &str) -> &str {
        let path = name.to_uppercase().replace('.', "__");
        self.0.get(&format!("PENR_WEBHOOKS__{path}")).map_or("", String::as_str)
    }

    pub fn unset(&mut self, name: &str) {
        let path = name.to_uppercase().replace('.', "__");
        self.0.remove(&format!("PENR_WEBHOOKS__{path}"));
    }

    pub fn env(&mut self, variable: &str, value: &str) {
        self.0.insert(variable.to_owned(), value.to_owned());
    }

    pub fn remove_env(&mut self, variable: &str) {
        self.0.remove(variable);
    }

    pub fn give_to(&self, command: &mut tokio::process::Command) {
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PENR_WEBHOOKS") {
                command.env_remove(variable);
            }
        }
        command.env_remove("DATABASE_URL").env_remove("AMQP_URL").envs(&self.0);
    }
}

/// A fresh value for `security.encryption_keys`.
pub fn encryption_key(id: &str) -> String {
    let key = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    format!("{id}:{}", BASE64_STANDARD.encode(key))
}
