//! Servers of one test's own, which it may kill, pause and restart. A test starts only those that it hurts: RabbitMQ takes
//! four seconds of a processor to start.

use std::ops::Deref;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::hidden_value::HiddenValue;
use super::search::{self, Searched};
use super::servers::{Servers, unique_name};

/// How many tests may have servers of their own at a time. A test that waits here keeps its thread from tests that need no
/// servers of their own, so there is room for almost as many as `make test` runs at a time on two processors.
static ROOM: Semaphore = Semaphore::const_new(3);

pub struct PrivateServers {
    // Stopped before the next test may start servers: fields are dropped in this order.
    instance: Instance,
    servers: Arc<Servers>,
    _room: SemaphorePermit<'static>,
}

impl PrivateServers {
    pub async fn start() -> Self {
        let room = room().await;
        let instance = Instance::start(&["postgres", "rabbitmq"]).await;
        let servers = Servers::disposable(instance.export("DATABASE_URL").await, instance.export("AMQP_URL").await);
        Self { instance, servers, _room: room }
    }

    /// Servers that listen on this address of the machine, too.
    pub async fn also_at(address: &str) -> Self {
        let room = room().await;
        let instance = Instance(unique_name());
        services_with(&["start", &instance.0], &[("PENR_SERVICES_ALSO", address)]).await;
        let servers = Servers::disposable(instance.export("DATABASE_URL").await, instance.export("AMQP_URL").await);
        Self { instance, servers, _room: room }
    }

    /// A Postgres of one's own, beside the broker that all tests share.
    pub async fn postgres() -> Self {
        let room = room().await;
        let instance = Instance::start(&["postgres"]).await;
        let servers = Servers::with_disposable_postgres(instance.export("DATABASE_URL").await);
        Self { instance, servers, _room: room }
    }

    /// A broker of one's own, beside the Postgres that all tests share.
    pub async fn broker() -> Self {
        Self::broker_with(&["rabbitmq"]).await
    }

    /// The same with its management plugin.
    pub async fn broker_and_management() -> Self {
        Self::broker_with(&["rabbitmq", "management"]).await
    }

    /// A broker without the plugin that several worker queues need.
    pub async fn bare_broker() -> Self {
        let room = room().await;
        let instance = Instance(unique_name());
        services_with(&["start", &instance.0, "rabbitmq"], &[("PENR_SERVICES_BARE", "1")]).await;
        let servers = Servers::with_disposable_broker(instance.export("AMQP_URL").await);
        Self { instance, servers, _room: room }
    }

    async fn broker_with(servers: &[&str]) -> Self {
        let room = room().await;
        let instance = Instance::start(servers).await;
        let servers = Servers::with_disposable_broker(instance.export("AMQP_URL").await);
        Self { instance, servers, _room: room }
    }

    /// With the credentials of the administrator.
    pub async fn management_url(&self) -> String {
        self.instance.export("MANAGEMENT_URL").await
    }

    /// Makes users of the virtual host `/`, or gives them other rights: name, configure, write, read. Their password is
    /// their name.
    pub async fn let_users(&self, users: &[[&str; 4]]) {
        let quoted = |text: &str| format!("<<\"{}\">>", text.replace('\\', "\\\\"));
        let rows: Vec<_> = users.iter().map(|user| format!("{{{}}}", user.map(quoted).join(","))).collect();
        let module = "rabbit_auth_backend_internal";
        let call = format!(
            "[begin catch {module}:add_user(U, U, <<\"t\">>), ok = {module}:set_permissions(U, <<\"/\">>, C, W, R, <<\"t\">>) end \
             || {{U, C, W, R}} <- [{}]].",
            rows.join(",")
        );
        assert!(self.ctl(&["eval", &call]).await.contains("ok"), "{call}");
    }

