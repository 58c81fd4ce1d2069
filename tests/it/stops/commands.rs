//! Every command ends on SIGTERM and on Ctrl-C, whatever it is doing, and also as process 1 of a container: there the
//! kernel drops a signal that nobody handles.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;

use super::{ACCOUNT, TYPE};
use crate::support::*;

/// Opening a pipe to write then fails, instead of waiting, as long as no process reads it.
const O_NONBLOCK: i32 = 0o4000;

/// SIGINT and SIGTERM in the masks of /proc/PID/status.
const BOTH: u64 = 1 << 1 | 1 << 14;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// The command line that runs a program as process 1 of a PID namespace; empty where this machine does not allow it.
static AS_PROCESS_ONE: LazyLock<&[&str]> = LazyLock::new(|| {
    let ways: [&[&str]; 2] = [
        &["unshare", "--pid", "--fork", "--kill-child"],
        &["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"],
    ];
    let works = |way: &&&[&str]| {
        let tried = Command::new(way[0]).args(&way[1..]).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let way = ways.iter().find(works).copied().unwrap_or_default();
    if way.is_empty() {
        eprintln!("this machine allows no PID namespaces: commands are not tried as process 1");
    }
    way
});

/// A command that runs as process 1.
struct First {
    replica: Replica,
    /// Its number outside the namespace.
    pid: u32,
}

impl First {
    async fn start(launch: Launch) -> Self {
        let replica = launch.under(&AS_PROCESS_ONE).start();
        let outer = replica.pid();
        let pid = match AS_PROCESS_ONE.is_empty() {
            true => outer,
            false => {
                let children = format!("/proc/{outer}/task/{outer}/children");
                eventually("process 1 is there", async || fs::read_to_string(&children).ok()?.trim().parse().ok()).await
            }
        };
        Self { replica, pid }
    }

    /// Whether it handles both signals.
    fn handles_both(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & BOTH == BOTH))
    }

    /// Sends the signal, and returns the exit code.
    async fn ends_on(&mut self, signal: &str) -> Option<i32> {
        let sent = Command::new("kill").args(["-s", signal, &self.pid.to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "process {} is not there", self.pid);
        self.replica.wait().await.code()
    }
}

/// The names of all commands, as `--help` lists them, but those that read no settings and end at once.
fn commands() -> Vec<String> {
    const AT_ONCE: [&str; 3] = ["help", "completions", "man-pages"];
    let help = Command::new(env!("CARGO_BIN_EXE_penr-webhooks")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.split_whitespace().next()).filter(|name| !AT_ONCE.contains(name));
    names.map(str::to_owned).collect()
}

fn with_arguments(command: &str) -> Vec<&str> {
    let arguments: &[&str] = match command {
        "webhooks" => &["list", "--account", ACCOUNT],
        "publish" => &["--account", ACCOUNT, "--type", TYPE],
        "token" => &["--account", ACCOUNT],
        "listen" => &["--port", "0", "--secret", SECRET],
        "dead-letters" => &["list"],
        "accounts" => &["erase", ACCOUNT],
        "events" => &["show", "evt_1", "--account", ACCOUNT],
        _ => &[],
    };
    [&[command], arguments].concat()
}

fn pipe(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// Opens the pipe once a command reads it. That command then waits for data that never comes.
async fn read_by_somebody(pipe: &Path) -> File {
    let open = || OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(pipe);
    eventually("the settings are read", async || open().ok()).await
}

#[tokio::test]
async fn every_command_ends_on_both_signals_as_process_1_before_it_has_read_its_settings() {
    let site = Site::new().await;
    let commands = commands();
    assert!(commands.len() >= 10, "{commands:?}");
    let tries = commands.iter().flat_map(|command| [("TERM", 143), ("INT", 130)].map(|signal| (command, signal)));
    join_all(tries.map(async |(command, (signal, code))| {
        let settings = pipe(site.folder(), &format!("{command}-{signal}.toml"));
        let launch = site.launch(&with_arguments(command)).env("PENR_WEBHOOKS_CONFIG", settings.to_str().unwrap());
        let mut first = First::start(launch).await;
        let _unfinished = read_by_somebody(&settings).await;
        assert!(first.handles_both(), "{command}");
        assert_eq!(first.ends_on(signal).await, Some(code), "{command} on SIG{signal}");
    }))
    .await;
}

/// Starts the command this many times, and sends SIGTERM a little later each time.
pub async fn stop_early(site: &Site, command: &str, starts: u32, apart: Duration) {
    for start in 0..starts {
        let mut first = First::start(site.launch(&[command])).await;
        eventually("`main` runs", async || first.handles_both().then_some(())).await;
        // A sleep, since each start is to be hit at another moment: there is no event to wait for.
        tokio::time::sleep(apart * start).await;
        let code = first.ends_on("TERM").await;
        assert!(matches!(code, Some(0 | 143)), "{command}, start {start}: {code:?}");
    }
}

#[tokio::test]
async fn a_sigterm_soon_after_the_start_of_a_role_as_process_1_is_not_lost() {
    let site = Site::new().await;
    let roles = ["worker", "api", "run"];
    join_all(roles.map(|role| stop_early(&site, role, 4, Duration::from_millis(17)))).await;
}

#[tokio::test]
async fn a_publish_that_is_stopped_says_how_many_were_confirmed() {
    let site = Site::new().await;
    site.worker().await.kill9();
    let arguments = ["publish", "--account", ACCOUNT, "--type", TYPE, "--count", "2000000"];
    let mut first = First::start(site.launch(&arguments)).await;
    wait_until("some are published", async || site.queue_depth(site.worker_queue()).await > 0).await;
    assert_eq!(first.ends_on("INT").await, Some(130));
    let said = first.replica.log();
    let so_far = said.split_once("stopped by a signal: ").map(|(_, said)| said);
    let confirmed = so_far.and_then(|said| said.split(' ').next());
    let confirmed: u32 = confirmed.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(said.trim_end().ends_with("of 2000000 events were confirmed"), "{said}");
    // One may have been under way.
    let there = site.queue_depth(site.worker_queue()).await;
    assert!((confirmed..=confirmed + 1).contains(&there), "{there} are there, {confirmed} were confirmed");
}

#[tokio::test]
async fn a_walk_over_dead_letters_that_is_stopped_says_how_many_it_discarded() {
    let site = Site::new().await;
    let silent = Proxy::to(site.amqp_address()).await;
    silent.pause();
    let launch = site.launch(&["dead-letters", "discard", "--unreadable"]);
    let mut first = First::start(launch.env("AMQP_URL", &site.amqp_url_through(&silent.addr()))).await;
    wait_until("it waits for the broker", async || silent.opened() > 0).await;
    assert_eq!(first.ends_on("TERM").await, Some(143));
    let said = first.replica.log();
    assert!(said.trim_end().ends_with("stopped by a signal: 0 dead letters were discarded"), "{said}");
}
