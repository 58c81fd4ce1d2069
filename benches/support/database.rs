//! The database of a benchmark: empties it, and fills it with rows that real traffic would take too long to
//! make.

use anyhow::Context as _;
use penr_webhooks::config::Settings;
use penr_webhooks::ids::{AccountId, WebhookId};
use penr_webhooks::secret::{HeadersOwner, Owner, SecretText, SigningSecret};
use penr_webhooks::webhook::{CustomHeaders, WantedHeaders, origin_of};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use super::{TYPE, host};

/// Rows of one INSERT.
const ROWS: usize = 5_000;

pub struct Database {
    client: Client,
    _session: JoinHandle<Result<(), tokio_postgres::Error>>,
}

/// Webhooks to be registered: their accounts are `name0`, `name1` …
#[derive(Debug, Clone, Copy)]
pub struct Webhooks {
    pub name: &'static str,
    pub accounts: usize,
    pub per_account: usize,
    /// What the receiver does with their requests.
    pub path: &'static str,
    /// The first one's host; the others follow.
    pub first_host: usize,
}

impl Database {
    /// Refuses a database that is in use, since benchmarks empty it. Also refuses one that is faster than it may be in
    /// production, because it does not wait for its disk.
    pub async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let (client, session) = tokio_postgres::connect(settings.database.url.expose(), NoTls).await?;
        let session = tokio::spawn(session);
        let database = Self { client, _session: session };
        let used = "SELECT EXISTS (SELECT FROM webhooks) OR EXISTS (SELECT FROM attempts)";
        let used: bool = database.client.query_one(used, &[]).await?.try_get(0)?;
        anyhow::ensure!(!used, "this database is in use, and benchmarks empty it: unset DATABASE_URL and AMQP_URL");
        for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
            let value: String = database.client.query_one(&format!("SHOW {setting}"), &[]).await?.try_get(0)?;
            anyhow::ensure!(value == "on", "{setting} is {value}: unset PENR_SERVICES_FAST");
        }
        Ok(database)
    }

    pub async fn empty(&self) -> anyhow::Result<()> {
        let tables = "webhooks, events, attempts, pending_deliveries, closed_deliveries, notices, paces";
        Ok(self.client.batch_execute(&format!("TRUNCATE {tables}; CHECKPOINT")).await?)
    }

    /// Gives the planner fresh statistics, and writes all changes to disk now, so that none is written during a measurement.
    pub async fn settle(&self) -> anyhow::Result<()> {
        for statement in ["VACUUM ANALYZE", "CHECKPOINT"] {
            self.client.batch_execute(statement).await?;
        }
        Ok(())
    }

    pub async fn register(&self, settings: &Settings, port: u16, group: &Webhooks) -> anyhow::Result<Vec<Uuid>> {
        let total = group.accounts * group.per_account;
        let mut all = Vec::with_capacity(total);
        for first in (0..total).step_by(ROWS) {
            let (mut ids, mut accounts, mut urls, mut secrets) = (vec![], vec![], vec![], vec![]);
            for number in first..total.min(first + ROWS) {
                let id = Uuid::now_v7();
                let account = format!("{}{}", group.name, number % group.accounts);
                let owner = AccountId::parse(&account).context("a valid account id")?;
                let secret = SigningSecret::from_random(rand::random());
                let owner = Owner { account_id: &owner, webhook_id: WebhookId(id) };
                secrets.push(settings.keyring()?.seal(&secret, owner, rand::random()));
                urls.push(url(group.first_host + number, port, group.path));
                accounts.push(account);
                ids.push(id);
            }
            self.client.execute(REGISTER, &[&ids, &accounts, &urls, &secrets, &TYPE]).await?;
            all.extend(ids);
        }
        Ok(all)
    }

    /// Gives these webhooks so many headers of their own.
    pub async fn give_headers(&self, settings: &Settings, webhooks: &[Uuid], headers: usize) -> anyhow::Result<()> {
        let names: Vec<String> = (0..headers).map(|number| format!("X-Api-Key-{number}")).collect();
        let value = || Some(SecretText::new("k".repeat(40)));
        let given = WantedHeaders::parse(names.iter().map(|name| (name.clone(), value())).collect())?;
        let text = given.with_kept(&CustomHeaders::default(), true)?.to_text();
        let rows =
            self.client.query("SELECT id, account_id, url FROM webhooks WHERE id = ANY ($1)", &[&webhooks]).await?;
        let (mut ids, mut envelopes) = (vec![], vec![]);
        for row in rows {
            let (id, account, url): (Uuid, String, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let origin = origin_of(url).context("a URL")?;
            let account = AccountId::parse(&account).context("a valid account id")?;
            let owner = Owner { account_id: &account, webhook_id: WebhookId(id) };
            envelopes.push(settings.keyring()?.seal_headers(
                &text,
                HeadersOwner { owner, origin: &origin },
                rand::random(),
            ));
            ids.push(id);
        }
        self.client.execute(GIVE_HEADERS, &[&ids, &envelopes, &names]).await?;
        Ok(())
    }

    /// Adds retries that are due, spread over these webhooks.
    pub async fn owe(&self, webhooks: &[Uuid], retries: i64) -> anyhow::Result<()> {
        self.client.execute(STORE_EVENT, &[&TYPE]).await?;
        self.client.execute(OWE, &[&webhooks, &retries]).await?;
        Ok(())
    }

    /// Gives each of these webhooks a pace.
    pub async fn pace(&self, webhooks: &[Uuid], max_per_second: i32) -> anyhow::Result<()> {
        let pace = "UPDATE webhooks SET max_per_second = $2 WHERE id = ANY ($1)";
        self.client.execute(pace, &[&webhooks, &max_per_second]).await?;
        Ok(())
    }

    /// Adds rows of the log, spread over these webhooks and the last day.
    pub async fn log(&self, webhooks: &[Uuid], rows: i64) -> anyhow::Result<()> {
        self.client.execute(LOG, &[&webhooks, &rows, &TYPE]).await?;
        Ok(())
    }

    pub async fn count(&self, table: &str) -> anyhow::Result<i64> {
        Ok(self.client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await?.try_get(0)?)
    }
}

