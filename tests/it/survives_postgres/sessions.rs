//! We set up every session, whatever its defaults are, so that the server ends the statements and sessions of a worker that is
//! gone.

use std::time::{Duration, Instant};

use super::{ATTEMPTS, impatient, ledger_behind_a_proxy};
use crate::support::*;

/// The settings of a worker's session, in the units of `pg_settings`.
const SETTINGS: [(&str, &str); 15] = [
    ("statement_timeout", "8000"),
    ("TimeZone", "UTC"),
    ("jit", "off"),
    ("default_transaction_isolation", "read committed"),
    ("idle_in_transaction_session_timeout", "4000"),
    ("lock_timeout", "2000"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10000"),
    ("client_connection_check_interval", "1000"),
    // Set by the operator: in the address, and for the role.
    ("extra_float_digits", "2"),
    ("default_statistics_target", "77"),
];

/// Defaults of the role that would do harm.
const OTHER_DEFAULTS: [(&str, &str); 14] = [
    ("statement_timeout", "0"),
    ("TimeZone", "Asia/Tokyo"),
    ("jit", "on"),
    ("default_transaction_isolation", "serializable"),
    ("idle_in_transaction_session_timeout", "0"),
    ("lock_timeout", "0"),
    ("enable_seqscan", "on"),
    ("enable_bitmapscan", "on"),
    ("tcp_keepalives_idle", "7200"),
    ("tcp_keepalives_interval", "75"),
    ("tcp_keepalives_count", "9"),
    ("tcp_user_timeout", "0"),
    ("client_connection_check_interval", "0"),
    ("default_statistics_target", "77"),
];

/// Records the settings of the session that writes attempts.
const NOTE: &str = "
    CREATE TABLE noted (name text, setting text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO noted SELECT name, setting FROM pg_settings; RETURN NULL; END';
    CREATE TRIGGER note AFTER INSERT ON attempts EXECUTE FUNCTION note();";

#[tokio::test]
async fn a_session_is_set_up_the_same_whatever_the_defaults_are() {
    let ledger = Ledger::open(Site::new().await).await;
    let sql = ledger.site.sql().await;
    sql.batch_execute(NOTE).await.unwrap();
    for (name, value) in OTHER_DEFAULTS {
        let change = format!(
            "DO $$ BEGIN EXECUTE format('ALTER ROLE %I IN DATABASE %I SET {name} = %L', current_user,
                                        current_database(), '{value}'); END $$"
        );
        sql.batch_execute(&change).await.unwrap();
    }
    let url = format!("{}?options=-c%20extra_float_digits%3D2", ledger.site.database_url());
    let worker = ledger.site.launch(&["worker"]).env("DATABASE_URL", &url).start_worker().await;
    ledger.publish(1).await;
    ledger.wait_until_done().await;
    let rows = sql.query("SELECT name, setting FROM noted", &[]).await.unwrap();
    let noted = |name: &str| rows.iter().find(|row| row.get::<_, &str>(0) == name).map(|row| row.get::<_, &str>(1));
    for (name, value) in SETTINGS {
        assert_eq!(noted(name), Some(value), "{name}");
    }
    ledger.close(vec![worker]).await.assert_sound(0);
}

#[tokio::test]
async fn a_worker_cut_off_in_the_middle_of_a_transaction_holds_up_nobody_for_long() {
    let site = impatient(Site::new().await).set("retry.schedule", r#"["1h"]"#).set("worker.prefetch", "5");
    let (ledger, proxy, cut_off) = ledger_behind_a_proxy(site).await;
    // The attempts fail, so that the transaction changes the webhook's row.
    ledger.receiver.always(Reply::status(503));
    proxy.cut_off_before("COMMIT");
    ledger.publish(5).await;
    let left_behind = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND state = 'idle in transaction'";
    ledger.wait_for_count(left_behind, 1).await;
    let cut = Instant::now();
    let other = ledger.site.worker().await;
    // The first worker is still busy with the commit that was cut off.
    ledger.publish(5).await;
    ledger.wait_for_count(ATTEMPTS, 10).await;
    // Without `idle_in_transaction_session_timeout` it would hold the row for ever.
    assert!(cut.elapsed() < Duration::from_secs(40), "{:?}", cut.elapsed());
    // The other worker's sessions may be in a transaction for a moment.
    ledger.wait_for_count(left_behind, 0).await;
    drop((cut_off, other));
}
