//! From RabbitMQ's management plugin, `doctor` learns of policies that lose messages, of members and of alarms. It says
//! which right the user lacks, or why the plugin does not answer.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::*;

/// The management plugin, called as an administrator.
pub(super) struct Plugin {
    address: String,
    authorization: String,
}

impl Plugin {
    pub(super) fn at(url: &str) -> Self {
        let url = Url::parse(url).unwrap();
        let credentials = format!("{}:{}", url.username(), url.password().unwrap());
        Self {
            address: format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()),
            authorization: format!("Basic {}", BASE64_STANDARD.encode(credentials)),
        }
    }

    pub(super) async fn ask(&self, method: &str, path: &str, body: &Value) -> http::Response {
        let headers = [("Authorization", self.authorization.as_str()), ("Content-Type", "application/json")];
        let answer =
            http::ask(&self.address, method, &format!("/api/{path}"), &headers, body.to_string().as_bytes()).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.text());
        answer
    }

    /// Waits until the plugin shows `definition` as the sum of all policies of a queue, which takes it a moment.
    async fn wait_until_in_force(&self, queue: &str, definition: Value) {
        wait_until("the policies are in force", async || {
            let told = self.ask("GET", &format!("queues/%2F/{queue}"), &json!({})).await.json();
            told["effective_policy_definition"] == definition
        })
        .await;
    }

    /// Sets a policy; `kind` is `policies` or `operator-policies`.
    async fn set(&self, kind: &str, name: &str, pattern: &str, priority: u32, definition: Value) {
        let policy = json!({"pattern": pattern, "definition": definition, "priority": priority, "apply-to": "queues"});
        self.ask("PUT", &format!("{kind}/%2F/{name}"), &policy).await;
    }

    /// Adds a user whose password is its name, and who may do everything with our queues.
    pub(super) async fn add_user(&self, name: &str, tags: &str) {
        self.ask("PUT", &format!("users/{name}"), &json!({"password": name, "tags": tags})).await;
        let rights = json!({"configure": ".*", "write": ".*", "read": ".*"});
        self.ask("PUT", &format!("permissions/%2F/{name}"), &rights).await;
    }

    /// A value for `amqp.management_url`.
    pub(super) fn url(&self, credentials: &str) -> String {
        format!("http://{credentials}{}", self.address)
    }
}

/// One test for all cases, since a private broker takes seconds to start.
#[tokio::test]
async fn the_doctor_names_policies_that_break_a_promise_and_what_it_may_not_read() {
    let servers = PrivateServers::broker_and_management().await;
    let plugin = Plugin::at(&servers.management_url().await);
    let site = Site::on(&servers).await.with_usual_names().set("amqp.connect_timeout", "5s");
    // The administrator's credentials, from AMQP_URL.
    let site = site.set("amqp.management_url", &plugin.url(""));
    let report = site.doctor().await;
    let unknown = ["penr.webhooks is not declared yet", "penr.webhooks.dead is not declared yet", "the first worker"];
    report.assert("policies", "warns", &unknown);
    report.assert("members", "warns", &unknown);
    let worker = site.worker().await;
    names_a_stranger(&site).await;
    drop(worker);
    plugin.wait_until_in_force(site.worker_queue(), json!({})).await;
    plugin.wait_until_in_force(site.dead_queue(), json!({})).await;
    plugin.wait_until_in_force(site.unrouted_queue(), json!({})).await;
    let report = site.doctor().await;
    report.assert("management", "ok", &[&plugin.address]);
    report.assert("policies", "ok", &["none applies"]);
    report.assert("members", "ok", &["1 of 1 members of penr.webhooks are online"]);
    report.assert("alarms", "ok", &["none"]);
    harmful_policies_are_named(&site, &plugin).await;
    let site = users_with_fewer_rights_are_told_what_they_lack(site, &plugin).await;
    let site = an_address_that_is_not_the_plugins_is_reported(site, &plugin).await;
    a_private_authority_is_trusted_for_the_plugin_as_for_the_broker(&site, &plugin).await;
    servers.ctl(&["eval", "rabbit_alarm:set_alarm({{resource_limit, disk, node()}, []})."]).await;
    let report = site.set("amqp.management_url", &plugin.url("watching:watching@")).doctor().await;
    report.assert("alarms", "fails", &["disk space on penr@localhost", "takes nothing from publishers"]);
    assert_eq!(report.code, 1);
}

