//! `doctor` names what is wrong with the machine: name servers, certificates, open files, the proxy and memory.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;

#[tokio::test]
async fn a_closed_name_server_is_warned_about() {
    let names = NameServer::start(|_, _| Says::silence()).await;
    let site = Site::new().await.set("sender.dns_servers", &format!(r#"["{}"]"#, names.address()));
    drop(names);
    let report = site.doctor().await;
    report.assert("dns", "warns", &["example.com", "sender.dns_servers"]);
    assert_eq!(report.code, 0);
}

#[tokio::test]
async fn a_name_server_that_knows_no_public_address_answers_all_the_same() {
    let names = NameServer::start(|_, _| Says::addresses(&["10.0.0.1"])).await;
    let site = Site::new().await.set("sender.dns_servers", &format!(r#"["{}"]"#, names.address()));
    site.doctor().await.assert("dns", "ok", &[]);
    assert_eq!(names.names(), ["example.com."]);
}

#[tokio::test]
async fn no_ca_certificates_is_a_failure() {
    let report = Site::new().await.without_certificates().doctor().await;
    report.assert("certificates", "fails", &["there are no CA certificates", "SSL_CERT_FILE"]);
    assert_eq!(report.code, 1);
}

#[tokio::test]
async fn too_few_open_files_for_the_requests_in_flight_are_a_failure_and_for_kept_connections_a_warning() {
    let site = Site::new().await;
    // The soft limit does not count: a worker raises it.
    let doctor = site.launch(&["doctor", "--json"]).under(&["prlimit", "--nofile=64:500"]).start();
    let report = Report::of(doctor).await;
    report.assert("open_files", "fails", &["500 allowed here", "LimitNOFILE", "to 2048 ", "worker.max_in_flight"]);
    assert_eq!(report.code, 1);

    let doctor = site.launch(&["doctor", "--json"]).under(&["prlimit", "--nofile=1000"]).start();
    let report = Report::of(doctor).await;
    report.assert("open_files", "warns", &["1000 allowed here", "to 2048 "]);
    assert_eq!(report.code, 0);

    let site = site.set("sender.max_idle_connections", "60000");
    let doctor = site.launch(&["doctor", "--json"]).under(&["prlimit", "--nofile=4096"]).start();
    Report::of(doctor).await.assert("open_files", "warns", &["4096 allowed here", "to 65536 "]);
}

/// Whether the environment of these tests names a proxy.
pub fn names_a_proxy() -> bool {
    std::env::vars_os().any(|(name, _)| name.to_string_lossy().to_ascii_uppercase().ends_with("_PROXY"))
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_said_not_to_be_used() {
    let site = Site::new().await.env("https_proxy", "http://user:s3cret@127.0.0.1:9");
    let report = site.doctor().await;
    report.assert("proxy", "warns", &["go out directly", "https_proxy is not read", "sender.proxy"]);
    report.assert_nowhere("s3cret");
    assert_eq!(report.code, 0);
}

#[tokio::test]
async fn a_proxy_must_answer_and_accept_its_credentials() {
    let proxy = ForwardProxy::start().await;
    let site = Site::new().await.set("sender.proxy", &proxy.url());
    // The proxy does not reach example.com. It answers so, which is enough.
    site.doctor().await.assert("proxy", "ok", &[&proxy.url(), "answered"]);
    assert_eq!(proxy.asked(), ["CONNECT example.com:443 HTTP/1.1"]);
    proxy.refuse(Some(407));
    let report = site.doctor().await;
    report.assert("proxy", "fails", &["407", "sender.proxy_credentials"]);
    assert_eq!(report.code, 1);
    drop(proxy);
    site.doctor().await.assert("proxy", "fails", &["does not answer"]);
}

/// A new control group with a limit of memory, where this machine allows one.
struct Group(PathBuf);

impl Group {
    fn new(bytes: &str) -> Option<Self> {
        let name = format!("penr-webhooks-{}", std::process::id());
        let [v1, v2] = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(|root| Path::new(root).join(&name));
        let groups = [(v1, "memory.limit_in_bytes"), (v2, "memory.max")];
        groups.into_iter().find_map(|(group, file)| {
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            fs::OpenOptions::new().write(true).open(group.0.join(file)).ok()?.write_all(bytes.as_bytes()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test]
async fn a_control_group_with_too_little_memory_for_the_prefetch_is_a_failure() {
    let site = Site::new().await;
    let Some(group) = Group::new("134217728") else {
        eprintln!("this machine gives no control group: doctor is not tried in one");
        return;
    };
    let procs = group.0.join("cgroup.procs").display().to_string();
    let enter = ["sh", "-c", "echo $$ > \"$0\" && exec \"$@\"", &procs];
    let report = Report::of(site.launch(&["doctor", "--json"]).under(&enter).start()).await;
    report.assert("memory", "fails", &["limited to 128 MiB", "worker.prefetch", "event.max_event_bytes", "556 MiB"]);
    assert_eq!(report.code, 1);
    let fewer = site.set("worker.prefetch", "157");
    let report = Report::of(fewer.launch(&["doctor", "--json"]).under(&enter).start()).await;
    report.assert("memory", "ok", &["64 KiB on average"]);
}
