//! `migrate --check` says what `migrate` would do, and which releases run. A schema that a newer program has made is left alone.

use serde_json::{Value, json};

use crate::support::older_schema::{back_to, names_after};
use crate::support::*;

const INDEX: &str = "pending_deliveries_unattempted";

/// What the check prints, with its exit code.
async fn check(site: &Site) -> (i32, Value) {
    let output = site.cli(&["migrate", "--check", "--json"]).await;
    (output.code, serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}")))
}

#[tokio::test]
async fn the_check_names_what_migrate_then_applies_and_changes_nothing() {
    let site = Site::unmigrated().await;
    let (code, checked) = check(&site).await;
    assert_eq!((code, &checked["schema"]), (1, &Value::Null));
    let relations = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(site.count(relations).await, 0);
    let missing = checked["missing"].as_array().unwrap();
    assert_eq!(missing[..names_after(0).len()], names_after(0));
    assert!(missing.contains(&INDEX.into()), "{checked}");
    assert_eq!(site.json(&["migrate"]).await["applied"], checked["missing"]);
    let newest = checked["program"].clone();
    let nothing = json!({ "schema": newest, "program": newest, "missing": [], "processes": [], "warnings": [] });
    assert_eq!(check(&site).await, (0, nothing));

    site.sql().await.batch_execute(&format!("{}; DROP INDEX {INDEX}", back_to(15))).await.unwrap();
    let (code, checked) = check(&site).await;
    assert_eq!((code, &checked["schema"], &checked["processes"]), (1, &15.into(), &Value::Null));
    let output = site.cli(&["migrate", "--check"]).await;
    assert!(output.stdout.contains("missing: V16__headers_and_pace\n"), "{output:?}");
    assert!(output.stderr.contains("run `penr-webhooks migrate`"), "{output:?}");
    assert_eq!(site.json(&["migrate"]).await["applied"], checked["missing"]);
    assert_eq!(checked["missing"], Value::from([names_after(15), vec![INDEX.to_owned()]].concat()));
    assert_eq!(site.cli(&["migrate", "--check", "--retention"]).await.code, 2);
}

#[tokio::test]
async fn an_index_that_a_killed_build_has_left_is_missing() {
    let site = Site::new().await;
    let kill = format!("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{INDEX}'::regclass");
    site.sql().await.batch_execute(&kill).await.unwrap();
    assert_eq!(check(&site).await.1["missing"], json!([INDEX]));
}

#[tokio::test]
async fn a_schema_that_a_newer_program_has_made_is_left_alone() {
    let site = Site::new().await;
    // The newer program needs that index no more.
    let newer = format!(
        "INSERT INTO refinery_schema_history SELECT 9999, 'later', applied_on, '1' FROM refinery_schema_history LIMIT 1;
         DROP INDEX {INDEX}"
    );
    site.sql().await.batch_execute(&newer).await.unwrap();
    let (code, checked) = check(&site).await;
    assert_eq!((code, &checked["schema"], &checked["missing"]), (0, &9999.into(), &json!([])));
    for (arguments, more) in
        [(&["migrate"][..], "; nothing was changed"), (&["migrate", "--check"], "\nno process was seen lately")]
    {
        let output = site.cli(arguments).await;
        let said = format!(
            "the schema is version 9999, newer than this program's {}, which it serves too{more}\n",
            checked["program"]
        );
        assert_eq!((output.code, output.stdout), (0, said));
    }
    assert_eq!(site.json(&["migrate"]).await["applied"], json!([]));
    assert_eq!(site.count(&format!("SELECT count(*) FROM pg_class WHERE relname = '{INDEX}'")).await, 0);
}

/// A version that is so many releases after this one.
fn later(releases: u32) -> String {
    let number = |text: &str| text.parse::<u32>().unwrap();
    let (major, minor) = (env!("CARGO_PKG_VERSION_MAJOR"), number(env!("CARGO_PKG_VERSION_MINOR")));
    format!("{major}.{}.0", minor + releases)
}

/// Puts a process of this version into the table, for longer than any test takes.
async fn see(site: &Site, role: &str, version: &str) {
    let row = "INSERT INTO processes (id, role, version, host, seen_at, figures)
        VALUES (gen_random_uuid(), $1, $2, 'host of ' || $2, now() + interval '1 hour', '{}')";
    site.sql().await.execute(row, &[&role, &version]).await.unwrap();
}

#[tokio::test]
async fn processes_that_are_too_far_from_this_programs_release_are_warned_about() {
    let site = Site::new().await;
    see(&site, "worker", &later(2)).await;
    let warning = check(&site).await.1["warnings"][0].as_str().unwrap_or_default().to_owned();
    assert!(
        warning.contains(concat!("more than one apart, this program's ", env!("CARGO_PKG_VERSION"), " included")),
        "{warning}"
    );
}

#[tokio::test]
async fn releases_that_run_more_than_one_apart_are_warned_about() {
    let site = Site::new().await;
    let (next, far) = (later(1), later(2));
    see(&site, "worker", env!("CARGO_PKG_VERSION")).await;
    see(&site, "worker", &next).await;
    let (code, checked) = check(&site).await;
    assert_eq!((code, &checked["warnings"]), (0, &json!([])));
    assert_eq!(checked["processes"].as_array().map(Vec::len), Some(2), "{checked}");
    let counted = format!("1 of {}, 1 of {next}", env!("CARGO_PKG_VERSION"));
    assert!(site.cli(&["migrate", "--check"]).await.stdout.contains(&counted));
    site.doctor().await.assert("processes", "warns", &[&next, "unless an upgrade is under way"]);

    see(&site, "api", &far).await;
    let output = site.cli(&["migrate", "--check"]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let other = [format!("worker {next} on host of {next}\n"), format!("api {far} on host of {far}\n")];
    for said in [&other[0], &other[1], "warning: releases run together that are more than one apart"] {
        assert!(output.stdout.contains(said), "no {said:?} in {output:?}");
    }
    site.doctor().await.assert("processes", "warns", &[&far, "more than one apart"]);
}

#[tokio::test]
async fn processes_that_wait_for_migrate_are_warned_about() {
    let site = Site::new().await;
    see(&site, "worker", env!("CARGO_PKG_VERSION")).await;
    // The schema of the release before, with the table that tells who is there.
    let before =
        "DELETE FROM refinery_schema_history WHERE version = (SELECT max(version) FROM refinery_schema_history)";
    site.sql().await.batch_execute(before).await.unwrap();
    let (code, checked) = check(&site).await;
    assert_eq!((code, checked["missing"].as_array().map(Vec::len)), (1, Some(1)));
    let warning = checked["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("1 process of this release or a newer one runs on the older schema"), "{warning}");
    site.doctor().await.assert("processes", "warns", &["on the older schema"]);
}
