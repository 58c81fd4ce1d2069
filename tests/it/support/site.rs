//! One test's own world: a fresh database, its own exchanges and queues, its own keys. Nothing of it outlives the test.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::Client;
use url::Url;

use super::amqp::Amqp;
use super::broker::Names;
use super::replica::{Launch, Replica};
use super::search;
use super::servers::{Servers, connect, unique_name};
use super::settings::{Configure, Settings};
use super::wait::wait_until;

pub struct Site {
    servers: Arc<Servers>,
    database: String,
    database_url: String,
    settings: Settings,
    folder: TempDir,
    sql: OnceCell<Client>,
    pub(super) names: Names,
    pub(super) amqp: Mutex<Option<Amqp>>,
}

impl Site {
    /// A world on the servers that all tests share.
    pub async fn new() -> Self {
        Self::on(Servers::shared()).await
    }

    /// A world whose database is bare, on the servers that all tests share.
    pub async fn unmigrated() -> Self {
        let (servers, name) = (Servers::shared(), unique_name());
        let database_url = servers.create_bare_database(&format!("penr_{name}")).await;
        Self::with(servers, name, database_url)
    }

    /// A world on the test's own servers, which it may stop or kill.
    pub async fn on(servers: impl Into<Arc<Servers>>) -> Self {
        let (servers, name) = (servers.into(), unique_name());
        let database_url = servers.create_database(&format!("penr_{name}")).await;
        Self::with(servers, name, database_url)
    }

    fn with(servers: Arc<Servers>, name: String, database_url: String) -> Self {
        let database = format!("penr_{name}");
        let mut settings = Settings::new(&database_url, servers.amqp_url());
        let names = Names::with_suffix(&name);
        names.write_to(&mut settings);
        Self {
            servers,
            database,
            database_url,
            settings,
            folder: tempfile::tempdir().expect("a temporary folder"),
            sql: OnceCell::new(),
            names,
            amqp: Mutex::new(None),
        }
    }

    /// With the names of the defaults, on a broker of its own.
    pub fn with_usual_names(mut self) -> Self {
        self.names = Names::usual();
        self.names.write_to(&mut self.settings);
        self
    }

    /// Processes started from here on log in at the broker as this user, whose password is its name.
    pub fn with_broker_user(self, user: &str) -> Self {
        let url = self.amqp_url_of(user);
        self.env("AMQP_URL", &url)
    }

    /// RabbitMQ's URL for this user, for one process among others.
    pub fn amqp_url_of(&self, user: &str) -> String {
        let mut url = Url::parse(self.amqp_url()).expect("a URL");
        url.set_username(user).and_then(|()| url.set_password(Some(user))).expect("a URL with a host");
        url.into()
    }

    /// Processes started from here on reach RabbitMQ through `address` (a proxy's); the test itself does not.
    pub fn amqp_through(self, address: &str) -> Self {
        let url = self.amqp_url_through(address);
        self.env("AMQP_URL", &url)
    }

    /// Processes started from here on reach Postgres through `address` (a proxy's); the test itself does not.
    pub fn postgres_through(self, address: &str) -> Self {
        let url = self.database_url_through(address);
        self.env("DATABASE_URL", &url)
    }

    /// Processes started from here on find no CA certificates on this machine.
    pub fn without_certificates(self) -> Self {
        let path = |name: &str| self.folder().join(name).to_str().expect("a readable path").to_owned();
        let (file, folder) = (path("no certificates.pem"), path("no certificates"));
        std::fs::write(&file, "").expect("the folder is writable");
        self.env("SSL_CERT_FILE", &file).env("SSL_CERT_DIR", &folder)
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    pub fn amqp_url(&self) -> &str {
        self.servers.amqp_url()
    }

    /// RabbitMQ's URL, but through `address` (a proxy's): for one process among others.
    pub fn amqp_url_through(&self, address: &str) -> String {
        rerouted(self.servers.amqp_url(), address)
    }

    /// The database's URL, likewise.
    pub fn database_url_through(&self, address: &str) -> String {
        rerouted(&self.database_url, address)
    }

    /// `host:port` of Postgres, for a proxy.
    pub fn postgres_address(&self) -> String {
        address_of(&self.database_url, 5432)
    }

    /// `host:port` of RabbitMQ, for a proxy.
    pub fn amqp_address(&self) -> String {
        address_of(self.servers.amqp_url(), 5672)
    }

    /// The test's own connection to its database.
    pub async fn sql(&self) -> &Client {
        self.sql.get_or_init(|| self.another_sql()).await
    }

    /// One more connection, for locks that the test holds while it asks over the first.
    pub async fn another_sql(&self) -> Client {
        connect(&self.database_url).await
    }

    /// Waits until a session waits for a lock in this database.
    pub async fn wait_for_a_blocked_session(&self) {
        let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                       WHERE NOT l.granted AND d.datname = current_database()";
        wait_until("a session waits for a lock", async || self.count(waiting).await > 0).await;
    }

    /// One number from the database.
    pub async fn count(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.expect("the query is right").get(0)
    }

    /// Prepares a process: `site.launch(&["worker"]).set("worker.prefetch", "1").start()`.
    pub fn launch(&self, arguments: &[&str]) -> Launch {
        Launch::new(arguments, self.settings.clone(), self.folder())
    }

    /// A worker that is attached to its queue.
    pub async fn worker(&self) -> Replica {
        self.launch(&["worker"]).start_worker().await
    }
}

impl Configure for Site {
    fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let (servers, names, database) = (self.servers.clone(), self.names.clone(), self.database.clone());
        let (url, folder) = (self.database_url.clone(), self.folder().to_owned());
        let clear = async move {
            let leaks = search::search_site(&url, &folder).await;
            tokio::join!(servers.delete_queues(&names), servers.drop_database(&database));
            leaks
        };
        // A thread and a runtime of its own: the test's runtime may have one thread only, or may be ending.
        let clearing = thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { Ok(tokio::time::timeout(Duration::from_secs(30), clear).await?) })
        });
        let outcome: thread::Result<anyhow::Result<Vec<String>>> = clearing.join();
        match outcome {
            Ok(Ok(leaks)) => search::report(&leaks),
            _ => eprintln!("{} was not cleared away", self.database),
        }
    }
}

fn rerouted(url: &str, address: &str) -> String {
    let (host, port) = address.rsplit_once(':').expect("an address has a port");
    let mut url = Url::parse(url).expect("a server's URL");
    url.set_host(Some(host)).expect("a URL with a host");
    url.set_port(port.parse().ok()).expect("a URL with a port");
    url.into()
}

fn address_of(url: &str, default_port: u16) -> String {
    let url = Url::parse(url).expect("a server's URL");
    let host = url.host_str().expect("a server with a host");
    format!("{host}:{}", url.port().unwrap_or(default_port))
}