async fn harmful_policies_are_named(site: &Site, plugin: &Plugin) {
    plugin.set("policies", "everywhere", ".*", 0, json!({"delivery-limit": 3})).await;
    plugin.wait_until_in_force(site.worker_queue(), json!({"delivery-limit": 3})).await;
    plugin.wait_until_in_force(site.dead_queue(), json!({"delivery-limit": 3})).await;
    plugin.wait_until_in_force(site.unrouted_queue(), json!({"delivery-limit": 3})).await;
    let report = site.doctor().await;
    let said = [
        "penr.events.unrouted: delivery-limit 3, by the policy everywhere: an unrouted event that was read so often is dropped",
        "penr.webhooks: delivery-limit 3, by the policy everywhere: an event handed out so often",
        "penr.webhooks.dead: delivery-limit 3, by the policy everywhere: a dead letter that was read so often is dropped",
        "exempt our queues",
    ];
    report.assert("policies", "fails", &said);
    assert_eq!(report.code, 1);
    plugin.set("policies", "everywhere", r"^penr\.webhooks$", 0, json!({"overflow": "drop-head"})).await;
    plugin.wait_until_in_force(site.worker_queue(), json!({"overflow": "drop-head"})).await;
    let said = "penr.webhooks: overflow drop-head, by the policy everywhere: what is rejected may be lost";
    site.doctor().await.assert("policies", "fails", &[said]);
    plugin.set("policies", "everywhere", r"^penr\.webhooks$", 0, json!({"message-ttl": 60_000})).await;
    plugin.wait_until_in_force(site.worker_queue(), json!({"message-ttl": 60_000})).await;
    plugin.wait_until_in_force(site.dead_queue(), json!({})).await;
    site.doctor().await.assert("policies", "warns", &["penr.webhooks: message-ttl 60000, by the policy everywhere"]);
    plugin.set("policies", "short", r"\.dead$", 1, json!({"message-ttl": 60_000, "max-length": 9})).await;
    plugin.set("operator-policies", "low", ".*", 0, json!({"max-length": 5})).await;
    let both = json!({"message-ttl": 60_000, "max-length": 5});
    plugin.wait_until_in_force(site.worker_queue(), both.clone()).await;
    plugin.wait_until_in_force(site.dead_queue(), both).await;
    let said = [
        "penr.webhooks.dead: message-ttl 60000, by the policy short: dead letters are dropped after that time",
        "penr.webhooks.dead: max-length 5, by the operator policy low: once so much is there, the oldest",
        "penr.webhooks: max-length 5, by the operator policy low: once so much waits, publishing is refused",
    ];
    site.doctor().await.assert("policies", "fails", &said);
}

async fn users_with_fewer_rights_are_told_what_they_lack(site: Site, plugin: &Plugin) -> Site {
    plugin.add_user("plain", "").await;
    plugin.add_user("watching", "management").await;
    let site = site.with_broker_user("plain");
    let report = site.doctor().await;
    report.assert("management", "warns", &["refuses the user plain", "rabbitmqctl set_user_tags"]);
    report.assert_skipped(&["policies", "members", "alarms"]);
    report.assert("round_trip", "ok", &[]);
    let site = site.set("amqp.management_url", &plugin.url("watching:watching@"));
    let report = site.doctor().await;
    report.assert("management", "ok", &["the user watching"]);
    report.assert("policies", "fails", &["max-length 5, by the policy short or the operator policy low"]);
    report.assert("members", "ok", &[]);
    site
}

async fn a_private_authority_is_trusted_for_the_plugin_as_for_the_broker(site: &Site, plugin: &Plugin) {
    let authority = Authority::new();
    let file = authority.trust_file(site.folder());
    let broker = TlsFront::to(site.amqp_address(), authority.identity().server_config()).await;
    let front = TlsFront::to(&plugin.address, authority.identity().server_config()).await;
    let doctor = site.launch(&["doctor", "--json"]).set("amqp.ca_file", file.to_str().unwrap());
    let url = site.amqp_url_through(&broker.addr()).replacen("amqp://", "amqps://", 1);
    let doctor = doctor.env("AMQP_URL", &url).set("amqp.management_url", &format!("https://{}", front.addr()));
    let report = Report::of(doctor.start()).await;
    report.assert("broker", "ok", &["with TLS"]);
    report.assert("management", "ok", &["https://"]);
    let stranger = TlsFront::to(&plugin.address, Authority::new().identity().server_config()).await;
    let doctor = site.launch(&["doctor", "--json"]).set("amqp.ca_file", file.to_str().unwrap());
    let doctor = doctor.env("AMQP_URL", &url).set("amqp.management_url", &format!("https://{}", stranger.addr()));
    let report = Report::of(doctor.start()).await;
    report.assert("management", "warns", &["does not answer", "certificate is refused", "amqp.ca_file"]);
}

async fn an_address_that_is_not_the_plugins_is_reported(site: Site, plugin: &Plugin) -> Site {
    let site = site.set("amqp.management_url", &format!("{}/elsewhere", plugin.url("")));
    let report = site.doctor().await;
    report.assert("management", "warns", &["no management plugin (HTTP 404)", "host, port and path"]);
    let nobody = ClosedPort::new();
    let site = site.set("amqp.management_url", &nobody.url().replacen("http://", "http://u:s3cret@", 1));
    let report = site.doctor().await;
    report.assert("management", "warns", &["does not answer", "refused", "rabbitmq-plugins enable"]);
    report.assert_nowhere("s3cret");
    assert_eq!(report.code, 0);
    site
}

/// The plugin learns of a consumer some seconds later.
async fn names_a_stranger(site: &Site) {
    wait_until("the worker is seen", async || site.count("SELECT count(*) FROM processes").await == 1).await;
    let mut stranger = site.own_amqp().await;
    let _consumer = stranger.consume(site.worker_queue(), "stranger").await.unwrap();
    let user = Url::parse(site.amqp_url()).unwrap().username().to_owned();
    eventually("the stranger is named, and the worker is not", async || {
        let said = site.doctor().await.check("consumers").to_string();
        let told =
            said.contains("nobody's: consumer stranger of connection") && said.contains(&format!("as user {user}"));
        (told && said.contains("from 127.0.0.1:") && !said.contains("penr-webhooks-")).then_some(())
    })
    .await;
    stranger.close().await.unwrap();
}
