//! `DATABASE_URL` as operators of PostgreSQL write it: several hosts, sockets, own certificate authorities, changing passwords.

use std::fs;
use std::path::Path;

use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;

use crate::support::servers::unique_name;
use crate::support::*;
use crate::support::{cli, tls};

const LIST: [&str; 4] = ["webhooks", "list", "--account", "acc_1"];

/// The site's `DATABASE_URL` with other hosts.
fn with_hosts(site: &Site, hosts: &str) -> String {
    site.database_url().replacen(&site.postgres_address(), hosts, 1)
}

/// Runs a command that reads the database at this address; returns whether it succeeded, and its error.
async fn read_through(site: &Site, url: &str) -> (bool, String) {
    let mut settings = site.settings().clone();
    settings.env("DATABASE_URL", url);
    let output = cli::run(&settings, site.folder(), &LIST).await;
    assert!(output.stderr.lines().count() <= 1, "{url}: {}", output.stderr);
    (output.code == 0, output.stderr)
}

#[track_caller]
fn assert_says((read, said): (bool, String), all: &[&str]) {
    assert!(!read, "the command reached the database");
    assert!(all.iter().all(|text| said.contains(text)), "no {all:?} in {said:?}");
}

#[tokio::test]
async fn hosts_that_refuse_or_stay_silent_leave_time_for_the_next() {
    let site = Site::new().await.set("database.connect_timeout", "20s");
    let (closed, silent) = (Proxy::to(site.postgres_address()).await, Proxy::to(site.postgres_address()).await);
    closed.refuse(true).await;
    silent.pause();
    let hosts = format!("{},{},{}", closed.addr(), silent.addr(), site.postgres_address());
    assert_eq!(read_through(&site, &with_hosts(&site, &hosts)).await, (true, String::new()));
    let site = site.set("database.connect_timeout", "4s");
    let hosts = format!("{},{}", closed.addr(), silent.addr());
    let said = read_through(&site, &with_hosts(&site, &hosts)).await;
    assert_says(said, &[&format!("{}: Connection refused", closed.addr()), &format!("{}: no answer", silent.addr())]);
}

#[tokio::test]
async fn with_several_hosts_one_that_may_only_be_read_does_not_serve() {
    let site = Site::new().await;
    let read_only = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on',
                         current_database()); END $$";
    site.sql().await.batch_execute(read_only).await.unwrap();
    let hosts = format!("{0},{0}", site.postgres_address());
    let url = with_hosts(&site, &hosts);
    assert_says(read_through(&site, &url).await, &["does not allow writes"]);
    assert!(read_through(&site, &format!("{url}?target_session_attrs=any")).await.0);
    assert!(read_through(&site, site.database_url()).await.0);
}

#[tokio::test]
async fn a_worker_goes_over_to_the_host_that_serves_and_back() {
    let ledger = Ledger::open(Site::new().await).await;
    let (one, other) =
        (Proxy::to(ledger.site.postgres_address()).await, Proxy::to(ledger.site.postgres_address()).await);
    let url = with_hosts(&ledger.site, &format!("{},{}", one.addr(), other.addr()));
    let worker = ledger.site.launch(&["worker"]).env("DATABASE_URL", &url).start_worker().await;
    ledger.publish(5).await;
    ledger.wait_until_done().await;
    for (gone, there) in [(&one, &other), (&other, &one)] {
        let before = there.opened();
        there.refuse(false).await;
        gone.refuse(true).await;
        gone.cut().await;
        ledger.publish(5).await;
        ledger.wait_until_done().await;
        assert!(there.opened() > before);
    }
    ledger.close(vec![worker]).await.assert_sound(0);
}

/// Serves a Unix socket in a folder, as PostgreSQL does, and forwards it to a server that has none.
fn socket_in(folder: &Path, port: u16, server: String) -> JoinSet<()> {
    let listener = UnixListener::bind(folder.join(format!(".s.PGSQL.{port}"))).expect("the folder is writable");
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = TcpStream::connect(&server).await.expect("Postgres is up");
            connections.spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    serving
}

