//! Tells which events are still there to be sent again. They go one by one, erased by hand, or with their whole partition,
//! from the moment that retention has marked it.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use deadpool_postgres::Transaction;
use jiff::civil::Date;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::query;
use crate::store::partitions::attached_partitions;
use crate::store::{TypedParams, column};

/// Days whose events are looked up by one statement, which locks their partitions.
const DAYS_AT_ONCE: usize = 28;

/// Which of these events are there, and not about to be dropped. Planned for some days at a time: a plan for any day
/// locks every partition.
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

/// The days from which events are kept. Asked once for a whole page: with a year of partitions one answer takes about 8 ms.
async fn kept_spans(transaction: &Transaction<'_>) -> Result<Vec<Range<Date>>, tokio_postgres::Error> {
    let rows = query(transaction, KEPT_SPANS, &[]).await?;
    Ok(rows.iter().map(|row| column(row, "since")..column(row, "until")).collect())
}

/// Bounds that are infinite stand for days that no `Date` has.
const KEPT_SPANS: &str = concat!(
    "SELECT greatest(since, '0001-01-01') AS since, least(until, '9999-12-31') AS until FROM ",
    attached_partitions!("'events'::regclass::oid"),
    " AS partitions WHERE NOT detach_pending AND NOT marked"
);

/// The days once more as one array, which tells the planner the partitions.
const STORED_EVENTS: &str = "
    SELECT wanted.day, wanted.key FROM unnest($1, $2) AS wanted (day, key)
    WHERE EXISTS (SELECT FROM events e WHERE e.day = wanted.day AND e.key = wanted.key AND e.day = ANY ($3) OFFSET 0)";
