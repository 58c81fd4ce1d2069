//! Writes the events of a batch of results that have no row yet. A worker goes on with the schema of the release before until
//! `migrate` has run.

use std::collections::BTreeMap;

use deadpool_postgres::Transaction;
use jiff::civil::Date;
use tokio_postgres::Error;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::store::Store;
use crate::store::known_columns::Addition;
use crate::store::sql::execute;
use crate::store::turn_result::TurnResult;

/// The statement for the events of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InsertEvents {
    /// None of them belongs to a trace, or the schema has no column for it.
    Plain,
    WithTraces,
}

impl Store {
    /// The statement that the schema knows. Costs a query only until it is known, and only for events with a trace.
    pub(super) async fn insert_events(
        &self,
        transaction: &Transaction<'_>,
        batch: &[&TurnResult],
    ) -> Result<InsertEvents, Error> {
        let mut rows = batch.iter().map(|result| &result.delivery.row);
        let has_trace = rows.any(|row| !row.is_stored() && row.event.trace.is_some());
        Ok(match has_trace && self.has_within(transaction, Addition::Traceparents).await? {
            true => InsertEvents::WithTraces,
            false => InsertEvents::Plain,
        })
    }
}

impl InsertEvents {
    pub(super) fn sql(self) -> &'static str {
        match self {
            Self::Plain => INSERT_EVENTS,
            Self::WithTraces => INSERT_EVENTS_WITH_TRACES,
        }
    }

    pub(super) async fn write(self, transaction: &Transaction<'_>, batch: &[&TurnResult]) -> Result<(), Error> {
        let missing = batch.iter().map(|result| &result.delivery.row).filter(|row| !row.is_stored());
        // In the order of keys, so that two transactions with the same events cannot wait for each other.
        let rows: BTreeMap<Uuid, _> = missing.map(|row| (row.key, row)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let days: Vec<Date> = rows.values().map(|row| row.day).collect();
        let keys: Vec<Uuid> = rows.values().map(|row| row.key).collect();
        let accounts: Vec<&str> = rows.values().map(|row| row.event.account_id.as_str()).collect();
        let ids: Vec<&str> = rows.values().map(|row| row.event.id.as_str()).collect();
        let types: Vec<&str> = rows.values().map(|row| row.event.event_type.as_str()).collect();
        let bodies: Vec<&[u8]> = rows.values().map(|row| &row.event.body[..]).collect();
        let plain: [&(dyn ToSql + Sync); 6] = [&days, &keys, &accounts, &ids, &types, &bodies];
        if self == Self::Plain {
            return execute(transaction, self.sql(), &plain).await;
        }
        let traces: Vec<Option<String>> =
            rows.values().map(|row| row.event.trace.map(|trace| trace.to_string())).collect();
        execute(transaction, self.sql(), &[&plain[..], &[&traces]].concat()).await
    }
}

/// `unnest` stands in the select list, where PostgreSQL evaluates it row by row. In FROM it would first copy all bodies, to disk
/// if they are large.
const INSERT_EVENTS: &str = "
    INSERT INTO events (day, key, account_id, event_id, event_type, body)
    SELECT unnest($1::date[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
           unnest($6::bytea[])
    ON CONFLICT DO NOTHING";

const INSERT_EVENTS_WITH_TRACES: &str = "
    INSERT INTO events (day, key, account_id, event_id, event_type, body, traceparent)
    SELECT unnest($1::date[]), unnest($2::uuid[]), unnest($3::text[]), unnest($4::text[]), unnest($5::text[]),
           unnest($6::bytea[]), unnest($7::text[])
    ON CONFLICT DO NOTHING";
