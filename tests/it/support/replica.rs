//! The real binary as a child process: its log is kept for the test to read, and it never outlives the test.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::http;
use super::level::Level;
use super::search;
use super::servers::unique_name;
use super::settings::{Configure, Settings};
use super::wait::{PATIENCE, eventually, within};

const BINARY: &str = env!("CARGO_BIN_EXE_penr-webhooks");

/// What a worker logs once it takes messages.
pub const ATTACHED: &str = "consumer attached";

pub struct Launch {
    command: Vec<String>,
    settings: Settings,
    folder: PathBuf,
    log_blocked: bool,
}

impl Launch {
    pub fn new(arguments: &[&str], settings: Settings, folder: &Path) -> Self {
        let command = [BINARY].iter().chain(arguments).map(|&word| word.to_owned()).collect();
        Self { command, settings, folder: folder.to_owned(), log_blocked: false }
    }

    /// Another build of the program, with the same arguments.
    pub fn of(mut self, program: &Path) -> Self {
        program.to_str().expect("a readable path").clone_into(&mut self.command[0]);
        self
    }

    /// Started by another program, which then becomes it: `.under(&["prlimit", "--nofile=64"])`.
    pub fn under(mut self, program: &[&str]) -> Self {
        self.command.splice(0..0, program.iter().map(|&word| word.to_owned()));
        self
    }

    /// Its log goes into a pipe that nobody reads.
    pub fn with_blocked_log(mut self) -> Self {
        self.log_blocked = true;
        self
    }

    /// Starts it and waits for nothing.
    pub fn start(self) -> Replica {
        let name = unique_name();
        let log = self.folder.join(format!("{name}.log"));
        let log_file = File::create(&log).expect("the folder is writable");
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).current_dir(&self.folder).kill_on_drop(true);
        self.settings.give_to(&mut command);
        command.stdin(Stdio::null()).stdout(File::create(log.with_extension("out")).expect("as above"));
        command.stderr(if self.log_blocked { Stdio::piped() } else { log_file.into() });
        let child = command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", self.command[0]));
        Replica { child, log, level: None }
    }

    /// Starts it and waits until it takes messages.
    pub async fn start_worker(self) -> Replica {
        self.start_worker_of(1).await
    }

    /// Starts it and waits until it takes messages from this many queues.
    pub async fn start_worker_of(self, queues: usize) -> Replica {
        let mut replica = self.start();
        replica.wait_for_log_times(ATTACHED, queues).await;
        replica.level = Some(Level::of(&replica));
        replica
    }
}

impl Configure for Launch {
    fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

pub struct Replica {
    child: Child,
    log: PathBuf,
    level: Option<Level>,
}

impl Replica {
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for yet")
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    pub fn interrupt(&self) {
        self.signal("INT");
    }

    pub fn kill9(&self) {
        self.signal("KILL");
    }

    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn resume(&self) {
        self.signal("CONT");
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let status = std::process::Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "process {pid} is not there for SIG{name}");
    }

    pub async fn wait(&mut self) -> ExitStatus {
        within("the process exits", PATIENCE, self.child.wait()).await.expect("it is our child")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).expect("the log file stays");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn stdout(&self) -> String {
        let bytes = fs::read(self.log.with_extension("out")).expect("the output file stays");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The log's complete JSON lines.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Its warnings and errors, also those of libraries.
    pub fn warnings(&self) -> Vec<String> {
        let lines = self.log_lines();
        let warns = lines.iter().filter(|line| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap_or_default()));
        warns.map(|line| of(line, "message").and_then(Value::as_str).unwrap_or_default().to_owned()).collect()
    }

    pub async fn wait_for_log(&mut self, text: &str) {
        self.wait_for_log_times(text, 1).await;
    }