    /// What `rabbitmqctl` prints.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        services(&[&["ctl", &self.instance.0], arguments].concat()).await
    }

    /// Messages of the broker's log about protocol errors of clients, and about crashes. Each line of a message begins with the
    /// message's time and process.
    pub async fn protocol_errors(&self) -> Vec<String> {
        const ERRORS: [&str; 6] =
            ["precondition_failed", "channel_error", "internal_error", "unexpected_frame", "frame_error", "crash"];
        let log = services(&["log", "rabbitmq", &self.instance.0]).await;
        let lines: Vec<_> = log.lines().collect();
        let messages = lines.chunk_by(|one, next| one.split_once('>').unzip().0 == next.split_once('>').unzip().0);
        let messages = messages.map(|lines| lines.join("\n"));
        messages.filter(|message| ERRORS.iter().any(|error| message.contains(error))).collect()
    }

    /// What `psql` prints, on the instance's own database. Sites have databases of their own.
    pub async fn psql(&self, arguments: &[&str]) -> String {
        services(&[&["psql", &self.instance.0], arguments].concat()).await
    }
}

impl Deref for PrivateServers {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl From<&PrivateServers> for Arc<Servers> {
    fn from(private: &PrivateServers) -> Self {
        private.servers.clone()
    }
}

/// Waits until this test may start servers.
pub(super) async fn room() -> SemaphorePermit<'static> {
    ROOM.acquire().await.expect("the semaphore is never closed")
}

/// A started instance; dropping it stops its servers, also after a failed or abandoned start.
pub struct Instance(String);

impl Instance {
    /// Starts these servers.
    pub(super) async fn start(servers: &[&str]) -> Self {
        let instance = Self(unique_name());
        services(&[&["start", &instance.0], servers].concat()).await;
        instance
    }

    /// What `scripts/services env` exports under this name.
    pub(super) async fn export(&self, name: &str) -> String {
        let exports = services(&["env", &self.0]).await;
        let line = exports.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
        // The values are URLs: the shell's quoting never needs more than a backslash.
        line.unwrap_or_else(|| panic!("scripts/services gives no {name}")).replace('\\', "")
    }

    /// Searches all files of its servers: data, logs and messages.
    pub fn search(&self, value: &HiddenValue) -> Option<Searched> {
        let output =
            command(&["search", &self.0, value.text()]).output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut lines = text.lines();
        let (files, bytes) = lines.next()?.split_once(' ')?;
        let leaks = lines.map(str::to_owned).collect();
        Some(Searched { places: files.parse().ok()?, size: bytes.parse().ok()?, leaks })
    }

    /// Where the run's hidden value is in them. Servers that did not start have nothing to search.
    fn leaks(&self) -> Vec<String> {
        let Some(found) = self.search(HiddenValue::of_run()) else { return Vec::new() };
        search::count("instances", 1);
        search::count("instance_files", found.places);
        found.leaks
    }

    pub(super) fn name(&self) -> &str {
        &self.0
    }

    /// SIGKILL to one of its servers, by the name that `scripts/services` has for it.
    pub async fn kill(&self, server: &str) {
        self.tell(&["kill", server]).await;
    }

    /// An orderly stop that keeps the data; `restart` brings it back.
    pub async fn graceful_stop(&self, server: &str) {
        self.tell(&["graceful-stop", server]).await;
    }

    /// Starts it on the same port with the same data, stopping it in good order first if it runs.
    pub async fn restart(&self, server: &str) {
        self.tell(&["restart", server]).await;
    }

    pub async fn pause(&self, server: &str) {
        self.tell(&["pause", server]).await;
    }

    pub async fn resume(&self, server: &str) {
        self.tell(&["resume", server]).await;
    }

    /// `tell(&["kill", "postgres"])`.
    pub(super) async fn tell(&self, command: &[&str]) {
        services(&[command, &[&self.0]].concat()).await;
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let leaks = self.leaks();
        let stopped = command(&["stop", &self.0]).stdout(Stdio::null()).output();
        if !stopped.is_ok_and(|output| output.status.success()) {
            eprintln!("scripts/services stop {} failed", self.0);
        }
        search::report(&leaks);
    }
}

fn command(arguments: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
    let mut command = Command::new(script);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs `scripts/services` to its end. There is no time-out: the script has its own, and half a restart would be worse.
pub(super) async fn services(arguments: &[&str]) -> String {
    services_with(arguments, &[]).await
}

async fn services_with(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = command(arguments);
    command.envs(variables.iter().copied());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.expect("no panic in there").expect("scripts/services can be run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/services {}: {stderr}", arguments.join(" "));
    String::from_utf8(output.stdout).expect("scripts/services prints text")
}