#[tokio::test]
async fn a_socket_is_found_in_every_spelling() {
    let site = Site::new().await;
    // The folder has a name as Cloud SQL's proxy makes it. The path of a socket may have about a hundred bytes.
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let folder = folder.path().join("proj:reg:inst");
    fs::create_dir(&folder).unwrap();
    let _serving = socket_in(&folder, 5433, site.postgres_address());
    let url = url::Url::parse(site.database_url()).unwrap();
    let (user, password, name) = (url.username(), url.password().unwrap(), &url.path()[1..]);
    let folder = folder.to_str().unwrap();
    let encoded = folder.replace('/', "%2F").replace(':', "%3A");
    for url in [
        format!("postgresql://{user}:{password}@/{name}?host={folder}&port=5433"),
        format!("postgresql://{user}:{password}@/{name}?host={encoded}&port=5433&sslmode=verify-full"),
        format!("postgres://{user}:{password}@{encoded}:5433/{name}?sslmode=require"),
        format!("postgresql:///{name}?host={folder}&port=5433&user={user}&password={password}"),
        format!("host={folder} port=5433 user={user} password='{password}' dbname={name} sslmode=require"),
        format!("postgresql://{user}:{password}@127.0.0.1:1,{encoded}:5433/{name}"),
    ] {
        assert_eq!(read_through(&site, &url).await, (true, String::new()), "{url}");
    }
}

#[tokio::test]
async fn a_certificate_is_checked_as_far_as_the_address_asks() {
    let site = Site::new().await;
    let (authority, other) = (Authority::new(), Authority::new());
    let ours = authority.trust_file(site.folder()).display().to_string();
    let others = site.folder().join("others.pem").display().to_string();
    fs::rename(other.trust_file(tempfile::tempdir_in(site.folder()).unwrap().path()), &others).unwrap();
    // A file with several certificates, as providers publish them.
    let bundle = site.folder().join("bundle.pem").display().to_string();
    fs::write(&bundle, [fs::read(&others).unwrap(), fs::read(&ours).unwrap()].concat()).unwrap();
    let front =
        async |identity: tls::Identity| TlsFront::to_postgres(site.postgres_address(), identity.server_config()).await;
    let good = front(authority.identity()).await;
    let misnamed = front(authority.flawed_identity(Flaw::WrongHost)).await;
    let expired = front(authority.flawed_identity(Flaw::Expired)).await;
    let read = async |front: &TlsFront, query: &str| {
        read_through(&site, &format!("{}?{query}", with_hosts(&site, &front.addr()))).await
    };
    for query in [
        "sslmode=require".to_owned(),
        format!("sslmode=verify-full&sslrootcert={bundle}"),
        format!("options=-c%20search_path%3Dpublic&sslmode=verify-full&sslrootcert={ours}"),
        format!("sslmode=verify-ca&sslrootcert={ours}"),
        format!("sslmode=require&sslrootcert={ours}"),
    ] {
        assert_eq!(read(&good, &query).await, (true, String::new()), "{query}");
    }
    for mode in ["verify-ca", "require"] {
        assert!(read(&misnamed, &format!("sslmode={mode}&sslrootcert={ours}")).await.0, "{mode}");
        let refused = format!("refused by sslmode={mode}: ");
        let said = read(&good, &format!("sslmode={mode}&sslrootcert={others}")).await;
        assert_says(said, &[&refused, "no trusted authority has signed it"]);
        assert_says(read(&expired, &format!("sslmode={mode}&sslrootcert={ours}")).await, &[&refused, "expired"]);
    }
    let full = format!("sslmode=verify-full&sslrootcert={ours}");
    assert_says(read(&misnamed, &full).await, &["sslmode=verify-full: the host is not among its"]);
    // The certificate is checked for the name in `host`; `hostaddr` is only the address.
    let elsewhere = with_hosts(&site, &misnamed.addr().replace("127.0.0.1", "other.example.com"));
    let through_hostaddr = read_through(&site, &format!("{elsewhere}?hostaddr=127.0.0.1&{full}")).await;
    assert_eq!(through_hostaddr, (true, String::new()));
    assert_says(read(&good, "sslmode=verify-full").await, &["sslmode=verify-full", "sslrootcert"]);
    assert_says(read(&good, "sslmode=verify-ca").await, &["DATABASE_URL cannot be used", "sslrootcert=/folder/ca.pem"]);
    assert_says(read(&good, "sslmode=verify-ca&sslrootcert=/none").await, &["DATABASE_URL cannot be used", "/none"]);
}

