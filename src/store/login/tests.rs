use super::*;
use crate::store::scripted::{Scripted, ScriptedLogin};

fn settings(url: &str, file: Option<&std::path::Path>) -> Database {
    let file = file.map(|file| file.to_str().unwrap().to_owned());
    Database {
        url: SecretText::new(url.to_owned()),
        url_from: UrlSource::new("DATABASE_URL_FILE".to_owned(), file),
        pool_size: 1,
        connect_timeout: Duration::from_secs(30),
        statement_timeout: Duration::from_secs(1),
    }
}

#[tokio::test]
async fn after_any_refusal_of_a_server_the_url_is_read_again_once() {
    let good = Scripted::start(ScriptedLogin::Served).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    // Of PgBouncer, and of PostgreSQL for a role that was renamed, for a wrong password, for a database.
    for code in ["08P01", "28000", "28P01", "3D000"] {
        let bad = Scripted::start(ScriptedLogin::Refused(code)).await;
        let old = format!("postgres://u@{},{0}/d?sslmode=disable", bad.addr);
        std::fs::write(&file, &old).unwrap();
        let login = Login::new(&settings(&old, Some(&file))).unwrap();
        assert!(login.connect().await.is_err(), "{code}");
        // Several hosts again.
        std::fs::write(&file, format!("postgres://u@{},{0}/d?sslmode=disable", good.addr)).unwrap();
        assert!(login.connect().await.is_ok(), "{code}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_within_the_urls_own_time_is_waited_for_no_longer() {
    let mute = Scripted::start(ScriptedLogin::NeverAnswered).await;
    let url = format!("postgres://u@{}/d?sslmode=disable&connect_timeout=1", mute.addr);
    let login = Login::new(&settings(&url, None)).unwrap();
    let tried = tokio::time::timeout(Duration::from_secs(10), login.connect()).await;
    let error = tried.expect("it ends by itself").err().expect("nobody has answered");
    let said = crate::error_chain(&login.explain(error.into()));
    assert!(said.contains(&format!("{}: no answer", mute.addr)), "{said}");
}
