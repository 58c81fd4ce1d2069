//! `doctor` finds what is wrong with an installation, says what to do, ends soon whatever happens, and changes nothing.

use std::time::{Duration, Instant};

use serde_json::Value;
use url::Url;

use crate::support::settings::encryption_key;
use crate::support::*;

mod broker;
mod database;
mod machine;
mod policies;
mod processes;
mod unrouted;

/// The names of the checks that need the settings alone.
const OF_SETTINGS: [&str; 7] =
    ["settings", "published_keys", "private_networks", "private_hosts", "https", "retries", "shutdown"];

/// The checks that need a database that answers.
const OF_DATABASE: [&str; 11] = [
    "durability",
    "connections",
    "clock",
    "snapshots",
    "schema",
    "rights",
    "search_path",
    "retention",
    "partitions",
    "locks",
    "secrets",
];

/// The checks that need a broker that answers.
const OF_BROKER: [&str; 5] = ["topology", "worker_queue", "dead_letters", "round_trip", "unrouted"];

/// The checks of who works here, which need both servers.
const OF_PROCESSES: [&str; 2] = ["processes", "consumers"];

/// The checks of the machine.
const OF_MACHINE: [&str; 5] = ["dns", "proxy", "certificates", "open_files", "memory"];

/// The names of all checks, in the order in which they are shown.
fn checks() -> Vec<&'static str> {
    [&OF_SETTINGS[..], &["database"], &OF_DATABASE, &["broker"], &OF_BROKER, &OF_PROCESSES, &OF_MACHINE].concat()
}

pub struct Report {
    pub code: i32,
    checks: Vec<Value>,
}

impl Site {
    /// Runs `doctor` and returns its report. Fails if a password is in the output.
    pub async fn doctor(&self) -> Report {
        let output = self.cli(&["doctor", "--json"]).await;
        let said = [&output.stdout[..], &output.stderr].concat();
        for url in [self.database_url(), self.amqp_url()] {
            let password = Url::parse(url).unwrap().password().unwrap_or("no password").to_owned();
            assert!(!said.contains(&password), "{said}");
        }
        Report::read(output.code, &output.stdout)
    }
}

impl Report {
    fn read(code: i32, stdout: &str) -> Self {
        let document: Value = serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error} in {stdout:?}"));
        Self { code, checks: document["data"].as_array().unwrap().clone() }
    }

    /// The report of a `doctor` that was launched.
    async fn of(mut doctor: Replica) -> Self {
        let status = doctor.wait().await;
        Self::read(status.code().unwrap(), &doctor.stdout())
    }

    fn check(&self, name: &str) -> &Value {
        let mut found = self.checks.iter().filter(|check| check["check"] == name);
        found.next().unwrap_or_else(|| panic!("no {name} in {:?}", self.checks))
    }

    #[track_caller]
    pub fn assert(&self, name: &str, status: &str, said: &[&str]) {
        let check = self.check(name);
        assert_eq!(check["status"], status, "{check}");
        assert!(said.iter().all(|said| check.to_string().contains(said)), "no {said:?} in {check}");
        assert_eq!(check["advice"].is_null(), status == "ok", "{check}");
    }

    fn advice(&self, name: &str) -> String {
        self.check(name)["advice"].as_str().expect("an advice").to_owned()
    }

    #[track_caller]
    pub fn assert_nowhere(&self, said: &str) {
        assert!(!format!("{:?}", self.checks).contains(said), "{said} in {:?}", self.checks);
    }

    #[track_caller]
    fn assert_skipped(&self, names: &[&str]) {
        names.iter().for_each(|name| self.assert(name, "warns", &["not checked: "]));
    }
}

