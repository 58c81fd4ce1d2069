//! A primary with a streaming standby, one test's own: the ways the primary fails, and the ways a process finds the
//! standby that has taken over. The broker is the one that all tests share.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::SemaphorePermit;
use tokio_postgres::Client;
use url::Url;

use super::private::{Instance, room, services};
use super::proxy::Proxy;
use super::replica::Launch;
use super::servers::{Servers, connect};
use super::settings::Configure;
use super::site::Site;
use super::wait::wait_until;

/// How the primary fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// SIGKILL.
    Killed,
    /// SIGSTOP: its connections stay open and silent.
    Frozen,
    /// It is a standby from then on, which lets clients in and refuses their writes.
    Demoted,
}

/// How a process finds the server that takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `DATABASE_URL` names both servers.
    SeveralHosts,
    /// One address, as a load balancer's, whose new connections go to the new primary; open ones stay.
    MovingAddress,
    /// One host name, whose address becomes the new primary's.
    MovingName,
    /// The standby's own address.
    Standby,
}

const NAME: &str = "postgres.test";

pub struct Replicated {
    // Stopped before the room is given to the next test: fields are dropped in this order.
    instance: Instance,
    /// The address that the test itself and its site use. It moves with the primary, and cuts its connections then.
    own: Proxy,
    moving: Proxy,
    /// Has the hosts file that [`Way::MovingName`] reads.
    folder: TempDir,
    primary: Url,
    standby: Url,
    servers: Arc<Servers>,
    _room: SemaphorePermit<'static>,
}

impl Replicated {
    /// The standby streams, and no commit waits for it yet.
    pub async fn start() -> Self {
        let room = room().await;
        let instance = Instance::start(&["postgres", "standby"]).await;
        let url = async |name| Url::parse(&instance.export(name).await).expect("scripts/services exports a URL");
        let (primary, standby) = (url("DATABASE_URL").await, url("STANDBY_URL").await);
        let (own, moving) = (Proxy::to(address_of(&primary)).await, Proxy::to(address_of(&primary)).await);
        let through = primary.as_str().replace(&address_of(&primary), &own.addr());
        let servers = Servers::with_disposable_postgres(through);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let replicated = Self { instance, own, moving, folder, primary, standby, servers, _room: room };
        replicated.name_is_of(&replicated.primary);
        replicated
    }

    /// From here on every commit waits for the standby, as `synchronous_commit` says: `on`, `remote_apply`.
    pub async fn synchronous(&self, commit: &str) {
        let primary = self.primary().await;
        let names = "ALTER SYSTEM SET synchronous_standby_names = 'standby'";
        let commit = format!("ALTER SYSTEM SET synchronous_commit = '{commit}'");
        for change in [names, &commit, "SELECT pg_reload_conf()"] {
            primary.batch_execute(change).await.expect("a superuser may do this");
        }
        let waited_for = "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'";
        wait_until("the primary waits for its standby", async || {
            !primary.query(waited_for, &[]).await.expect("the query is right").is_empty()
        })
        .await;
    }

    /// A connection to the server that was the primary at first.
    pub async fn primary(&self) -> Client {
        connect(self.primary.as_str()).await
    }

    /// A process that finds its database in this way.
    pub fn launch(&self, site: &Site, way: Way, arguments: &[&str]) -> Launch {
        let launch = site.launch(arguments);
        let url = |address: &str| site.database_url().replace(&self.own.addr(), address);
        let (primary, standby) = (address_of(&self.primary), address_of(&self.standby));
        match way {
            Way::SeveralHosts => launch.env("DATABASE_URL", &url(&format!("{primary},{standby}"))),
            Way::MovingAddress => launch.env("DATABASE_URL", &url(&self.moving.addr())),
            Way::Standby => launch.env("DATABASE_URL", &url(&standby)),
            Way::MovingName => {
                let port = self.primary.port().expect("it has one");
                let launch = launch.env("DATABASE_URL", &url(&format!("{NAME}:{port}")));
                // Answers the process's questions for names from a file, without privileges.
                let hosts = self.hosts_file();
                launch.env("LD_PRELOAD", "libnss_wrapper.so").env("NSS_WRAPPER_HOSTS", &hosts)
            }
        }
    }

    /// The primary fails.
    pub async fn lose_primary(&self, loss: Loss) {
        match loss {
            Loss::Killed => self.instance.kill("postgres").await,
            Loss::Frozen => self.instance.pause("postgres").await,
            Loss::Demoted => self.instance.tell(&["demote"]).await,
        }
    }

    /// The primary comes back as it was, on the same address.
    pub async fn restart_primary(&self) {
        self.instance.restart("postgres").await;
    }

    /// A frozen primary goes on, and still takes itself for the primary.
    pub async fn thaw_primary(&self) {
        self.instance.resume("postgres").await;
    }

    pub async fn stop_standby(&self) {
        self.instance.graceful_stop("standby").await;
    }

    pub async fn restart_standby(&self) {
        self.instance.restart("standby").await;
    }

    /// Promotes the standby, and then moves the address and the name to it.
    pub async fn promote(&self) {
        let standby = connect(self.standby.as_str()).await;
        let done = standby.query_one("SELECT pg_promote()", &[]).await.expect("a superuser may do this");
        assert!(done.get::<_, bool>(0), "it was not promoted in time");
        self.moving.move_to(address_of(&self.standby));
        self.name_is_of(&self.standby);
        self.own.move_to(address_of(&self.standby));
        self.own.cut().await;
    }

    fn name_is_of(&self, server: &Url) {
        let host = server.host_str().expect("a server with a host");
        let next = self.folder.path().join("next");
        std::fs::write(&next, format!("{host} {NAME}\n")).expect("the folder is writable");
        // In one step, so that no process reads half of it.
        std::fs::rename(next, self.hosts_file()).expect("the folder is writable");
    }

    fn hosts_file(&self) -> String {
        self.folder.path().join("hosts").to_str().expect("a readable path").to_owned()
    }
}

/// [`Way::MovingName`] takes a package beyond those of the servers.
pub async fn install_name_wrapper() {
    let installed = std::process::Command::new("dpkg").args(["-s", "libnss-wrapper"]).output();
    if !installed.is_ok_and(|output| output.status.success()) {
        services(&["install", "libnss-wrapper"]).await;
    }
}

impl From<&Replicated> for Arc<Servers> {
    fn from(replicated: &Replicated) -> Self {
        replicated.servers.clone()
    }
}

/// `host:port`.
fn address_of(url: &Url) -> String {
    format!("{}:{}", url.host_str().expect("a server with a host"), url.port().expect("a server with a port"))
}
