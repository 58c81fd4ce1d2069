//! Where Postgres and RabbitMQ are. A test's database is a copy of one template, migrated once per process and server, and
//! once more after midnight, for it has partitions of the days that are ahead.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, process};

use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};
use url::Url;

use super::broker::Names;
use super::cli;
use super::settings::Settings;

pub struct Servers {
    database_url: String,
    amqp_url: String,
    /// Whether Postgres is removed after the test, so that its databases need not be dropped.
    postgres_disposable: bool,
    broker_disposable: bool,
    /// Its name and the day, since 1970 in UTC, on which it was migrated.
    template: Arc<Mutex<Option<(String, u64)>>>,
}

const DAY: Duration = Duration::from_secs(86_400);

fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs() / DAY.as_secs()
}

/// Returns at once, except in the last minute of a day in UTC: then at midnight. A test that began before midnight and ended
/// after it would find partitions of other days than it expects.
async fn wait_for_midnight() {
    const BEGINS_BEFORE: Duration = Duration::from_secs(60);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let left = DAY - Duration::from_secs(now.as_secs() % DAY.as_secs());
    if left <= BEGINS_BEFORE {
        tokio::time::sleep(left).await;
    }
}

impl Servers {
    /// The servers that `make test` started for all tests.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Arc<Servers>> = OnceLock::new();
        let of = |name| env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"));
        SHARED.get_or_init(|| Arc::new(Self::new(of("DATABASE_URL"), of("AMQP_URL")))).clone()
    }

    /// Servers that are removed after the test with everything on them.
    pub fn disposable(database_url: String, amqp_url: String) -> Arc<Self> {
        let servers = Self::new(database_url, amqp_url);
        Arc::new(Self { postgres_disposable: true, broker_disposable: true, ..servers })
    }

    /// A Postgres that is removed after the test, beside the broker that all tests share.
    pub fn with_disposable_postgres(database_url: String) -> Arc<Self> {
        let servers = Self::new(database_url, Self::shared().amqp_url.clone());
        Arc::new(Self { postgres_disposable: true, ..servers })
    }

    /// A broker that is removed after the test, beside the Postgres that all tests share.
    pub fn with_disposable_broker(amqp_url: String) -> Arc<Self> {
        let shared = Self::shared();
        let servers = Self::new(shared.database_url.clone(), amqp_url);
        Arc::new(Self { broker_disposable: true, template: shared.template.clone(), ..servers })
    }

    fn new(database_url: String, amqp_url: String) -> Self {
        let (postgres_disposable, broker_disposable) = (false, false);
        Self { database_url, amqp_url, postgres_disposable, broker_disposable, template: Arc::default() }
    }

    pub fn amqp_url(&self) -> &str {
        &self.amqp_url
    }

    /// Connects to the database that `DATABASE_URL` names, from which others are created and dropped.
    pub async fn admin(&self) -> Client {
        connect(&self.database_url).await
    }

    /// Makes a migrated database and returns its URL.
    pub async fn create_database(&self, name: &str) -> String {
        wait_for_midnight().await;
        let template = self.template_of(today()).await;
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        self.admin().await.batch_execute(&create).await.expect("the template can be copied");
        self.url_of(name)
    }

    /// Makes an empty database and returns its URL.
    pub async fn create_bare_database(&self, name: &str) -> String {
        wait_for_midnight().await;
        let create = format!("CREATE DATABASE {name}");
        self.admin().await.batch_execute(&create).await.expect("the role may create databases");
        self.url_of(name)
    }

    /// Does nothing if the server is removed anyhow.
    pub async fn drop_database(&self, name: &str) {
        if self.postgres_disposable {
            return;
        }
        let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
        self.admin().await.batch_execute(&drop).await.expect("a test's database can be dropped");
    }

    async fn template_of(&self, day: u64) -> String {
        let mut template = self.template.lock().await;
        match &*template {
            Some((name, made)) if *made == day => name.clone(),
            _ => template.insert((self.create_template(day).await, day)).0.clone(),
        }
    }

    async fn create_template(&self, day: u64) -> String {
        self.drop_leftovers().await;
        let template = format!("penr_it_{}_template_{day}", process::id());
        let admin = self.admin().await;
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {template}")).await.expect("the old one is unused");
        admin.batch_execute(&format!("CREATE DATABASE {template}")).await.expect("the role may create databases");
        let settings = Settings::new(&self.url_of(&template), &self.amqp_url);
        let output = cli::run(&settings, &env::temp_dir(), &["migrate"]).await;
        assert_eq!(output.code, 0, "migrate failed: {}", output.stderr);
        // The default since PostgreSQL 15; before, every role may make tables and functions there.
        let revoke = "REVOKE CREATE ON SCHEMA public FROM PUBLIC";
        connect(&self.url_of(&template)).await.batch_execute(revoke).await.expect("the role owns it");
        template
    }

    /// Drops databases of test processes that have ended: their templates, and what a killed run left.
    async fn drop_leftovers(&self) {
        let query = "SELECT datname, split_part(datname, '_', 3) FROM pg_database WHERE datname LIKE 'penr\\_it\\_%'";
        for row in self.admin().await.query(query, &[]).await.expect("the catalogue is readable") {
            let (name, pid): (String, String) = (row.get(0), row.get(1));
            if !std::path::Path::new("/proc").join(pid).exists() {
                self.drop_database(&name).await;
            }
        }
    }

    /// Does nothing if the server is removed anyhow.
    pub async fn delete_queues(&self, names: &Names) {
        if !self.broker_disposable {
            names.delete_all(&self.amqp_url).await;
        }
    }

    fn url_of(&self, database: &str) -> String {
        let mut url = Url::parse(&self.database_url).expect("DATABASE_URL is a URL");
        url.set_path(database);
        url.into()
    }
}

/// A name no other test has, alive or killed: `it_<pid>_<n>`.
pub fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!("it_{}_{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("Postgres takes the connection");
    // The task ends when the client is dropped.
    tokio::spawn(connection);
    client
}