/// A site without anything to warn about, on which a worker runs.
async fn healthy() -> (Site, Replica, NameServer) {
    let names = NameServer::start(|_, _| Says::addresses(&["93.184.215.14"])).await;
    let site = Site::new().await.set("sender.allow_networks", "[]").set("sender.require_https", "true");
    let site = site.set("sender.dns_servers", &format!(r#"["{}"]"#, names.address()));
    let worker = site.worker().await;
    (site, worker, names)
}

#[tokio::test]
async fn on_a_healthy_site_every_check_is_ok() {
    let (site, _worker, _names) = healthy().await;
    site.create_webhook("acc_1", "https://hooks.example.com/", &["content.published"]).await;
    let report = site.doctor().await;
    let names: Vec<&str> = report.checks.iter().map(|check| check["check"].as_str().unwrap()).collect();
    assert_eq!(names, checks());
    // Test servers may run without fsync.
    let fsync: String = site.sql().await.query_one("SHOW fsync", &[]).await.unwrap().get(0);
    for name in checks() {
        let warns = match name {
            "durability" => fsync == "off",
            // The machine that the tests run on may name a proxy.
            "proxy" => machine::names_a_proxy(),
            _ => false,
        };
        let expected = if warns { "warns" } else { "ok" };
        report.assert(name, expected, &[]);
    }
    report.assert("secrets", "ok", &["all 1 webhooks"]);
    report.assert("worker_queue", "ok", &["1 workers consume"]);
    assert_eq!(report.code, 0);
}

#[tokio::test]
async fn people_get_a_line_per_check() {
    let site = Site::unmigrated().await;
    let output = site.cli(&["doctor"]).await;
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.len(), checks().len());
    for (line, name) in lines.iter().zip(checks()) {
        let (status, rest) = line.split_once(' ').unwrap();
        assert!(["ok", "warns", "fails"].contains(&status), "{line}");
        assert!(rest.trim_start().starts_with(&name.replace('_', " ")), "{line}");
    }
    let schema = lines.iter().find(|line| line.starts_with("fails  schema")).unwrap();
    assert!(schema.ends_with(": run `penr-webhooks migrate`"), "{schema}");
    assert_eq!(output.code, 1);
    assert!(output.stderr.ends_with("error: 1 check fails\n"), "{}", output.stderr);
}

#[tokio::test]
async fn warnings_alone_are_no_failure() {
    let site = Site::new().await.set("retry.schedule", "[]").set("shutdown.grace", "1s");
    let site = site.set("sender.allow_hosts", r#"["Receiver", "*.hooks.svc.cluster.local"]"#);
    let report = site.doctor().await;
    report.assert("private_hosts", "warns", &["every account", "receiver, *.hooks.svc.cluster.local"]);
    report.assert("private_networks", "warns", &["127.0.0.1/32"]);
    report.assert("https", "warns", &["sender.require_https"]);
    report.assert("retries", "warns", &["retry.schedule"]);
    report.assert("shutdown", "warns", &["shutdown.grace is 1s"]);
    assert_eq!(report.code, 0);
}

#[tokio::test]
async fn missing_settings_are_all_named_and_what_needs_them_is_skipped() {
    let site = Site::new().await.unset("security.encryption_keys");
    let doctor = site.launch(&["doctor", "--json"]).remove_env("DATABASE_URL").remove_env("AMQP_URL");
    let report = Report::of(doctor.start()).await;
    let keys = "PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS is not set";
    report.assert("settings", "fails", &["DATABASE_URL is not set", "AMQP_URL is not set", keys]);
    report.assert_skipped(&[&["database"], &OF_DATABASE[..], &["broker"], &OF_BROKER].concat());
    assert_eq!(report.code, 1);
    let report = site.doctor().await;
    report.assert_skipped(&["secrets"]);
    report.assert("schema", "ok", &[]);
}

#[tokio::test]
async fn a_published_key_fails_in_development_too() {
    let (key, secret) = ("cGVuci13ZWJob29rcy1kZXZlbG9wbWVudC1vbmx5ISE=", "development-only-and-known-to-everybody");
    let site = Site::new().await.set("security.encryption_keys", &format!("k1:{key}"));
    for allowed in ["false", "true"] {
        let doctor = site.launch(&["doctor", "--json"]).set("security.allow_published_keys", allowed);
        let report = Report::of(doctor.set("api.jwt_secret", secret).start()).await;
        let named =
            ["PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS holds", "PENR_WEBHOOKS__API__JWT_SECRET holds", "openssl"];
        report.assert("published_keys", "fails", &named);
        report.assert("settings", "ok", &[]);
        report.assert("secrets", "ok", &[]);
        report.assert_nowhere(key);
        report.assert_nowhere(secret);
        assert_eq!(report.code, 1);
    }
}

#[tokio::test]
async fn the_file_of_settings_is_named() {
    let site = Site::new().await;
    let path = site.folder().join("settings.toml");
    std::fs::write(&path, "[worker]\nprefetch = 7\n").unwrap();
    let path = path.to_str().unwrap().to_owned();
    let report = site.env("PENR_WEBHOOKS_CONFIG", &path).doctor().await;
    report.assert("settings", "ok", &[&path]);
}

#[tokio::test]
async fn settings_that_do_not_load_end_with_exit_code_2() {
    let output = Site::new().await.set("worker.prefetch", "0").cli(&["doctor"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (2, ""));
    assert!(output.stderr.contains("PENR_WEBHOOKS__WORKER__PREFETCH"), "{}", output.stderr);
}

#[tokio::test]
async fn when_no_server_answers_the_doctor_still_ends_soon() {
    let names = NameServer::start(|_, _| Says::silence()).await;
    let site = Site::new().await.set("sender.dns_servers", &format!(r#"["{}"]"#, names.address()));
    let (postgres, rabbitmq) = (Proxy::to(site.postgres_address()).await, Proxy::to(site.amqp_address()).await);
    let site = site.postgres_through(&postgres.addr()).amqp_through(&rabbitmq.addr());
    let site = site.set("database.connect_timeout", "300s").set("amqp.connect_timeout", "300s");
    postgres.pause();
    rabbitmq.pause();
    let started = Instant::now();
    let report = site.doctor().await;
    // Its own bound is 13 s; the rest is for a loaded machine.
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    report.assert("database", "fails", &["no answer within"]);
    // The broker may be the first to give up a connection on which nobody speaks.
    report.assert("broker", "fails", &[]);
    report.assert("dns", "warns", &[]);
    report.assert_skipped(&OF_DATABASE);
    report.assert_skipped(&OF_BROKER);
    assert_eq!(report.code, 1);
}
