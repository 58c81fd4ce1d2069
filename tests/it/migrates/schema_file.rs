//! docs/schema.sql shows what the migrations make.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::Site;

/// Whose `pg_dump` writes the file: other versions write the same schema with other words.
const VERSION: i32 = 15;

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn in_docs() -> String {
    std::fs::read_to_string(in_repository("docs/schema.sql")).unwrap()
}

/// The schema as the file has it; `None` on servers of other versions.
pub async fn of(site: &Site) -> Option<String> {
    let version: String = site.sql().await.query_one("SHOW server_version_num", &[]).await.unwrap().get(0);
    if version.parse::<i32>().unwrap() / 10_000 != VERSION {
        eprintln!("the schema is compared on PostgreSQL {VERSION} only");
        return None;
    }
    let script = in_repository("scripts/schema");
    let output = Command::new(script).env("DATABASE_URL", site.database_url()).output().await.unwrap();
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
