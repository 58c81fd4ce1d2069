//! A role that owns nothing can do all daily work with the rights that `migrate --grant-to` grants. A missing right is named,
//! with the command that grants it.

use serde_json::json;
use url::Url;
use uuid::Uuid;

use crate::support::*;

mod functions;
mod granted;
mod owners_job;

const ACCOUNT: &str = "acc_1";
const TYPE: &str = "content.created";

/// A role that may log in and owns nothing. Roles belong to the whole server, so it is removed after the test.
struct Role {
    name: String,
    sql: tokio_postgres::Client,
    /// The database in which the role may own objects; empty once the role is removed.
    url: String,
}

impl Role {
    /// Makes a role without rights. Also revokes everybody's right to make tables in `public`, which PostgreSQL grants up to
    /// version 14.
    async fn narrow(site: &Site) -> Self {
        Self::named(site, &format!("narrow_{}", Uuid::new_v4().simple())).await
    }

    async fn named(site: &Site, name: &str) -> Self {
        let sql = site.another_sql().await;
        let create = format!(r#"CREATE ROLE "{name}" LOGIN PASSWORD 'x'; REVOKE CREATE ON SCHEMA public FROM PUBLIC"#);
        sql.batch_execute(&create).await.unwrap();
        Self { name: name.to_owned(), sql, url: site.database_url().to_owned() }
    }

    async fn with_rights(site: &Site) -> Self {
        let role = Self::narrow(site).await;
        let granted = site.json(&["migrate", "--grant-to", &role.name]).await;
        assert_eq!(granted, json!({"applied": [], "granted_to": [role.name]}));
        role
    }

    /// A role with the rights that operators often grant by hand: to read and write the rows of all tables, and no more.
    async fn with_all_rows(site: &Site) -> Self {
        let role = Self::narrow(site).await;
        let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO";
        role.sql.batch_execute(&format!("{grant} {}", role.name)).await.unwrap();
        role
    }

    async fn url(&self, site: &Site) -> String {
        let mut url = Url::parse(site.database_url()).unwrap();
        url.set_username(&self.name).unwrap();
        url.set_password(Some("x")).unwrap();
        url.into()
    }

    /// Has all processes of this site use the role; the test's own sessions do not.
    async fn used_by(&self, site: Site) -> Site {
        let url = self.url(&site).await;
        site.env("DATABASE_URL", &url)
    }

    /// Removes the role, so that other tests of this server do not find it.
    async fn drop(mut self) {
        let drop = format!(r#"DROP OWNED BY "{0}"; DROP ROLE "{0}""#, self.name);
        self.sql.batch_execute(&drop).await.unwrap();
        self.url.clear();
    }
}

impl Drop for Role {
    /// Also after a test that failed, and when its database is gone already.
    fn drop(&mut self) {
        if self.url.is_empty() {
            return;
        }
        let (name, url) = (self.name.clone(), self.url.clone());
        let clear = async move {
            if let Ok((sql, connection)) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await {
                tokio::spawn(connection);
                let _ = sql.batch_execute(&format!(r#"DROP OWNED BY "{name}" CASCADE"#)).await;
            }
            let drop = format!(r#"DROP ROLE IF EXISTS "{name}""#);
            servers::Servers::shared().admin().await.batch_execute(&drop).await
        };
        let clearing = std::thread::spawn(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(clear)
        });
        if !matches!(clearing.join(), Ok(Ok(()))) {
            eprintln!("the role {} was not removed", self.name);
        }
    }
}

/// Removes the partitions of all days after today, as if none had been made for a week.
async fn with_todays_partitions_only(site: &Site) {
    let drop = "DO $$ BEGIN
        FOR n IN 1 .. 7 LOOP
            EXECUTE 'DROP TABLE events_' || to_char((now() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD');
            EXECUTE 'DROP TABLE attempts_' || to_char((now() AT TIME ZONE 'UTC')::date + n, 'YYYYMMDD');
        END LOOP;
    END $$";
    site.sql().await.batch_execute(drop).await.unwrap();
}

/// The number of partitions of the coming days, in both tables, that belong to the tables' owner.
async fn days_ahead(site: &Site) -> i64 {
    let query = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
        WHERE i.inhparent IN ('events'::regclass, 'attempts'::regclass) AND c.relowner = p.relowner
            AND right(c.relname, 8) > to_char((now() AT TIME ZONE 'UTC')::date, 'YYYYMMDD')";
    site.count(query).await
}

/// The lines of a log that are errors.
fn errors(replica: &Replica) -> Vec<String> {
    replica.log().lines().filter(|line| line.contains("\"ERROR\"")).map(str::to_owned).collect()
}
