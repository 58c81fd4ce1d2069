//! Lets one session at a time change our schema or give rights on it.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::schema::Home;
use super::sql::TRY_LOCK_OF_SCHEMA;
use super::{StoreError, column};

/// Any number, as long as nothing else in the database uses it as an advisory lock.
const NUMBER: i64 = 0x7065_6e72_7768_6b73;
/// How often a session that waits for the lock asks for it.
const TRIES_APART: Duration = Duration::from_millis(250);

/// Takes the lock for as long as the session lives; a session that is killed frees it.
///
/// The session asks again and again instead of waiting at the server: a statement that waits has a snapshot, and `CREATE
/// INDEX CONCURRENTLY`, which the holder of the lock may be running, waits for all older snapshots. That would be a
/// deadlock.
///
/// # Errors
///
/// [`StoreError::Unavailable`] if the lock is still held after `bound`, and whatever a statement may fail with.
pub(super) async fn take(session: &Client, home: &Home, bound: Duration) -> Result<(), StoreError> {
    let taken = async {
        while !column::<bool>(&session.query_one(TRY_LOCK_OF_SCHEMA, &[&NUMBER, &home.name]).await?, "locked") {
            sleep(TRIES_APART).await;
        }
        Ok(())
    };
    timeout(bound, taken).await.unwrap_or_else(|_| {
        let bound = humantime::format_duration(bound);
        Err(StoreError::Unavailable(anyhow::anyhow!("another migration or grant did not end within {bound}")))
    })
}

/// Frees the lock at once; a session that was dropped frees it a moment later.
pub(super) async fn free(session: &Client) -> Result<(), StoreError> {
    Ok(session.execute("SELECT pg_advisory_unlock_all()", &[]).await.map(drop)?)
}