/// Where a webhook of a benchmark is called.
pub fn url(webhook: usize, port: u16, path: &str) -> String {
    format!("http://{}:{port}{path}/{webhook}", host(webhook))
}

const REGISTER: &str = "
    INSERT INTO webhooks (id, account_id, name, url, event_types, secret)
    SELECT id, account, account, url, ARRAY[$5::text], secret
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) AS w (id, account, url, secret)";

const GIVE_HEADERS: &str = "
    UPDATE webhooks SET headers = given.envelope, header_names = $3, headers_set_at = now()
    FROM unnest($1::uuid[], $2::bytea[]) AS given (id, envelope) WHERE webhooks.id = given.id";

const STORE_EVENT: &str = "
    INSERT INTO events (day, key, account_id, event_id, event_type, body)
    VALUES ((now() AT TIME ZONE 'UTC')::date, '00000000-0000-0000-0000-000000000001', 'owed', 'x0', $1::text,
            convert_to('{\"filler\":\"' || repeat('x', 1000) || '\"}', 'UTF8'))";

const OWE: &str = "
    INSERT INTO pending_deliveries (id, webhook_id, activation, event_day, event_key, trigger, attempts_made, due_at)
    SELECT gen_random_uuid(), ($1::uuid[])[(1 + n % cardinality($1))::integer], 1, (now() AT TIME ZONE 'UTC')::date,
           '00000000-0000-0000-0000-000000000001', 'retry', 1, now() - n * interval '1 millisecond'
    FROM generate_series(1, $2::bigint) AS n";

const LOG: &str = "
    INSERT INTO attempts (id, webhook_id, delivery_id, event_day, event_key, event_id, event_type, trigger, attempt,
                          http_status, duration_ms, created_at)
    SELECT gen_random_uuid(), ($1::uuid[])[(1 + n % cardinality($1))::integer], gen_random_uuid(),
           (now() AT TIME ZONE 'UTC')::date, gen_random_uuid(), 'old' || n, $3::text, 'event', 1,
           200, 12, now() - n * interval '1 day' / $2::bigint
    FROM generate_series(1, $2::bigint) AS n";
