use super::*;

mod ceiling;
mod examples;

fn load(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let file = file.map(|text| ConfigFile { path: "penr.toml".into(), text: text.into() });
    let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Settings::load(file, variables, |path| match path {
        "/keys" => Ok(format!("{}\n", key())),
        "/proxy" => Ok("user:s3cret\n".to_owned()),
        "/management" => Ok("https://u:s3cret@h\n".to_owned()),
        "/url" => Ok("postgresql://u:s3cret@h/d\n".to_owned()),
        "/password" => Ok("ab/cd+ef=@x\n".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    })
}

fn key() -> String {
    format!("k1:{}A=", "Ab".repeat(21))
}

#[test]
fn the_defaults_and_our_own_files_are_valid() {
    let settings = load(None, &[]).unwrap();
    assert_eq!(settings.events.catalogue.types().count(), 7);
    assert_eq!(settings.retry.schedule.iter().sum::<Duration>(), Duration::from_secs(272_105));
    load(Some(include_str!("../../config/development.toml")), &[]).unwrap();
    load(Some(include_str!("../../config/production.toml")), &[]).unwrap();
}

#[test]
fn the_environment_lies_over_the_file_and_the_file_over_the_defaults() {
    let file = "[worker]\nprefetch = 7\nbatch = 8\n[retry]\njitter = 0\n";
    let variables =
        [("PENR_WEBHOOKS__WORKER__PREFETCH", "9"), ("PENR_WEBHOOKS__RETRY__SCHEDULE", r#"["1s", "250ms"]"#)];
    let settings = load(Some(file), &variables).unwrap();
    assert_eq!((settings.worker.prefetch, settings.worker.batch), (9, 8));
    assert_eq!(settings.retry.schedule, [Duration::from_secs(1), Duration::from_millis(250)]);
}

#[test]
fn an_operator_adds_an_event_type_after_the_seven() {
    let file = "[event_types.\"site.removed\"]\nname = \"Site Removed\"\ndescription = \"When it is\"\n";
    let settings = load(Some(file), &[]).unwrap();
    assert_eq!(settings.events.catalogue.types().last().unwrap().as_str(), "site.removed");
    assert_eq!(settings.events.catalogue.entries().len(), 8);
}

#[test]
fn a_secret_may_come_from_a_file() {
    let settings = load(None, &[("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS_FILE", "/keys")]).unwrap();
    assert_eq!(settings.keyring().unwrap().newest_key_id(), "k1");
    assert!(
        load(None, &[("DATABASE_URL_FILE", "/none")]).unwrap_err().to_string().starts_with("DATABASE_URL_FILE names")
    );
    let database = load(None, &[("DATABASE_URL_FILE", "/url")]).unwrap().database;
    assert_eq!(
        (database.url.expose(), &*database.url_from.files()),
        ("postgresql://u:s3cret@h/d", "DATABASE_URL_FILE")
    );
    assert_eq!(database.url_from.name("none"), "DATABASE_URL_FILE");
    assert_eq!(load(None, &[("AMQP_URL", "amqp://h")]).unwrap().amqp.url_from.files(), "");
    let digits = "1".repeat(40);
    assert_eq!(
        load(None, &[("PENR_WEBHOOKS__API__JWT_SECRET", &digits)]).unwrap().api.tokens.unwrap().secrets.len(),
        1
    );
}

/// Compose and secrets of a platform hand over a password as it is: nobody there can encode it for a URL.
#[test]
fn a_password_may_be_given_apart_from_its_url_and_as_it_is() {
    let amqp = ("AMQP_URL", "amqp://u@h/%2f");
    let settings = load(None, &[amqp, ("PENR_WEBHOOKS__AMQP__PASSWORD", "ab/cd+ef=@x")]).unwrap().amqp;
    assert_eq!(settings.url.expose(), "amqp://u:ab%2Fcd%2Bef%3D%40x@h/%2f");
    assert_eq!(settings.url_from.files(), "");
    let given = [amqp, ("DATABASE_URL_FILE", "/url"), ("PENR_WEBHOOKS__DATABASE__PASSWORD_FILE", "/password")];
    let settings = load(None, &given).unwrap();
    assert_eq!(settings.database.url.expose(), "postgresql://u:s3cret@h/d?password=ab%2Fcd%2Bef%3D%40x");
    assert_eq!(settings.amqp.url.expose(), "amqp://u@h/%2f");
    let from = settings.database.url_from;
    assert_eq!(from.files(), "DATABASE_URL_FILE and PENR_WEBHOOKS__DATABASE__PASSWORD_FILE");
    let changed = from.read_files(|path| Ok(if path == "/url" { "host=h\n" } else { "n'w\n" }.to_owned())).unwrap();
    assert_eq!(changed.expose(), r"host=h password='n\'w'");
    assert!(from.read_files(|_| Ok("\n".to_owned())).unwrap().is_empty());
    let error = load(None, &[("AMQP_URL", "amqp://s3cret"), ("PENR_WEBHOOKS__AMQP__PASSWORD", "s3cret")]).unwrap_err();
    assert!(
        error.to_string().starts_with("AMQP_URL must name a user") && !error.to_string().contains("s3cret"),
        "{error}"
    );
}

#[test]
fn a_setting_may_be_named_as_variables_of_files_are() {
    let given = |variable: &str, value: &str| load(None, &[(variable, value)]).map(|settings| settings.amqp.ca_file);
    assert_eq!(given("PENR_WEBHOOKS__AMQP__CA_FILE", "/etc/ca.pem").unwrap(), "/etc/ca.pem");
    assert_eq!(given("PENR_WEBHOOKS__AMQP__CA_FILE_FILE", "/proxy").unwrap(), "user:s3cret");
    assert!(given("PENR_WEBHOOKS__AMQP__CB_FILE", "/proxy").unwrap_err().to_string().ends_with("is no setting"));
}

#[test]
fn the_management_plugins_address_may_come_from_a_file_and_shows_no_password() {
    let settings = load(None, &[("PENR_WEBHOOKS__AMQP__MANAGEMENT_URL_FILE", "/management")]).unwrap();
    let management = settings.amqp.management.clone().unwrap();
    assert_eq!((management.url.as_str(), management.credentials.unwrap().password.expose()), ("https://h/", "s3cret"));
    assert!(!format!("{settings:?}").contains("s3cret"));
    assert!(load(None, &[]).unwrap().amqp.management.is_none());
    let refused = |file, variables: &[_]| load(file, variables).unwrap_err().to_string();
    let error = refused(None, &[("PENR_WEBHOOKS__AMQP__MANAGEMENT_URL", "amqp://u:s3cret@h")]);
    assert!(error.starts_with("PENR_WEBHOOKS__AMQP__MANAGEMENT_URL must have the form http://"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let error = refused(Some("[amqp]\nmanagement_url = \"http://s3cret@h\""), &[]);
    assert_eq!(error, "amqp.management_url (in penr.toml) must give a user with a password, or neither");
}

#[test]
fn a_proxys_credentials_come_from_a_file_and_are_shown_nowhere() {
    let credentials = ("PENR_WEBHOOKS__SENDER__PROXY_CREDENTIALS_FILE", "/proxy");
    let settings = load(Some("[sender]\nproxy = \"https://proxy.example.net\""), &[credentials]).unwrap();
    let proxy = settings.sender.proxy.clone().unwrap();
    assert_eq!(proxy.url.as_str(), "https://proxy.example.net/");
    assert_eq!(proxy.credentials.unwrap().expose(), "user:s3cret");
    assert!(!format!("{settings:?}").contains("s3cret"));
    assert!(load(None, &[]).unwrap().sender.proxy.is_none());
}

const JWT_SECRET: &str = "PENR_WEBHOOKS__API__JWT_SECRET";

/// The secrets that a text gives: in the variable itself, in a file that it names, and in the file of settings.
fn secrets_of(text: &str) -> [Result<Vec<String>, String>; 3] {
    let of_variable = load(None, &[(JWT_SECRET, text)]);
    let variable = (format!("{JWT_SECRET}_FILE"), "/secrets".to_owned());
    let of_file = Settings::load(None, [variable], |_| Ok(text.to_owned()));
    let quoted = toml::Value::String(text.to_owned());
    let of_settings = load(Some(&format!("[api]\njwt_secret = {quoted}\n")), &[]);
    [of_variable, of_file, of_settings].map(|settings| {
        let tokens = settings.map_err(|error| error.to_string())?.api.tokens;
        let secrets = tokens.map(|tokens| tokens.secrets).unwrap_or_default();
        Ok(secrets.iter().map(|secret| secret.expose().to_owned()).collect())
    })
}

#[test]
fn blanks_around_jwt_secrets_do_not_count_wherever_they_are_given() {
    let (a, b) = ("a".repeat(32), "b b".repeat(11));
    let both = [a.clone(), b.clone()];
    for (text, expected) in [
        (format!("{a},{b}"), &both[..]),
        (format!("{a}, {b}"), &both),
        (format!("{a},{b}\n"), &both),
        (format!("{a}, {b}\n"), &both),
        (format!("{a},\n{b}\n"), &both),
        (format!("{a},\r\n{b}\r\n"), &both),
        (format!(" {a}\t,\t{b} "), &both),
        (format!("{a},,{b},"), &both),
        (format!("{b}\n"), &both[1..]),
        (format!(" {b}"), &both[1..]),
        (format!("\n{b}\r\n"), &both[1..]),
    ] {
        for secrets in secrets_of(&text) {
            assert_eq!(secrets.as_deref(), Ok(expected), "{text:?}");
        }
    }
}

#[test]
fn blanks_are_no_jwt_secret_and_make_none_longer() {
    let (good, short) = ("a".repeat(32), "s3cret".to_owned() + &" ".repeat(40));
    for (text, expected) in [
        (" ".repeat(32), "holds no secret"),
        ("\t".repeat(40), "holds no secret"),
        (format!("{},", " ".repeat(32)), "holds no secret"),
        (format!(",{}", " \n".repeat(32)), "holds no secret"),
        (short.clone(), "must have at least 32 bytes"),
        (format!("{good},{short}"), "must have at least 32 bytes"),
        (format!("{good}\n{good}"), "must have a comma between two secrets"),
    ] {
        for (place, secrets) in ["variable", "file", "settings"].into_iter().zip(secrets_of(&text)) {
            let error = secrets.expect_err(expected);
            // Of a file the blanks at its end are dropped before.
            let empty = place == "file" && text.trim_end().is_empty() && error.contains("is empty");
            assert!(error.contains(expected) || empty, "{place}: {text:?}: {error}");
            assert!(!error.contains("s3cret") && !error.contains('\n'), "{error}");
        }
    }
}

/// What docker-compose.yml sets where the operator does not.
const PUBLISHED: [(&str, &str); 2] = [
    ("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS", "development:cGVuci13ZWJob29rcy1kZXZlbG9wbWVudC1vbmx5ISE="),
    (JWT_SECRET, "development-only-and-known-to-everybody"),
];

#[test]
fn published_keys_are_refused_where_they_are_used_unless_the_settings_say_otherwise() {
    let production = Some(include_str!("../../config/production.toml"));
    for file in [None, production] {
        let settings = load(file, &PUBLISHED).unwrap();
        let refused = [settings.keyring().unwrap_err(), settings.tokens().unwrap_err()].map(|error| error.to_string());
        for ((variable, value), error) in PUBLISHED.into_iter().zip(refused) {
            assert!(error.starts_with(variable) && error.contains("published"), "{error}");
            assert!(error.contains("openssl rand -base64 32") && !error.contains('\n'), "{error}");
            assert!(!error.contains(value.rsplit(':').next().unwrap()), "{error}");
        }
        assert!(settings.published_keys.check().is_err());
        assert_eq!(settings.published_keys.found().count(), 2);
    }
    let development = load(Some(include_str!("../../config/development.toml")), &PUBLISHED).unwrap();
    assert!(development.keyring().is_ok() && development.tokens().is_ok());
    assert!(development.published_keys.check().is_ok());
    assert_eq!(development.published_keys.found().count(), 2, "doctor tells of them all the same");
}

#[test]
fn a_published_key_is_refused_at_any_place_of_a_list() {
    let [(keys, key), (secrets, secret)] = PUBLISHED;
    let own = "a".repeat(32);
    let [renamed, second] = [key.replace("development:", "2026-11:"), format!("{},{key}", self::key())];
    for text in [&renamed, &second] {
        assert!(load(None, &[(keys, text)]).unwrap().keyring().is_err(), "{text}");
    }
    let first = format!("{secret},{own}");
    for text in [&first, &format!("{own}, {secret}\n"), &format!("{own},{key}")] {
        assert!(load(None, &[(secrets, text)]).unwrap().tokens().is_err(), "{text}");
    }
    let settings = load(None, &[(keys, &self::key()), (secrets, &own)]).unwrap();
    assert!(settings.keyring().is_ok() && settings.tokens().is_ok());
    assert_eq!(settings.published_keys.found().count(), 0);
}

#[test]
fn allowed_hosts_are_read_as_the_hosts_of_urls_are() {
    let variable = "PENR_WEBHOOKS__SENDER__ALLOW_HOSTS";
    let hosts = |text: &str| {
        let settings = load(None, &[(variable, text)]).map_err(|error| error.to_string())?;
        Ok::<_, String>(settings.sender.urls.allowed_hosts.iter().map(|host| host.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(
        hosts(r#"["Receiver", "*.Hooks.svc.cluster.local."]"#).unwrap(),
        ["receiver", "*.hooks.svc.cluster.local"]
    );
    assert!(hosts("[]").unwrap().is_empty());
    assert!(load(None, &[]).unwrap().sender.urls.allowed_hosts.iter().next().is_none());
    let refused = |text| hosts(text).unwrap_err();
    assert_eq!(
        refused(r#"["receiver:9000"]"#),
        format!(
            "{variable} entry 1 has a port; write the host alone, which may then \
        be called at every port that webhooks may have"
        )
    );
    assert!(
        refused(r#"["receiver", "http://u:s3cret@receiver"]"#).starts_with(&format!("{variable} entry 2 is more than"))
    );
    assert!(!refused(r#"["http://u:s3cret@receiver"]"#).contains("s3cret"));
    assert_eq!(refused("receiver"), format!("{variable} must be a TOML array such as [\"5s\", \"5m\"]"));
}

#[test]
fn networks_of_translated_addresses_cannot_be_allowed() {
    for network in ["64:ff9b::/96", "64:ff9b::a00:0/104", "64:ff9b::808:808/128", "64:ff9b::/32", "::/1"] {
        let file = format!("[sender]\nallow_networks = [\"10.0.0.0/8\", \"{network}\"]\n");
        let error = load(Some(&file), &[]).unwrap_err().to_string();
        assert!(
            error.starts_with("sender.allow_networks (in penr.toml) must name nothing inside or around 64:ff9b::/96"),
            "{error}"
        );
        load(Some(&file.replace("allow", "deny")), &[]).unwrap();
    }
    load(Some("[sender]\nallow_networks = [\"64:ff9b:1::/48\", \"fd00::/8\"]"), &[]).unwrap();
}

#[test]
fn a_bad_setting_is_named_where_it_was_written_and_its_value_is_not_shown() {
    type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        (None, &[("PENR_WEBHOOKS__WORKER__PREFETCH", "")], "PENR_WEBHOOKS__WORKER__PREFETCH must be a whole number"),
        (None, &[("PENR_WEBHOOKS__WORKER__PREFETCH", "s3cret")], "PENR_WEBHOOKS__WORKER__PREFETCH must be a whole"),
        (None, &[("PENR_WEBHOOKS__WORKER__PREFETCH", "0")], "PENR_WEBHOOKS__WORKER__PREFETCH must be from 1 to 65535"),
        (None, &[("PENR_WEBHOOKS__WORKER__PREFETCH", "-1")], "PENR_WEBHOOKS__WORKER__PREFETCH "),
        (None, &[("PENR_WEBHOOKS__WORKER__PREFECTH", "5")], "PENR_WEBHOOKS__WORKER__PREFECTH is no setting"),
        (None, &[("PENR_WEBHOOKS__WORKER", "5")], "PENR_WEBHOOKS__WORKER is no setting"),
        (None, &[("PENR_WEBHOOKS__RETRY__SCHEDULE", "5s")], "PENR_WEBHOOKS__RETRY__SCHEDULE must be a TOML array"),
        (
            None,
            &[("PENR_WEBHOOKS__RETRY__SCHEDULE", r#"["5 s3cret"]"#)],
            "PENR_WEBHOOKS__RETRY__SCHEDULE must be a dur",
        ),
        (None, &[("PENR_WEBHOOKS__RETRY__JITTER", "NaN")], "PENR_WEBHOOKS__RETRY__JITTER must be from 0 to 0.5"),
        (None, &[("PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS", r#"["10/8"]"#)], "PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS "),
        (
            None,
            &[("PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS", r#"["0.0.0.0/0"]"#)],
            "PENR_WEBHOOKS__SENDER__ALLOW_NETWORKS",
        ),
        (None, &[("PENR_WEBHOOKS__WORKER__LEASE", "5s")], "PENR_WEBHOOKS__WORKER__LEASE must be from 14s"),
        (None, &[("PENR_WEBHOOKS__LOG__FORMAT", "xml")], "PENR_WEBHOOKS__LOG__FORMAT "),
        (None, &[("PENR_WEBHOOKS__OPS__LISTEN", "9090")], "PENR_WEBHOOKS__OPS__LISTEN "),
        (None, &[("DATABASE_URL", "")], "DATABASE_URL is empty"),
        (
            None,
            &[("AMQP_URL", "amqp://h"), ("PENR_WEBHOOKS__AMQP__URL", "amqp://h")],
            "PENR_WEBHOOKS__AMQP__URL and AMQP",
        ),
        (None, &[("PENR_WEBHOOKS__API__JWT_SECRET", "s3cret")], "PENR_WEBHOOKS__API__JWT_SECRET must have at least 32"),
        (
            None,
            &[("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS", "k1:s3cret")],
            "PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS key 1",
        ),
        (
            None,
            &[("PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS_FILE", "/none")],
            "PENR_WEBHOOKS__SECURITY__ENCRYPTION_KEYS_FILE names",
        ),
        (Some("[worker]\nprefetch = \"s3cret\""), &[], "worker.prefetch (in penr.toml) must be a whole number"),
        (Some("[api]\njwt_secret = 5"), &[], "api.jwt_secret (in penr.toml) must be text"),
        (Some("[wroker]\nprefetch = 1"), &[], "wroker (in penr.toml) is no setting"),
        (Some("[api]\njwt_secret = \"s3cret"), &[], "penr.toml is not valid TOML near line 2"),
        (Some("[event_types.\"a b\"]\nname=\"a\"\ndescription=\"b\""), &[], "event_types.a b (in penr.toml) must be"),
        (Some("[event_types.\"a.b\"]\nname=\"a\""), &[], "event_types.a.b (in penr.toml) needs a name"),
        (
            Some("[event_types.\"content.created\"]\nexample=\"{'a': 1}\""),
            &[],
            "event_types.content.created.example (in penr.toml) must be JSON; the mistake is at line 1, column 2",
        ),
        (
            Some("[sender]\nproxy = \"http://u:s3cret@proxy:3128\""),
            &[],
            "sender.proxy (in penr.toml) must name no user",
        ),
        (Some("[sender]\nproxy = \"socks5://s3cret:1\""), &[], "sender.proxy (in penr.toml) must begin with http://"),
        (Some("[sender]\nproxy = \"http://proxy/s3cret\""), &[], "sender.proxy (in penr.toml) must be no more than"),
        (None, &[("PENR_WEBHOOKS__SENDER__PROXY", "s3cret:3128")], "PENR_WEBHOOKS__SENDER__PROXY must begin with"),
        (None, &[("PENR_WEBHOOKS__SENDER__PROXY", "http://s3cret:x")], "PENR_WEBHOOKS__SENDER__PROXY is not a URL"),
        (
            None,
            &[("PENR_WEBHOOKS__SENDER__PROXY_CREDENTIALS_FILE", "/proxy")],
            "PENR_WEBHOOKS__SENDER__PROXY_CREDENTIALS_FILE are for sender.proxy",
        ),
        (
            Some("[sender]\nproxy = \"http://proxy:3128\""),
            &[("PENR_WEBHOOKS__SENDER__PROXY_CREDENTIALS", "s3cret")],
            "PENR_WEBHOOKS__SENDER__PROXY_CREDENTIALS must be user:password",
        ),
        (Some("[sender]\ntimeout = \"61s\""), &[], "sender.timeout (in penr.toml) must be from 10ms to 1m"),
        (Some("[sender]\nmax_connection_age = \"0s\""), &[], "sender.max_connection_age (in penr.toml) must be"),
    ];
    for (file, variables, expected) in cases {
        let error = load(*file, variables).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error:?} should begin with {expected:?}");
        assert!(!error.contains("s3cret"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn a_range_that_depends_on_another_setting_is_named_as_it_is() {
    for (file, expected) in [
        ("[worker]\nlease = \"2days\"", "worker.lease (in penr.toml) must be from 14s to 1day"),
        (
            "[worker]\nprobe_interval_max = \"2days\"",
            "worker.probe_interval_max (in penr.toml) must be from 1s to 1day",
        ),
        (
            "[worker]\nshards = [1, \"s3cret\"]",
            "worker.shards (in penr.toml) must be a TOML array of whole numbers, such as [1, 2]",
        ),
        (
            "[queue]\nshards = 3\n[worker]\nshards = [1, 4]",
            "worker.shards (in penr.toml) must name numbers from 1 to 3, as many queues as [queue] has",
        ),
        (
            "[queue]\nshards = 4\nshard_queues = 2",
            "queue.shard_queues (in penr.toml) must be 0, or not less than queue.shards",
        ),
        (
            "[queue]\nshards = 2\ndead_queue = \"penr.webhooks.2\"",
            "queue.dead_queue (in penr.toml) must differ from the names of all queues of the workers",
        ),
        ("[worker]\npoll_interval_max = \"2h\"", "worker.poll_interval_max (in penr.toml) must be from 100ms to 10m"),
        (
            "[api]\ndrain_delay = \"2h\"",
            "api.drain_delay (in penr.toml) must not be longer than shutdown.grace (25s), of which it is a part",
        ),
    ] {
        assert_eq!(load(Some(file), &[]).unwrap_err().to_string(), expected);
    }
    let error = load(Some("[worker]\nlease = \"s3cret\""), &[]).unwrap_err().to_string();
    assert_eq!(error, "worker.lease (in penr.toml) must be a duration such as 250ms, 5s or 2h");
}

#[test]
fn an_address_to_listen_on_and_the_time_to_drain_are_explained() {
    let refused = |file: &str| load(Some(file), &[]).unwrap_err().to_string();
    let error = refused("[ops]\nlisten = \":9090\"");
    assert!(
        error.starts_with("ops.listen (in penr.toml) must name an address before the port: [::]:9090 for"),
        "{error}"
    );
    let error = refused("[api]\nlisten = \"s3cret:8080\"");
    assert!(error.starts_with("api.listen (in penr.toml) must be an address, not a name: [::]:8080 for"), "{error}");
    let error = refused("[shutdown]\ngrace = \"2s\"");
    assert_eq!(error, "api.drain_delay must not be longer than shutdown.grace (2s), of which it is a part");
    load(Some("[shutdown]\ngrace = \"5s\""), &[]).unwrap();
}

#[test]
fn a_command_that_needs_a_missing_setting_says_which() {
    let settings = load(None, &[]).unwrap();
    assert!(settings.database_url().unwrap_err().to_string().starts_with("DATABASE_URL is not set"));
    assert!(settings.amqp_url().unwrap_err().to_string().starts_with("AMQP_URL is not set"));
    assert!(settings.keyring().unwrap_err().to_string().contains("ENCRYPTION_KEYS is not set"));
}
