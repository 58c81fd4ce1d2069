//! Wrong settings stop a process at the start with one line, servers that do not answer are waited for, and no secret is
//! shown.

use std::time::{Duration, Instant};

use super::{ACCOUNT, assert_fails};
use crate::support::replica::ATTACHED;
use crate::support::*;

/// Stands for a secret in a setting that cannot be used.
const SECRET: &str = "hunter2";

#[tokio::test]
async fn a_setting_that_cannot_be_used_is_named_and_its_value_not_shown() {
    let settings = [
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "mysql://user:hunter2@localhost/db"),
        ("DATABASE_URL", "postgres://user:hunter2@localhost:port/db"),
        ("DATABASE_URL", "postgres://user:hunter2@localhost/db?sslmode=hunter2"),
        ("DATABASE_URL", "postgres://user:hunter2#x@localhost/db"),
        ("DATABASE_URL", "host=localhost password=hunter2 service=x"),
        ("AMQP_URL", "http://user:hunter2@localhost"),
        ("AMQP_URL", "amqp://user:hunter2@localhost:port"),
        ("AMQP_URL", "amqp://user:hunter2@localhost/%2f?heartbeat=hunter2"),
        ("AMQP_URL", "amqp://user:hunter2@localhost/"),
        ("AMQP_URL", "amqp://user:1234#hunter2@localhost/%2f"),
        ("AMQP_URL", "amqp://user:hunter2@localhost/%2f amqp://user:hunter2@localhost/%2f"),
        ("AMQP_URL", "amqp://user:hunter2@localhost/%2f,amqp://user:hunter2@localhost/"),
        ("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS", "hunter2"),
        ("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS", "k1:hunter2"),
        ("PENR_WEBHOOKS__API__JWT_SECRET", "hunter2"),
        ("PENR_WEBHOOKS__RETRY__SCHEDULE", "hunter2"),
        ("PENR_WEBHOOKS__RETRY__SCHEDULE", r#"["hunter2"]"#),
        ("PENR_WEBHOOKS__RETRY__JITTER", "0.9"),
        ("PENR_WEBHOOKS__SENDER__TIMEOUT", "hunter2"),
        ("PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS", r#"["hunter2"]"#),
        ("PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS", r#"["0.0.0.0/0"]"#),
        ("PENR_WEBHOOKS__SENDER__REQUIRE_HTTPS", "hunter2"),
        ("PENR_WEBHOOKS__WORKER__PREFETCH", "hunter2"),
        ("PENR_WEBHOOKS__WORKER__PREFETCH", "0"),
        ("PENR_WEBHOOKS__WORKER__PREFETCH", "70000"),
        ("PENR_WEBHOOKS__WORKER__MAX_IN_FLIGHT", "-1"),
        ("PENR_WEBHOOKS__WORKER__LEASE", "1s"),
        ("PENR_WEBHOOKS__SHUTDOWN__GRACE", ""),
        ("PENR_WEBHOOKS__OPS__LISTEN", "hunter2"),
        ("PENR_WEBHOOKS__LOG__FORMAT", "hunter2"),
        ("PENR_WEBHOOKS__QUEUE__WORKER_QUEUE", "amq.hunter2"),
        ("PENR_WEBHOOKS__WORKER__PREFETCHES", "hunter2"),
        ("PENR_WEBHOOKS__DATABASE__URL", "postgres://user:hunter2@localhost/db"),
    ];
    let site = Site::new().await;
    for (variable, value) in settings {
        let replica = site.launch(&["worker"]).env(variable, value).start();
        let (code, line) = ended(replica).await;
        assert_eq!(code, Some(2), "{variable}={value}: {line}");
        assert!(line.starts_with("error: ") && line.lines().count() == 1, "{variable}={value}: {line}");
        assert!(line.contains(variable), "{variable}={value}: {line}");
        assert!(!line.contains(SECRET), "{variable}={value}: {line}");
    }
}

#[tokio::test]
async fn a_file_of_settings_is_named_with_what_is_wrong_in_it() {
    let files = [
        ("[worker]\nprefetches = 5\n", "worker.prefetches"),
        ("[worker]\nprefetch = \"hunter2\"\n", "worker.prefetch"),
        ("[retry]\nschedule = [\"hunter2\"]\n", "retry.schedule"),
        ("[database]\nurl = \"hunter2\n", "line 2"),
        ("[event_types.\"Bad Type\"]\nname = \"hunter2\"\n", "Bad Type"),
    ];
    let site = Site::new().await;
    let path = site.folder().join("settings.toml");
    for (text, named) in files {
        std::fs::write(&path, text).unwrap();
        let replica = site.launch(&["worker"]).env("PENR_WEBHOOKS_CONFIG", path.to_str().unwrap()).start();
        let (code, line) = ended(replica).await;
        assert_eq!(code, Some(2), "{line}");
        assert!(line.contains(named) && line.contains("settings.toml"), "{line}");
        assert!(line.lines().count() == 1 && !line.contains(SECRET), "{line}");
    }
    let replica = site.launch(&["worker"]).env("PENR_WEBHOOKS_CONFIG", "/nowhere/settings.toml").start();
    let (code, line) = ended(replica).await;
    assert_eq!((code, line.lines().count()), (Some(2), 1));
    assert!(line.contains("PENR_WEBHOOKS_CONFIG") && line.contains("/nowhere/settings.toml"), "{line}");
}

#[tokio::test]
async fn a_setting_that_a_command_needs_and_does_not_have_is_named() {
    let site = Site::new().await;
    let create = ["webhooks", "create", "--account", ACCOUNT, "--name", "n", "--url", "https://hooks.example.com"];
    let create = [&create[..], &["--events", "site.connected"]].concat();
    let publish = ["publish", "--account", ACCOUNT, "--type", "site.connected"];
    let keys = "PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS";
    let jwt = "PENR_WEBHOOKS__API__JWT_SECRET";
    let needs: [(&[&str], &[&str]); 7] = [
        (&["worker"], &["DATABASE_URL", "AMQP_URL", keys]),
        (&["api"], &["DATABASE_URL", keys, jwt]),
        (&["run"], &["DATABASE_URL", "AMQP_URL", keys, jwt]),
        (&["token", "--account", ACCOUNT], &[jwt]),
        (&["migrate"], &["DATABASE_URL"]),
        (&create, &["DATABASE_URL", keys]),
        (&publish, &["AMQP_URL"]),
    ];
    for (command, needed) in needs {
        for variable in needed {
            let (code, line) = ended(site.launch(command).remove_env(variable).start()).await;
            assert_eq!((code, line.lines().count()), (Some(2), 1), "{command:?}: {line}");
            assert!(line.contains(variable) && line.contains("is not set"), "{command:?}: {line}");
        }
    }
}

/// The keys that docker-compose.yml sets unless the operator does.
const PUBLISHED: [(&str, &str); 2] = [
    ("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS", "cGVuci13ZWJob29rcy1kZXZlbG9wbWVudC1vbmx5ISE="),
    ("PENR_WEBHOOKS__API__JWT_SECRET", "development-only-and-known-to-everybody"),
];

/// A settings file that is part of the project.
fn ours(name: &str) -> String {
    format!("{}/config/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

#[tokio::test]
async fn published_keys_are_refused_by_every_command_that_uses_them_except_in_development() {
    let site = Site::new().await.env("PENR_WEBHOOKS_CONFIG", &ours("production"));
    let webhook = site.create_webhook(ACCOUNT, "https://hooks.example.com/", &["site.connected"]).await;
    let [(keys, key), (jwt, secret)] = PUBLISHED;
    let second = format!("{},2026:{key}", site.settings().get("security.encryption_keys"));
    let listed = format!("{}, {secret}", site.settings().get("api.jwt_secret"));
    let show = ["webhooks", "secret", &webhook.id];
    let uses: [(&[&str], &str, &str); 8] = [
        (&["worker"], keys, &second),
        (&["worker"], jwt, secret),
        (&["api"], keys, &second),
        (&["api"], jwt, &listed),
        (&["run"], jwt, &listed),
        (&["token", "--account", ACCOUNT], jwt, &listed),
        (&show, keys, &second),
        (&["webhooks", "reencrypt"], keys, &second),
    ];
    for (command, variable, value) in uses {
        let (code, line) = ended(site.launch(command).env(variable, value).start()).await;
        assert_eq!((code, line.lines().count()), (Some(2), 1), "{command:?}: {line}");
        assert!(line.starts_with(&format!("error: {variable} holds a published ")), "{command:?}: {line}");
        assert!(line.contains("openssl rand -base64 32") && !line.contains(key) && !line.contains(secret), "{line}");
    }
    let site = site.env(keys, &second).env(jwt, secret);
    let list = ["webhooks", "list", "--account", ACCOUNT];
    assert_eq!(site.cli(&list).await.code, 0, "`list` uses no key");
    let site = site.env("PENR_WEBHOOKS_CONFIG", &ours("development"));
    for command in [&show[..], &["token", "--account", ACCOUNT]] {
        assert_eq!(site.cli(command).await.code, 0, "{command:?}");
    }
    site.worker().await;
}

#[tokio::test]
async fn a_worker_without_ca_certificates_says_so_before_it_waits_for_servers() {
    let site = Site::new().await.without_certificates();
    let proxy = Proxy::to(site.postgres_address()).await;
    proxy.refuse(true).await;
    let site = site.postgres_through(&proxy.addr());
    let mut worker = site.launch(&["worker"]).start();
    assert_eq!(worker.wait().await.code(), Some(1));
    let log = worker.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(errors[..], [line] if line.contains("there are no CA certificates")), "{log}");
    assert!(!log.contains("waiting for the database"), "{log}");
}

#[tokio::test]
async fn a_command_says_that_the_database_is_not_there() {
    let site = Site::new().await;
    let password = url::Url::parse(site.database_url()).unwrap().password().unwrap_or("no password").to_owned();
    let proxy = Proxy::to(site.postgres_address()).await;
    let site = site.postgres_through(&proxy.addr());
    let list = ["webhooks", "list", "--account", ACCOUNT];
    assert_eq!(site.cli(&list).await.code, 0);
    proxy.refuse(true).await;
    let refused = site.cli(&list).await;
    assert_fails(&refused, 1, &["the database is not available"]);
    proxy.refuse(false).await;
    proxy.pause();
    let mute = site.cli(&list).await;
    assert_fails(&mute, 1, &["the database is not available"]);
    // The host and the port, once.
    assert_eq!(refused.stderr.matches(&proxy.addr()).count(), 1, "{}", refused.stderr);
    assert_eq!(mute.stderr.matches(&proxy.addr()).count(), 1, "{}", mute.stderr);
    assert!(![refused.stderr, mute.stderr].concat().contains(&password));
}

#[tokio::test]
async fn a_command_says_that_the_database_was_never_migrated() {
    let site = Site::new().await;
    let sql = site.sql().await;
    sql.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    let output = site.cli(&["webhooks", "list", "--account", ACCOUNT]).await;
    assert_fails(&output, 1, &["penr-webhooks migrate"]);
}

#[tokio::test]
async fn a_worker_waits_for_a_database_that_is_not_there_yet() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.postgres_address()).await;
    proxy.refuse(true).await;
    let site = site.postgres_through(&proxy.addr());
    let mut worker = site.launch(&["worker"]).start();
    worker.wait_for_log("waiting for the database").await;
    proxy.refuse(false).await;
    worker.wait_for_log(ATTACHED).await;
    worker.terminate();
    assert!(worker.wait().await.success());
}

#[tokio::test]
async fn a_worker_waits_for_a_broker_that_is_not_there_yet() {
    let site = Site::new().await;
    let proxy = Proxy::to(site.amqp_address()).await;
    proxy.refuse(true).await;
    let site = site.amqp_through(&proxy.addr());
    let mut worker = site.launch(&["worker"]).start();
    worker.wait_for_log("the broker is not available").await;
    proxy.refuse(false).await;
    worker.wait_for_log(ATTACHED).await;
    worker.terminate();
    assert!(worker.wait().await.success());
}

#[tokio::test]
async fn a_worker_that_waits_for_its_servers_can_be_stopped() {
    let site = Site::new().await;
    let proxy = Proxy::to("127.0.0.1:1").await;
    proxy.refuse(true).await;
    for (site, says) in [
        (site.postgres_through(&proxy.addr()), "waiting for the database"),
        (Site::new().await.amqp_through(&proxy.addr()), "the broker is not available"),
    ] {
        let mut worker = site.launch(&["worker"]).start();
        worker.wait_for_log(says).await;
        worker.terminate();
        assert!(worker.wait().await.success());
    }
}

/// The exit code and the whole output of a process that should end at once. A loaded machine gets more time.
async fn ended(mut replica: Replica) -> (Option<i32>, String) {
    let started = Instant::now();
    let status = replica.wait().await;
    assert!(started.elapsed() < Duration::from_secs(30), "a process that cannot start must say so at once");
    (status.code(), replica.log())
}

#[tokio::test]
async fn a_missing_right_in_the_database_is_named_and_not_retried() {
    let site = Site::new().await;
    let role = format!("bare_{}", std::process::id());
    site.sql().await.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'bare'")).await.unwrap();
    let mut url = url::Url::parse(site.database_url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("bare")).unwrap();
    let site = site.env("DATABASE_URL", url.as_str());
    let began = Instant::now();
    for arguments in [&["webhooks", "list", "--account", ACCOUNT][..], &["migrate"]] {
        let output = site.cli(arguments).await;
        assert_fails(&output, 1, &["the database does not permit it", "permission denied"]);
        assert!(!output.stderr.contains("not available"), "{}", output.stderr);
    }
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
    let sql = site.another_sql().await;
    sql.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}
