//! Takes a schema back to an older version, as the database of an older release has it.

/// What each migration added that older releases do not know, newest first.
const ADDED: [(i32, &str); 9] = [
    (17, "DROP TABLE processes, holds; ALTER TABLE events DROP COLUMN traceparent;"),
    (
        16,
        "DROP TABLE paces; DROP TRIGGER raise_revision_of_v16 ON webhooks;
         ALTER TABLE webhooks DROP COLUMN header_names, DROP COLUMN headers, DROP COLUMN headers_set_at,
             DROP COLUMN max_per_second;",
    ),
    (15, "ALTER TABLE webhooks DROP COLUMN inactive_since, DROP COLUMN inactive_activation;"),
    (
        14,
        "TRUNCATE kept_answers; ALTER TABLE kept_answers RENAME COLUMN envelope TO secret;
         ALTER TABLE kept_answers ADD COLUMN answer text NOT NULL, ADD COLUMN webhook_id uuid NOT NULL;",
    ),
    (13, "DROP TABLE kept_answers;"),
    (
        12,
        "ALTER TABLE attempts DROP COLUMN signed_at, DROP COLUMN error_detail, DROP COLUMN response_headers,
             DROP COLUMN response_truncated;",
    ),
    (11, "DROP FUNCTION raise_webhook_revision CASCADE; ALTER TABLE webhooks DROP COLUMN revision;"),
    (10, "ALTER TABLE webhooks DROP COLUMN paused_until;"),
    (9, "DROP FUNCTION make_events_partition(integer), make_attempts_partition(integer);"),
];

/// The names of all migrations after `version`, in their order, as `migrate --json` lists those that it applied.
pub fn names_after(version: i32) -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/migrations");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let number = |name: &str| name[1..].split("__").next().unwrap().parse::<i32>().unwrap();
    let mut names: Vec<String> = files.filter_map(|file| file.strip_suffix(".sql").map(str::to_owned)).collect();
    names.retain(|name| number(name) > version);
    names.sort_by_key(|name| number(name));
    names
}

/// SQL that undoes all migrations after `version`, which must be 8 at least.
pub fn back_to(version: i32) -> String {
    let undo = ADDED.iter().filter(|(added, _)| *added > version).map(|(_, sql)| *sql);
    let history = format!("DELETE FROM refinery_schema_history WHERE version > {version}");
    undo.chain([&history[..]]).collect::<Vec<_>>().join("\n")
}