    /// Waits until `text` stands in the log `times` times: twice, say, for an attach and one after a reconnect.
    pub async fn wait_for_log_times(&mut self, text: &str, times: usize) {
        eventually(&format!("the log says {text:?} {times} times"), async || {
            let running = self.is_running();
            let seen = self.log().matches(text).count() >= times;
            assert!(seen || running, "the process ended without saying {text:?}");
            seen.then_some(())
        })
        .await;
    }

    /// A field of the first log line with this message, wherever the log's layout puts it.
    pub async fn logged(&mut self, message: &str, field: &str) -> String {
        eventually(&format!("the log says {message:?} with {field:?}"), async || {
            let running = self.is_running();
            let line = self.log_lines().into_iter().find(|line| of(line, "message") == Some(&message.into()));
            assert!(line.is_some() || running, "the process ended without saying {message:?}");
            let value = of(line.as_ref()?, field)?;
            Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        })
        .await
    }

    /// Whether `/readyz` answers 200.
    pub async fn is_ready(&mut self) -> bool {
        let address = self.logged("operations address", "address").await;
        http::get(&address, "/readyz").await.status == 200
    }

    /// The status of its readiness, and whether it says that the queue has no quorum.
    pub async fn readyz(&mut self) -> (u16, bool) {
        let address = self.logged("operations address", "address").await;
        let answer = http::get(&address, "/readyz").await;
        (answer.status, answer.text().contains("queue: no quorum\n"))
    }

    /// A number at `/metrics`, by its name without `penr_webhooks_`.
    pub async fn metric(&mut self, name: &str) -> f64 {
        let address = self.logged("operations address", "address").await;
        http::metric(&address, name).await
    }

    /// Waits until memory and open files are about where they were when it had just attached. Only `start_worker` notes them.
    pub async fn wait_for_its_level(&self) {
        if let Some(level) = self.level {
            level.wait_for_return(self).await;
        }
    }

    /// Resident memory.
    pub fn memory_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most resident memory it has ever had.
    pub fn peak_memory_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it is running");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("it is running");
        line.trim().trim_end_matches(" kB").parse().expect("the kernel counts in kB")
    }

    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it is running").count()
    }

    /// How many TCP connections over IPv4 it has open to these ports.
    pub fn connections_to(&self, ports: &[u16]) -> usize {
        const ESTABLISHED: &str = "01";
        let opened = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it is running");
        let own: HashSet<PathBuf> = files.flatten().filter_map(opened).collect();
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.pid())).expect("it is running");
        let counts = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let port = fields[2].split(':').next_back().and_then(|port| u16::from_str_radix(port, 16).ok());
            let is_there = port.is_some_and(|port| ports.contains(&port)) && fields[3] == ESTABLISHED;
            is_there && own.contains(Path::new(&format!("socket:[{}]", fields[9])))
        };
        table.lines().skip(1).filter(counts).count()
    }

    /// Where its metrics are, if it can answer. For `drop`: without a panic.
    fn operations_of_running(&mut self) -> Option<String> {
        let Ok(None) = self.child.try_wait() else { return None };
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        // Not one that is stopped by a signal.
        if !status.lines().any(|line| line.starts_with("State:\tS") || line.starts_with("State:\tR")) {
            return None;
        }
        let log = fs::read(&self.log).ok()?;
        let lines = log.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let line = lines.into_iter().find(|line| of(line, "message") == Some(&"operations address".into()))?;
        of(&line, "address")?.as_str().map(str::to_owned)
    }

    fn log_tail(&self) -> String {
        // Not `log()`: a panic while another unwinds would abort all tests.
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(operations) = self.operations_of_running() {
            search::no_value_at(&operations);
        }
        let _ = self.child.start_kill();
        if std::thread::panicking() {
            eprintln!("--- the end of {}:\n{}\n---", self.log.display(), self.log_tail());
        }
    }
}

fn of<'a>(line: &'a Value, field: &str) -> Option<&'a Value> {
    line.get(field).or_else(|| line.get("fields")?.get(field))
}