#[tokio::test]
async fn a_server_that_is_its_own_authority_is_trusted_by_its_certificate() {
    let site = Site::new().await;
    let own = Authority::new();
    let (file, front) = (own.trust_file(site.folder()), own.own_identity());
    let front = TlsFront::to_postgres(site.postgres_address(), front.server_config()).await;
    let url = format!("{}?sslrootcert={}", with_hosts(&site, &front.addr()), file.display());
    assert_eq!(read_through(&site, &format!("{url}&sslmode=verify-ca")).await, (true, String::new()));
    assert_says(read_through(&site, &format!("{url}&sslmode=verify-full")).await, &["the host is not among its"]);
}

#[tokio::test]
async fn a_password_that_stands_apart_is_written_as_it_is() {
    const PASSWORD: &str = r"ab/cd+ef=@x'\ %:#?";
    let site = Site::new().await;
    let role = unique_name();
    let sql = site.another_sql().await;
    sql.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD '{}'", PASSWORD.replace('\'', "''"))).await.unwrap();
    site.json(&["migrate", "--grant-to", &role]).await;
    let url = url::Url::parse(site.database_url()).unwrap();
    let (host, port, name) = (url.host_str().unwrap(), url.port().unwrap_or(5432), &url.path()[1..]);
    let file = site.folder().join("password");
    write_at_once(&file, &format!("{PASSWORD}\n"));
    let mut site = site.env("PENR_WEBHOOKS__DATABASE__PASSWORD_FILE", file.to_str().unwrap());
    for url in [
        format!("postgresql://{role}@{host}:{port}/{name}"),
        format!("postgresql://{role}:another@{host}:{port}/{name}?sslmode=prefer"),
        format!("host={host} port={port} user={role} dbname={name}"),
    ] {
        site = site.env("DATABASE_URL", &url);
        assert_eq!(site.json(&LIST).await["data"].as_array().map(Vec::len), Some(0), "{url}");
    }
    sql.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn a_password_that_changes_is_read_again_from_its_file() {
    let ledger = Ledger::open(Site::new().await).await;
    let (role, file) = (unique_name(), ledger.site.folder().join("url"));
    let sql = ledger.site.another_sql().await;
    sql.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'first'")).await.unwrap();
    ledger.site.json(&["migrate", "--grant-to", &role]).await;
    let login = |password: &str| {
        let mut url = url::Url::parse(ledger.site.database_url()).unwrap();
        url.set_username(&role).unwrap();
        url.set_password(Some(password)).unwrap();
        url
    };
    write_at_once(&file, &format!("{}\n", login("first")));
    let launch = ledger.site.launch(&["worker"]).remove_env("DATABASE_URL");
    let mut worker = launch.env("DATABASE_URL_FILE", file.to_str().unwrap()).start_worker().await;
    let change = format!(
        "ALTER ROLE {role} PASSWORD 'second';
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'"
    );
    // A URL that cannot be used is logged once.
    write_at_once(&file, "postgres://second@nowhere:port/x");
    sql.batch_execute(&change).await.unwrap();
    ledger.publish(5).await;
    worker.wait_for_log("28P01").await;
    worker.wait_for_log("keeping the old one").await;
    write_at_once(&file, &format!("{}\n", login("second")));
    ledger.wait_until_done().await;
    let log = worker.log();
    assert_eq!((log.matches("keeping the old one").count(), log.matches("was read again").count()), (1, 1));
    assert!(log.contains("DATABASE_URL_FILE") && !log.contains("second@") && !log.contains(":second"), "{log}");
    ledger.close(vec![worker]).await.assert_sound(0);
    let admin = Servers::shared().admin().await;
    admin.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
}
