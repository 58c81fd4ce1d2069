//! nginx between a customer and the API, configured as operators configure it: it compresses answers, drops ETags or keeps
//! connections.

use std::fs::{self, File};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};

use super::wait::wait_until;

/// Debian's package installs it outside the path of ordinary users.
const PROGRAM: &str = "/usr/sbin/nginx";

pub struct Nginx {
    _process: Child,
    /// Bound, but not listening: while this socket is open, no other process gets the port.
    port: TcpSocket,
    folder: TempDir,
}

impl Nginx {
    /// Compresses every answer of the API at `host:port`, also one that says `no-transform`.
    pub async fn that_compresses(target: &str) -> Self {
        Self::before(target, "gzip on; gzip_types application/json; gzip_min_length 0; gzip_proxied any;").await
    }

    /// Compresses every answer, and serves the API below a path: `/hooks/v1`.
    pub async fn that_compresses_below(path: &str, target: &str) -> Self {
        let gzip =
            "gzip on; gzip_types application/json text/css text/javascript; gzip_min_length 0; gzip_proxied any;";
        Self::with("", &format!("{path}/"), &format!("{target}/"), gzip).await
    }

    /// Passes no ETag on.
    pub async fn that_drops_etags(target: &str) -> Self {
        Self::before(target, "proxy_hide_header ETag;").await
    }

    /// Keeps connections to the API for the next request, for this time.
    pub async fn that_keeps_connections(target: &str, timeout: &str) -> Self {
        let kept = format!("upstream kept {{ server {target}; keepalive 200; keepalive_timeout {timeout}; }}");
        Self::with(&kept, "/", "kept", "proxy_http_version 1.1; proxy_set_header Connection \"\";").await
    }

    async fn before(target: &str, directives: &str) -> Self {
        Self::with("", "/", target, directives).await
    }

    async fn with(upstream: &str, location: &str, target: &str, directives: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port = TcpSocket::new_v4().expect("a socket");
        port.set_reuseport(true).expect("a socket");
        port.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = port.local_addr().expect("it is bound");
        let text = format!(
            "daemon off; master_process off; pid nginx.pid; error_log stderr;
             events {{}}
             http {{
                 access_log off;
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                 {upstream}
                 server {{ listen {address} reuseport; {directives} location {location} {{ proxy_pass http://{target}; }} }}
             }}"
        );
        let settings = folder.path().join("nginx.conf");
        fs::write(&settings, text).expect("the folder is writable");
        let mut command = Command::new(PROGRAM);
        command.arg("-p").arg(folder.path()).arg("-c").arg(settings).args(["-e", "stderr"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.stderr(File::create(folder.path().join("log")).expect("as above"));
        let nginx =
            Self { _process: command.spawn().expect("nginx starts: `scripts/services need nginx`"), port, folder };
        wait_until("nginx listens", async || TcpStream::connect(address).await.is_ok()).await;
        nginx
    }

    /// `host:port`.
    pub fn addr(&self) -> String {
        self.port.local_addr().expect("it is bound").to_string()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("nginx said: {}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}
