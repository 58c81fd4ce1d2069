//! Checks the Dockerfile and the compose files without a container engine; `make check-compose` checks them with one.

use std::collections::BTreeSet;

use penr_webhooks::config::{ConfigFile, Settings};
use penr_webhooks::secret::SecretText;
use serde_json::json;

use self::compose::{Compose, DEVELOPMENT, PRODUCTION, Service, text_of};
use crate::support::settings::encryption_key;
use crate::support::*;

mod compose;

/// What an operator must set for production, with a value of the right form.
const OWN: [(&str, &str); 6] = [
    ("DATABASE_URL", "postgresql://penr@db.example.com/penr?sslmode=verify-full"),
    ("AMQP_URL", "amqps://penr@rabbit.example.com/%2f"),
    ("DATABASE_PASSWORD_FILE", "/etc/penr/database_password"),
    ("AMQP_PASSWORD_FILE", "/etc/penr/amqp_password"),
    ("ENCRYPTION_KEYS_FILE", "/etc/penr/encryption_keys"),
    ("JWT_SECRET_FILE", "/etc/penr/jwt_secret"),
];

/// Has characters that a URL cannot hold unescaped.
const PASSWORD: &str = "ab/cd+ef=@x";

/// The environment that the image gives to every container.
fn image_environment() -> Vec<(String, String)> {
    let dockerfile = text_of("Dockerfile").replace("\\\n", " ");
    let line = dockerfile.lines().find_map(|line| line.strip_prefix("ENV ")).expect("it has an ENV");
    let pairs = line.split_whitespace().map(|pair| pair.split_once('=').expect("NAME=value"));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The settings that a service's process loads from its environment and its secrets, with one variable more.
fn settings(service: &Service<'_>, more: Option<(&str, &str)>) -> Result<Settings, String> {
    let (mut set, _) = service.environment();
    set.extend(image_environment().into_iter().filter(|(name, _)| !set.contains_key(name)).collect::<Vec<_>>());
    set.extend(more.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let path = set.remove("PENR_WEBHOOKS_CONFIG").expect("each names a file");
    let text = text_of(&path.replace("/etc/penr-webhooks/", "config/"));
    let granted = service.words(&service["secrets"]);
    let secret = |path: &str| match path.strip_prefix("/run/secrets/").filter(|name| granted.contains(name)) {
        Some("database_password" | "amqp_password") => Ok(format!("{PASSWORD}\n")),
        Some("encryption_keys") => Ok(encryption_key("k1")),
        Some("jwt_secret") => Ok(encryption_key("jwt")),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    Settings::load(Some(ConfigFile { path, text }), set, secret).map_err(|error| error.to_string())
}

/// What a service's process needs. In development, whose secrets everybody knows, each has all.
fn secrets_of(file: &str, service: &str) -> &'static [&'static str] {
    match (file, service) {
        (DEVELOPMENT, _) => &["database_password", "amqp_password", "encryption_keys", "jwt_secret"],
        (_, "migrate") => &["database_password"],
        (_, "worker") => &["database_password", "amqp_password", "encryption_keys"],
        (_, "api") => &["database_password", "encryption_keys", "jwt_secret"],
        _ => &[],
    }
}

#[test]
fn every_setting_in_the_compose_files_exists_and_can_be_used() {
    let passwords = [("POSTGRES_PASSWORD", PASSWORD), ("RABBITMQ_PASSWORD", PASSWORD)];
    for (file, environment) in [(DEVELOPMENT, &passwords[..]), (PRODUCTION, &OWN)] {
        let compose = Compose::read(file, environment).unwrap();
        for service in compose.services() {
            let whole = settings(&service, None).unwrap_or_else(|error| panic!("{file}, {}: {error}", service.name));
            let has_password = |url: &SecretText| url.expose().contains("ab%2Fcd%2Bef%3D%40x");
            let given = [
                ("database_password", has_password(&whole.database.url)),
                ("amqp_password", has_password(&whole.amqp.url)),
                ("encryption_keys", whole.keyring.is_some()),
                ("jwt_secret", whole.api.tokens.is_some()),
            ];
            let given: Vec<&str> = given.into_iter().filter_map(|(name, given)| given.then_some(name)).collect();
            assert_eq!(given, secrets_of(file, service.name), "{file}, {}", service.name);
            for handed_on in service.environment().1 {
                let error = settings(&service, Some((handed_on, ""))).err().unwrap_or_default();
                assert!(!error.contains("is no setting"), "{file}, {}: {error}", service.name);
            }
        }
    }
}

#[test]
fn development_accepts_receivers_on_its_own_network_unless_the_operator_names_others() {
    let allowed = |environment: &[_]| {
        let compose = Compose::read(DEVELOPMENT, environment).unwrap();
        let policy = settings(&compose.service("worker"), None).unwrap().sender.urls;
        let accepted = |url: &&str| penr_webhooks::webhook::WebhookUrl::parse(url, &policy).is_ok();
        ["http://receiver:9000/", "http://172.18.0.9:9000/", "http://mine:80/"].iter().map(accepted).collect::<Vec<_>>()
    };
    assert_eq!(allowed(&[]), [true, true, false]);
    let own = [
        ("PENR_WEBHOOKS__SENDER__ALLOW_HOSTS", r#"["mine"]"#),
        ("PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS", r#"["10.0.0.0/8"]"#),
    ];
    assert_eq!(allowed(&own), [false, false, true]);
}

#[test]
fn production_says_what_must_be_set() {
    for (at, (missing, _)) in OWN.iter().enumerate() {
        let mut environment = OWN.to_vec();
        environment.remove(at);
        let error = Compose::read(PRODUCTION, &environment).err().unwrap_or_default();
        assert!(error.starts_with(&format!("{missing}: ")) && error.len() > missing.len() + 20, "{missing}: {error}");
    }
    let told = text_of(PRODUCTION) + &text_of("docs/operating.md");
    assert!(OWN.iter().all(|(name, _)| told.matches(name).count() > 1));
}

#[test]
fn production_gives_containers_no_more_than_they_need() {
    let compose = Compose::read(PRODUCTION, &OWN).unwrap();
    let services: BTreeSet<&str> = compose.whole["services"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(services, BTreeSet::from(["api", "migrate", "worker"]), "no servers, no receivers");
    for service in compose.services() {
        assert_eq!([&service["read_only"], &service["cap_drop"]], [&json!(true), &json!(["ALL"])]);
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]));
        assert_eq!(service.words(&service["secrets"]), secrets_of(PRODUCTION, service.name));
        let (set, handed_on) = service.environment();
        let names = || set.keys().map(String::as_str).chain(handed_on.iter().copied());
        let of_broker = |name: &str| name.contains("AMQP");
        assert_eq!(names().any(of_broker), service.name == "worker", "{set:?}");
        let limits = &service["deploy"]["resources"]["limits"];
        assert!(limits["memory"].is_string() && limits["pids"].is_u64() && service["ulimits"]["nofile"].is_object());
    }
    // Operators must make the files of secrets readable for this user.
    let user = text_of("Dockerfile").lines().find_map(|line| line.strip_prefix("USER ").map(str::to_owned)).unwrap();
    for file in [PRODUCTION, "docs/operating.md"] {
        assert!(text_of(file).contains(&format!("user id {user}")), "{file} does not name user id {user}");
    }
    assert!(text_of("Dockerfile").contains(&format!("--uid {user} ")));
}

#[test]
fn services_have_time_to_stop_bounded_logs_and_one_image() {
    for (file, environment) in [(DEVELOPMENT, &[][..]), (PRODUCTION, &OWN)] {
        let compose = Compose::read(file, environment).unwrap();
        for (name, service) in compose.whole["services"].as_object().unwrap() {
            let bounds = &service["logging"]["options"];
            assert!(bounds["max-size"].is_string() && bounds["max-file"].is_string(), "{file}, {name}");
            assert!(service["healthcheck"].is_object(), "{file}, {name}");
        }
        for name in ["worker", "api"] {
            let service = compose.service(name);
            let grace = service["stop_grace_period"].as_str().map(humantime::parse_duration).unwrap().unwrap();
            assert!(grace > settings(&service, None).unwrap().shutdown_grace, "{file}, {name}: {grace:?}");
            assert_eq!(service["healthcheck"]["test"], json!(["CMD", "penr-webhooks", "ready"]), "{file}, {name}");
            assert_eq!(service["restart"], json!("unless-stopped"), "{file}, {name}");
        }
        let built = compose.services().into_iter().filter(|service| !service["build"].is_null());
        assert_eq!(built.map(|service| service.name).collect::<Vec<_>>(), ["migrate"], "{file}");
    }
}

#[tokio::test]
async fn the_commands_of_the_image_and_of_services_exist() {
    let site = Site::new().await;
    let dockerfile = text_of("Dockerfile");
    let mut commands = BTreeSet::new();
    for instruction in ["CMD ", "HEALTHCHECK "] {
        let line = dockerfile.lines().find(|line| line.starts_with(instruction)).unwrap();
        let words: Vec<String> = serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap();
        commands.insert(words.into_iter().filter(|word| word != "penr-webhooks").collect::<Vec<_>>());
    }
    for (file, environment) in [(DEVELOPMENT, &[][..]), (PRODUCTION, &OWN)] {
        for service in Compose::read(file, environment).unwrap().services() {
            if service.script().is_none() {
                commands.insert(service.words(&service["command"]).into_iter().map(str::to_owned).collect());
            }
        }
    }
    for command in &commands {
        let help: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let output = site.cli(&help).await;
        assert_eq!(output.code, 0, "{command:?}: {}", output.stderr);
    }
    assert_eq!(commands.len(), 5, "{commands:?}");
}

#[test]
fn the_image_says_what_it_is_and_where_it_listens() {
    let dockerfile = text_of("Dockerfile");
    assert!(!dockerfile.starts_with("# syntax"), "a build would ask a registry for it");
    assert!(dockerfile.contains(&format!("\nARG VERSION={}\n", env!("CARGO_PKG_VERSION"))));
    for (label, value) in [
        ("description", env!("CARGO_PKG_DESCRIPTION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("version", "$VERSION"),
    ] {
        assert!(dockerfile.contains(&format!("org.opencontainers.image.{label}=\"{value}\"")), "{label}");
    }
    let settings = Settings::load(None, image_environment(), |_| Err(std::io::ErrorKind::NotFound.into())).unwrap();
    let listens = [settings.api.listen, settings.ops_listen];
    assert!(listens.iter().all(|listen| listen.ip().is_unspecified()), "{listens:?}");
    let ports = listens.map(|listen| listen.port().to_string());
    assert!(dockerfile.contains(&format!("\nEXPOSE {}\n", ports.join(" "))), "{ports:?}");
    let compose = Compose::read(DEVELOPMENT, &[("API_PORT", "8089")]).unwrap();
    assert_eq!(compose.service("api")["ports"], json!([format!("127.0.0.1:8089:{}", ports[0])]));
}

/// The demo's own scripts, on this machine instead of the receiver's container.
#[tokio::test]
async fn the_demo_registers_its_receiver_once_and_shows_it_events() {
    let site = Site::new().await;
    let compose = Compose::read(DEVELOPMENT, &[]).unwrap();
    let reserved = ReservedPort::new();
    let port = reserved.address().port();
    let _worker = site.worker().await;
    let run = |name: &str| {
        let service = compose.service(name);
        let script = service.script().unwrap().replace("receiver:9000", &format!("127.0.0.1:{port}"));
        let script = script.replace("--port 9000", &format!("--port {port}"));
        let shell = [&service.words(&service["entrypoint"])[..], &[&script]].concat();
        let folder = std::path::Path::new(env!("CARGO_BIN_EXE_penr-webhooks")).parent().unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        site.launch(&[]).under(&shell).env("PATH", &path).start()
    };
    let mut receiver = run("receiver");
    for start in 0..2 {
        if start == 1 {
            receiver.kill9();
            receiver.wait().await;
            receiver = run("receiver");
        }
        let _publisher = run("publisher");
        let shown = eventually("a request is shown", async || {
            receiver.stdout().lines().find(|line| line.contains("evt_")).map(str::to_owned)
        });
        let shown = shown.await;
        assert!(shown.contains("X-Webhook-Signature valid, Webhook-Signature valid"), "{shown}");
    }
    let webhooks = site.json(&["webhooks", "list", "--account", "acc_demo"]).await;
    assert_eq!(webhooks["data"].as_array().map(Vec::len), Some(1), "{webhooks}");
}
