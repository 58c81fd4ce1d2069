//! Searches what a test leaves for the run's hidden value: every table of its database, every file of its folder, and every
//! answer and output that it gets. `scripts/hidden-value` counts how much was searched, and searches what all tests share.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{env, thread};

use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::hidden_value::HiddenValue;
use super::http::Response;

/// How long a process of a test that ends may take for an answer. One that takes longer is not searched.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// What was searched, and where the value was found.
#[derive(Debug, Default)]
pub struct Searched {
    /// Tables, or files.
    pub places: u64,
    /// Rows of the tables, or bytes of the files.
    pub size: u64,
    pub leaks: Vec<String>,
}

impl HiddenValue {
    /// Searches all tables of a database. Ends its other sessions first, which may have locked some.
    pub async fn search_database(&self, url: &str) -> Result<Searched, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        let others = "SET lock_timeout = '5s';
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        client.batch_execute(others).await?;
        // The text of a row has bytes in hex. Partitions are tables of their own; most have never had a row.
        let query_of_all = "SELECT count(*), string_agg(format(
                'SELECT %L, count(*), count(*) FILTER (WHERE t::text ~ %L) FROM %I.%I AS t', relname, $1::text, nspname, relname
            ), ' UNION ALL ') FILTER (WHERE pg_relation_size(c.oid) > 0)
            FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE relkind IN ('r', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema')";
        let row = client.query_one(query_of_all, &[&self.forms().join("|")]).await?;
        let (tables, query): (i64, Option<&str>) = (row.get(0), row.get(1));
        let mut searched = Searched { places: tables.cast_unsigned(), ..Searched::default() };
        let Some(query) = query else { return Ok(searched) };
        for row in client.simple_query(query).await? {
            let SimpleQueryMessage::Row(row) = row else { continue };
            let number = |column| row.get(column).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
            let (table, rows, hits) = (row.get(0).unwrap_or_default(), number(1), number(2));
            searched.size += rows;
            if hits > 0 {
                searched.leaks.push(format!("{hits} rows of {table}"));
            }
        }
        Ok(searched)
    }

    /// Searches all files of a folder and its folders.
    pub fn search_files(&self, folder: &Path) -> std::io::Result<Searched> {
        let mut searched = Searched::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let (entry, path) = entry.map(|entry| (entry.file_type(), entry.path()))?;
                let kind = entry?;
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_file() {
                    let Some(text) = read(&path)? else { continue };
                    searched.places += 1;
                    searched.size += text.len() as u64;
                    if self.is_in(&text) {
                        searched.leaks.push(path.display().to_string());
                    }
                }
            }
        }
        Ok(searched)
    }
}

/// `None` if it was removed just now.
fn read(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    }
}

/// Counts for the run: how many webhooks, databases, files … there were.
pub fn count(kind: &str, number: u64) {
    note("counts", &format!("{kind} {number}\n"));
}

/// Fails the test if an answer of one of our processes has the value.
pub fn no_value_in_answer(what: &str, answer: &Response) {
    count("answers", 1);
    let head = format!("{:?}", answer.head.headers);
    refuse(what, head.as_bytes());
    refuse(what, &answer.body);
}

/// Fails the test if what a command printed has the value.
pub fn no_value_in_output(what: &str, stdout: &str, stderr: &str) {
    count("outputs", 1);
    refuse(what, stdout.as_bytes());
    refuse(what, stderr.as_bytes());
}

fn refuse(what: &str, text: &[u8]) {
    if HiddenValue::of_run().is_in(text) {
        report(&[format!("{what}: {}", String::from_utf8_lossy(text))]);
    }
}

/// Fails the test if the metrics of a process that ends have the value, or its probes.
pub fn no_value_at(operations: &str) {
    for path in ["/metrics", "/readyz", "/livez"] {
        // Not by the runtime, which may have one thread only: this one.
        let Ok(answer) = ask_at_once(operations, path) else { return };
        count("metrics", 1);
        refuse(path, &answer);
    }
}

fn ask_at_once(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let address = address.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Searches the database and the folder of a test that ends, and returns where the value was found.
pub async fn search_site(database_url: &str, folder: &Path) -> Vec<String> {
    let (began, value) = (Instant::now(), HiddenValue::of_run());
    let mut leaks = Vec::new();
    match tokio::time::timeout(Duration::from_secs(10), value.search_database(database_url)).await {
        Ok(Ok(found)) => {
            count("databases", 1);
            count("tables", found.places);
            count("rows", found.size);
            leaks.extend(found.leaks);
        }
        // Servers of the test's own may have ended before it.
        _ => count("unsearched", 1),
    }
    match value.search_files(folder) {
        Ok(found) => {
            count("files", found.places);
            count("bytes", found.size);
            leaks.extend(found.leaks);
        }
        Err(error) => leaks.push(format!("{} cannot be searched: {error}", folder.display())),
    }
    count("milliseconds", began.elapsed().as_millis() as u64);
    leaks
}

/// Fails the test if there are leaks; and the run, for a test may have failed already, or nobody waits for the task that panics.
pub fn report(leaks: &[String]) {
    if leaks.is_empty() {
        return;
    }
    let test = thread::current().name().unwrap_or("a test").to_owned();
    let leaks = leaks.join("\n");
    note("leaks", &format!("{test}: {leaks}\n"));
    // A panic while another unwinds would abort all tests.
    assert!(thread::panicking(), "the hidden value of a header is in {leaks}");
    eprintln!("the hidden value of a header is in {leaks}");
}

/// Appends to a file that `scripts/hidden-value` reads, if it started the run.
fn note(file: &str, text: &str) {
    static FOLDER: OnceLock<Option<String>> = OnceLock::new();
    static WRITING: Mutex<()> = Mutex::new(());
    let Some(folder) = FOLDER.get_or_init(|| env::var("PENR_HIDDEN_VALUE_FOLDER").ok()) else { return };
    let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = File::options().create(true).append(true).open(Path::new(folder).join(file));
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    assert!(written.is_ok() || thread::panicking(), "{folder}: {written:?}");
}
