//! A real PgBouncer between a site's processes and Postgres.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use url::Url;

use super::site::Site;
use super::wait::eventually;

/// Debian's package installs it outside the path of ordinary users.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

pub struct Pooler {
    process: Child,
    folder: TempDir,
    server: Url,
    port: u16,
}

impl Pooler {
    /// Started with these settings: `("pool_mode", "session")`.
    pub async fn before(site: &Site, settings: &[(&str, &str)]) -> Self {
        // Another process may take the port before PgBouncer does, which then ends.
        eventually("pgbouncer listens", async || Self::start(site, settings).await).await
    }

    /// `None` if PgBouncer ends instead of listening.
    async fn start(site: &Site, settings: &[(&str, &str)]) -> Option<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        let folder = tempfile::tempdir().expect("a temporary folder");
        // PgBouncer refuses to run as root, and the user it runs as instead must be able to read its settings.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).expect("it is ours");
        let server = site.database_url().parse().expect("a URL");
        write(&folder, &server, port, settings);
        let mut command = match fs::metadata("/proc/self").expect("Linux").uid() {
            0 => {
                let mut other = Command::new("setpriv");
                other.args(["--reuid=postgres", "--regid=postgres", "--init-groups", PROGRAM]);
                other
            }
            _ => Command::new(PROGRAM),
        };
        let log = File::create(folder.path().join("log")).expect("the folder is writable");
        command.arg(folder.path().join("settings")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.kill_on_drop(true).spawn().expect("pgbouncer starts: `scripts/services need pgbouncer`");
        let mut pooler = Self { process, folder, server, port };
        eventually("pgbouncer listens or ends", async || {
            // It logs this address once the port is its own.
            let listens = pooler.log().contains(&format!("listening on {}", pooler.address()));
            let ended = pooler.process.try_wait().expect("it is our child").is_some();
            (listens || ended).then_some(listens)
        })
        .await
        .then_some(pooler)
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Makes the running PgBouncer read other settings.
    pub fn set(&self, settings: &[(&str, &str)]) {
        write(&self.folder, &self.server, self.port, settings);
        let pid = self.process.id().expect("it was not waited for").to_string();
        let status = std::process::Command::new("kill").args(["-s", "HUP", &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "pgbouncer is gone: {}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("the file stays")
    }
}

fn write(folder: &TempDir, server: &Url, port: u16, settings: &[(&str, &str)]) {
    let settings: String = settings.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    let text = format!(
        "[databases]\n* = host={} port={} user={} password={}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}",
        server.host_str().unwrap(),
        server.port().unwrap_or(5432),
        server.username(),
        server.password().unwrap_or_default(),
    );
    let path = folder.path().join("settings");
    fs::write(&path, text).expect("the folder is writable");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
}
