//! A real Prometheus that scrapes a test's processes, with our alerts.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use url::form_urlencoded::byte_serialize;

use super::files::write_at_once;
use super::http;
use super::wait::{PATIENCE, eventually, wait_until, within};

/// Debian's package installs it.
const PROGRAM: &str = "prometheus";

pub struct Prometheus {
    process: Child,
    folder: TempDir,
    port: u16,
}

impl Prometheus {
    /// Scrapes nobody until `scrape`.
    pub async fn start() -> Self {
        // Another process may take the port before Prometheus does, which then ends.
        eventually("Prometheus listens", async || Self::try_start().await).await
    }

    async fn try_start() -> Option<Self> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = free.expect("a free port").port();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/alerts.yml");
        let config = json!({
            "global": { "scrape_interval": "2s", "evaluation_interval": "5s" },
            "rule_files": [alerts],
            "scrape_configs": [{
                "job_name": "penr-webhooks",
                "file_sd_configs": [{ "files": ["targets.json"], "refresh_interval": "1s" }],
            }],
        });
        // JSON is YAML.
        fs::write(folder.path().join("prometheus.yml"), config.to_string()).expect("the folder is writable");
        let log = File::create(folder.path().join("log")).expect("as above");
        let mut command = Command::new(PROGRAM);
        command.current_dir(folder.path()).arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let process = command.spawn().expect("Prometheus starts: `scripts/services need prometheus`");
        let mut prometheus = Self { process, folder, port };
        let ready = within("Prometheus is ready or ends", PATIENCE, async {
            loop {
                if prometheus.process.try_wait().expect("it is our child").is_some() {
                    return false;
                }
                let answer = http::try_ask(&prometheus.address(), "GET", "/-/ready", &[], b"").await;
                if answer.is_ok_and(|answer| answer.status == 200) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        ready.await.then_some(prometheus)
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Scrapes these addresses from now on, and returns when each has answered.
    pub async fn scrape(&self, operations: &[String]) {
        let targets = json!([{ "targets": operations }]).to_string();
        write_at_once(&self.folder.path().join("targets.json"), &targets);
        let all = operations.len();
        wait_until("every process is scraped", async || self.ask("sum(up)").await == Some(all as f64)).await;
    }

    /// The only sample that a query finds; `None` if it finds nothing.
    pub async fn ask(&self, query: &str) -> Option<f64> {
        let path = format!("/api/v1/query?query={}", byte_serialize(query.as_bytes()).collect::<String>());
        let answer = http::get(&self.address(), &path).await.json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let samples = answer["data"]["result"].as_array().expect("a vector");
        assert!(samples.len() < 2, "{query} finds more than one sample: {answer}");
        let text = samples.first()?["value"][1].as_str().expect("a sample").to_owned();
        Some(text.parse().expect("a number"))
    }

    /// The alerts that fired at any time, by name.
    pub async fn alerts_that_fired(&self, severity: &str) -> Vec<String> {
        let alerts = format!(
            r#"count by (alertname) (count_over_time(ALERTS{{alertstate="firing",severity="{severity}"}}[1h]))"#
        );
        let path = format!("/api/v1/query?query={}", byte_serialize(alerts.as_bytes()).collect::<String>());
        let answer = http::get(&self.address(), &path).await.json();
        let found = answer["data"]["result"].as_array().expect("a vector").iter();
        found.map(|alert: &Value| alert["metric"]["alertname"].as_str().expect("it has a name").to_owned()).collect()
    }
}
