//! docs/schema.sql shows what the migrations make.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::Site;

/// The version of PostgreSQL that writes the file: others write the same schema in other words.
const VERSION: i32 = 15;
/// How scripts/schema ends without a `pg_dump` of this version.
const NO_PG_DUMP: i32 = 3;

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The content of docs/schema.sql.
pub fn in_docs() -> String {
    std::fs::read_to_string(in_repository("docs/schema.sql")).unwrap()
}

/// The schema of a site's database in the form of the file; `None` without PostgreSQL of this version.
pub async fn of(site: &Site) -> Option<String> {
    let version: String = site.sql().await.query_one("SHOW server_version_num", &[]).await.unwrap().get(0);
    let skipped = || eprintln!("the schema is compared by PostgreSQL {VERSION} only");
    if version.parse::<i32>().unwrap() / 10_000 != VERSION {
        skipped();
        return None;
    }
    let script = in_repository("scripts/schema");
    let output = Command::new(script).env("DATABASE_URL", site.database_url()).output().await.unwrap();
    if output.status.code() == Some(NO_PG_DUMP) {
        skipped();
        return None;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test]
async fn the_file_is_what_the_migrations_make() {
    let site = Site::new().await;
    let Some(made) = of(&site).await else { return };
    if std::env::var_os("PENR_WRITE_SCHEMA").is_some() {
        std::fs::write(in_repository("docs/schema.sql"), &made).unwrap();
    }
    assert_eq!(made, in_docs(), "`make schema` writes docs/schema.sql again");
}
