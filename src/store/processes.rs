//! Which processes there are: each writes its own row again and again.
//!
//! Nothing waits for these rows, and a lost one is written again seconds later. So the statements commit without waiting for
//! the disk or for a standby, and are cancelled like a question if the caller goes away.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::known_columns::Addition;
use super::{Store, StoreError, column};
use crate::figures::Figures;
use crate::ids::ProcessId;

/// Rows of processes that were not seen for so long are deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A process as it tells of itself.
#[derive(Debug)]
pub(crate) struct OwnProcess {
    pub(crate) id: ProcessId,
    /// `worker`, `api` or `both`.
    pub(crate) role: &'static str,
    pub(crate) version: &'static str,
    pub(crate) host: String,
}

/// A process that has written its row lately.
#[derive(Debug, Clone)]
pub struct SeenProcess {
    pub id: ProcessId,
    /// `worker`, `api` or `both`.
    pub role: String,
    pub version: String,
    pub host: String,
    pub started_at: Timestamp,
    /// How long ago it wrote its row, by PostgreSQL's clock.
    pub age: Duration,
    pub figures: Figures,
}

impl Store {
    /// Writes that a process is there, which began `up` ago, and deletes the rows of those that have long been gone. Returns
    /// false, and writes nothing, if the schema is from before V17.
    ///
    /// # Errors
    ///
    /// The database is not available, busy or read-only, or the role lacks a right.
    pub(crate) async fn note_process(
        &self,
        process: &OwnProcess,
        up: Duration,
        figures: &Figures,
    ) -> Result<bool, StoreError> {
        if !self.has(Addition::Processes).await? {
            return Ok(false);
        }
        let OwnProcess { id, role, version, host } = process;
        let (figures, up, gone) = (figures.to_json(), up.as_secs_f64(), FORGOTTEN_AFTER.as_secs_f64());
        self.query(NOTE, &[&id.0, role, version, host, &up, &figures, &gone]).await.map(|_| true)
    }

    /// Deletes the row of a process that ends.
    ///
    /// # Errors
    ///
    /// As [`note_process`](Self::note_process). The process then counts as gone some time after it was last seen.
    pub(crate) async fn forget_process(&self, id: ProcessId) -> Result<(), StoreError> {
        if self.has(Addition::Processes).await? {
            self.query(FORGET, &[&id.0]).await?;
        }
        Ok(())
    }

    /// The processes that were seen within this time, the oldest first. `None` if the schema is from before V17.
    ///
    /// # Errors
    ///
    /// The database is not available or busy, or the role lacks a right.
    pub async fn processes(&self, within: Duration) -> Result<Option<Vec<SeenProcess>>, StoreError> {
        if !self.has(Addition::Processes).await? {
            return Ok(None);
        }
        let rows = self.query(SEEN, &[&within.as_secs_f64()]).await?;
        Ok(Some(rows.iter().map(seen).collect()))
    }
}

fn seen(row: &Row) -> SeenProcess {
    SeenProcess {
        id: ProcessId(column(row, "id")),
        role: column(row, "role"),
        version: column(row, "version"),
        host: column(row, "host"),
        started_at: column(row, "started_at"),
        // A clock that was set back makes it negative.
        age: Duration::try_from_secs_f64(column(row, "age")).unwrap_or_default(),
        figures: Figures::read(column(row, "figures")),
    }
}

/// Processes that delete at the same time do not wait for each other.
const NOTE: &str = "
    WITH gone AS (
        DELETE FROM processes WHERE id = ANY (ARRAY(
            SELECT id FROM processes WHERE seen_at < now() - make_interval(secs => $7) AND id <> $1
            FOR UPDATE SKIP LOCKED))
    )
    INSERT INTO processes (id, role, version, host, started_at, figures)
    VALUES ($1::uuid, $2::text, $3::text, $4::text, now() - make_interval(secs => $5), $6::text::jsonb)
    ON CONFLICT (id) DO UPDATE SET seen_at = now(), figures = excluded.figures
    RETURNING set_config('synchronous_commit', 'off', true)";

const FORGET: &str = "DELETE FROM processes WHERE id = $1 RETURNING set_config('synchronous_commit', 'off', true)";

const SEEN: &str = "
    SELECT id, role, version, host, started_at, extract(epoch FROM now() - seen_at)::float8 AS age, figures::text AS figures
    FROM processes WHERE seen_at > now() - make_interval(secs => $1) ORDER BY started_at, id";
