//! The release before this one runs beside it, on this one's schema, and nothing is lost.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use super::*;
use crate::survives_kills::kill_in_turn;

/// How scripts/release-before ends where the sources have no history.
const NO_HISTORY: i32 = 3;

/// All that a migration or an index changes.
const SCHEMA: &str = "SELECT string_agg(line, E'\n' ORDER BY line) FROM (
    SELECT concat_ws(' ', table_name, column_name, data_type) FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT concat_ws(' ', version, name, checksum) FROM refinery_schema_history
    ) AS lines (line)";

/// The program of the release before this one; `None` if it cannot be built here.
async fn release_before() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/release-before");
    let output = Command::new(script).stderr(Stdio::inherit()).output().await.expect("the script starts");
    if output.status.code() == Some(NO_HISTORY) {
        println!("soak upgrades: skipped, there is no earlier release to run");
        return None;
    }
    assert!(output.status.success(), "the release before this one is not built");
    Some(PathBuf::from(String::from_utf8(output.stdout).expect("a readable path").trim_end()))
}

async fn schema(site: &Site) -> String {
    site.sql().await.query_one(SCHEMA, &[]).await.expect("the query is right").get(0)
}

async fn api(site: &Site, program: Option<&Path>) -> Api {
    let launch = site.launch(&["api"]).set("api.requests_per_second", "100000").set("api.requests_burst", "100000");
    site.api_of(if let Some(program) = program { launch.of(program) } else { launch }).await
}

/// Has webhooks made through each API and read, changed and deleted through the other, until `end`. Returns how many.
async fn webhooks_of_both(apis: [&Api; 2], url: &str, end: Instant) -> usize {
    let customers = apis.map(|api| api.customer("acc_2"));
    let mut made = 0;
    while Instant::now() < end || made < 2 {
        let (one, other) = (&customers[made % 2], &customers[(made + 1) % 2]);
        let path = one.create_at(url).await;
        let name = json!({ "name": format!("Number {made}") });
        for customer in [other, one] {
            assert_eq!(customer.patch(&path, &name).await.status, 200);
            assert_eq!(customer.get(&path).await.json()["name"], name["name"]);
            assert_eq!(customer.get(&format!("{path}/secret")).await.status, 200);
            assert_eq!(customer.post(&format!("{path}/secret/regenerate"), &json!({})).await.status, 200);
            assert_eq!(customer.get(&format!("{path}/deliveries")).await.status, 200);
        }
        assert_eq!(other.delete(&path).await.status, 204);
        assert_eq!(one.get(&path).await.status, 404);
        made += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    made
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn the_release_before_runs_beside_this_one_on_its_schema_and_nothing_is_lost() {
    let Some(before) = release_before().await else { return };
    let ledger = Ledger::under_load(short_leases(Site::new().await), PREFETCH).await;
    let site = &ledger.site;

    // Its `migrate` leaves the schema alone.
    let made = schema(site).await;
    let mut migrate = site.launch(&["migrate", "--json"]).of(&before).start();
    assert!(migrate.wait().await.success(), "{}", migrate.log());
    let said: Value = serde_json::from_str(&migrate.stdout()).expect("JSON");
    assert_eq!(said["applied"], json!([]));
    assert_eq!(schema(site).await, made);

    let apis = [api(site, Some(&before)).await, api(site, None).await];
    let receiver = Receiver::start().await;
    let url = receiver.url();
    let end = Instant::now() + duration();
    let launch = |place| {
        let launch = site.launch(&["worker"]);
        if place == 0 { launch.of(&before) } else { launch }
    };
    let webhooks = webhooks_of_both([&apis[0], &apis[1]], &url, end);
    let ((kills, workers), webhooks) = tokio::join!(kill_in_turn(&ledger, end, launch), webhooks);
    println!("soak upgrades: {webhooks} webhooks changed through both APIs");
    drop(apis);
    close("kills of workers of two releases", kills, ledger, workers, kills * PREFETCH).await;
}
