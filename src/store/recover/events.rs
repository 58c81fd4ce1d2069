//! Finds out which events are still stored. An operator may erase single events; retention drops whole partitions, whose
//! events count as gone from the moment that the partition is marked.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use deadpool_postgres::Transaction;
use jiff::civil::Date;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::store::partitions::attached_partitions;
use crate::store::sql::query;
use crate::store::{TypedParams, column};

/// The most days whose events one statement looks up: it locks their partitions.
const DAYS_AT_ONCE: usize = 28;

/// Returns those of the events that are stored and not about to be dropped. Each statement is planned for its own days,
/// because a plan for all days would lock every partition.
pub(in crate::store) async fn stored_events(
    transaction: &Transaction<'_>,
    events: &[(Date, Uuid)],
) -> Result<HashSet<(Date, Uuid)>, tokio_postgres::Error> {
    let mut stored = HashSet::new();
    if events.is_empty() {
        return Ok(stored);
    }
    let kept = kept_spans(transaction).await?;
    let mut by_day: BTreeMap<Date, Vec<Uuid>> = BTreeMap::new();
    for (day, key) in events.iter().filter(|(day, _)| kept.iter().any(|kept| kept.contains(day))) {
        by_day.entry(*day).or_default().push(*key);
    }
    for some in by_day.into_iter().collect::<Vec<_>>().chunks(DAYS_AT_ONCE) {
        let wanted = || some.iter().flat_map(|(day, keys)| keys.iter().map(move |key| (*day, *key)));
        let (days, keys): (Vec<Date>, Vec<Uuid>) = wanted().unzip();
        let partitions: Vec<Date> = some.iter().map(|(day, _)| *day).collect();
        let params: TypedParams<'_> =
            &[(&days, Type::DATE_ARRAY), (&keys, Type::UUID_ARRAY), (&partitions, Type::DATE_ARRAY)];
        let rows = transaction.query_typed(STORED_EVENTS, params).await?;
        stored.extend(rows.iter().map(|row| (column::<Date>(row, "day"), column::<Uuid>(row, "key"))));
    }
    Ok(stored)
}

/// The days whose events are stored. Read once for a whole page: with a year of partitions it takes about 8 ms.
async fn kept_spans(transaction: &Transaction<'_>) -> Result<Vec<Range<Date>>, tokio_postgres::Error> {
    let rows = query(transaction, KEPT_SPANS, &[]).await?;
    Ok(rows.iter().map(|row| column(row, "since")..column(row, "until")).collect())
}

/// Infinite bounds are replaced by dates that a `Date` can have.
const KEPT_SPANS: &str = concat!(
    "SELECT greatest(since, '0001-01-01') AS since, least(until, '9999-12-31') AS until FROM ",
    attached_partitions!("'events'::regclass::oid"),
    " AS partitions WHERE NOT detach_pending AND NOT marked"
);

/// `$3` has the days of `$1` once each: only a comparison with an array lets the planner leave out the partitions of other
/// days.
const STORED_EVENTS: &str = "
    SELECT wanted.day, wanted.key FROM unnest($1, $2) AS wanted (day, key)
    WHERE EXISTS (SELECT FROM events e WHERE e.day = wanted.day AND e.key = wanted.key AND e.day = ANY ($3) OFFSET 0)";
