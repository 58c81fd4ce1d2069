//! The command line as an operator uses it: arguments in, exit code and text out.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::hidden_value;
use super::receiver::Receiver;
use super::search;
use super::settings::Settings;
use super::site::Site;
use super::wait::{wait_until, within};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Output {
    /// -1 when a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// What a test needs to know of a webhook it made.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub id: String,
    pub secret: String,
    pub account: String,
    pub url: String,
    pub events: Vec<String>,
}

impl Webhook {
    fn of(created: &Value, account: &str, url: &str, events: &[&str]) -> Self {
        let text = |field: &str| created[field].as_str().unwrap_or_else(|| panic!("no {field}: {created}")).to_owned();
        Self {
            id: text("id"),
            secret: text("secret"),
            account: account.to_owned(),
            url: url.to_owned(),
            events: events.iter().map(|&event| event.to_owned()).collect(),
        }
    }
}

/// The command that registers a webhook for a list of events.
fn create<'a>(account: &'a str, url: &'a str, list: &'a str) -> [&'a str; 10] {
    ["webhooks", "create", "--account", account, "--name", "A test's", "--url", url, "--events", list]
}

impl Site {
    pub async fn cli(&self, arguments: &[&str]) -> Output {
        run(self.settings(), self.folder(), arguments).await
    }

    /// As `cli`, with this text as its standard input.
    pub async fn cli_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = command(self.settings(), self.folder(), arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut stdin = child.stdin.take().expect("it was piped");
        // It may end without having read all, and may write before it has.
        let writing = async move {
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let name = name(arguments);
        let (output, ()) = tokio::join!(within(&name, LIMIT, child.wait_with_output()), writing);
        Output::of(arguments, &output.expect("it is our child"))
    }

    /// A command whose stdout and stderr nobody reads any more, as after `| head`; how it ends.
    pub async fn cli_unread(&self, arguments: &[&str]) -> ExitStatus {
        let mut command = command(self.settings(), self.folder(), arguments);
        command.stdout(closed_pipe()).stderr(closed_pipe());
        within(&name(arguments), LIMIT, command.status()).await.expect("the binary starts")
    }

    /// As `cli`, but nobody reads its stdout any more.
    pub async fn cli_into_head(&self, arguments: &[&str]) -> Output {
        let mut command = command(self.settings(), self.folder(), arguments);
        command.stdout(closed_pipe()).stderr(Stdio::piped());
        let child = command.spawn().expect("the binary starts");
        let output = within(&name(arguments), LIMIT, child.wait_with_output()).await.expect("it is our child");
        Output::of(arguments, &output)
    }

    /// The command on a terminal of so many columns, on which this is typed. `shell` is run before it, in the same shell, such as
    /// `export NO_COLOR=1`. A terminal has one stream for stdout and stderr.
    pub async fn cli_on_terminal(&self, arguments: &[&str], columns: u16, shell: &str, typed: &str) -> Output {
        let mut child = self.on_terminal(arguments, &format!("stty cols {columns}; {shell}"));
        let mut keyboard = child.stdin.take().expect("it was piped");
        keyboard.write_all(typed.as_bytes()).await.expect("the terminal reads");
        let output = within(&name(arguments), LIMIT, child.wait_with_output()).await.expect("it is our child");
        drop(keyboard);
        Output::of(arguments, &output)
    }

    /// Closes the terminal of a command that has taken its whole screen, and waits until the command has ended.
    pub async fn cli_on_closed_terminal(&self, arguments: &[&str]) {
        let mut terminal = self.on_terminal(arguments, "echo \"pid=$$;\"");
        let mut shown = terminal.stdout.take().expect("it was piped");
        let mut text = String::new();
        let taken = async {
            while !text.contains("\x1b[?1049h") {
                let mut bytes = [0; 4096];
                let count = shown.read(&mut bytes).await.expect("it was piped");
                assert_ne!(count, 0, "{} has ended: {text}", name(arguments));
                text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        };
        within("the screen is taken", LIMIT, taken).await;
        let pid = text.split_once("pid=").and_then(|(_, text)| text.split_once(';')).expect("it was shown first").0;
        // Nobody else has the other side of the terminal.
        terminal.kill().await.expect("it is our child");
        let status = format!("/proc/{pid}/status");
        wait_until(&name(arguments), async || {
            // Where nobody waits for it, it stays as a zombie.
            std::fs::read_to_string(&status).map_or(true, |status| status.contains("State:\tZ"))
        })
        .await;
    }

    /// The command on a terminal of its own, in the shell that has run `shell` before.
    fn on_terminal(&self, arguments: &[&str], shell: &str) -> Child {
        let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
        let program = env!("CARGO_BIN_EXE_penr-webhooks");
        let line = format!("export TERM=xterm; {shell}; exec {program} {}", quoted.join(" "));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(self.folder());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        self.settings().give_to(&mut command);
        command.spawn().expect("`script` is on every Debian machine")
    }

    /// What the command prints with `--json`; it must succeed.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--json"]].concat()).await;
        assert_eq!(output.code, 0, "{arguments:?} failed: {}", output.stderr);
        serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?} printed no JSON ({error}): {}", output.stdout))
    }

    /// Registers a webhook whose requests have the run's hidden value. In an older schema, which keeps no headers, without it.
    pub async fn create_webhook(&self, account: &str, url: &str, events: &[&str]) -> Webhook {
        let list = events.join(",");
        let arguments = [&create(account, url, &list)[..], &["--headers", "-", "--json"]].concat();
        let output = self.cli_with_input(&arguments, &hidden_value::headers().to_string()).await;
        if output.code != 0 && output.stderr.contains("keeps no headers") {
            return self.create_plain_webhook(account, url, events).await;
        }
        assert_eq!(output.code, 0, "{arguments:?} failed: {}", output.stderr);
        search::count("webhooks", 1);
        Webhook::of(&serde_json::from_str(&output.stdout).expect("JSON"), account, url, events)
    }

    /// The same without headers.
    pub async fn create_plain_webhook(&self, account: &str, url: &str, events: &[&str]) -> Webhook {
        let created = self.json(&create(account, url, &events.join(","))).await;
        Webhook::of(&created, account, url, events)
    }

    /// So that its URL may be changed to another receiver's.
    pub async fn remove_headers(&self, webhook: &Webhook) {
        let remove = "UPDATE webhooks SET header_names = NULL, headers = NULL, headers_set_at = clock_timestamp()
            WHERE id::text = $1";
        self.sql().await.execute(remove, &[&webhook.id]).await.expect("the schema has headers");
    }

    /// A receiver that answers 200 until told otherwise, and its webhook for these events of an account.
    pub async fn subscriber(&self, account: &str, events: &[&str]) -> (Receiver, Webhook) {
        let receiver = Receiver::start().await;
        let webhook = self.create_webhook(account, &receiver.url(), events).await;
        (receiver, webhook)
    }

    pub async fn webhook(&self, id: &str) -> Value {
        self.json(&["webhooks", "show", id]).await
    }

    /// The webhook's log, newest first.
    pub async fn log(&self, id: &str) -> Vec<Value> {
        let log = self.json(&["webhooks", "log", id, "--limit", "100"]).await;
        log["data"].as_array().expect("a log is a list").clone()
    }
}

pub async fn run(settings: &Settings, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = command(settings, folder, arguments);
    let output = within(&name(arguments), LIMIT, command.output()).await.expect("the binary starts");
    Output::of(arguments, &output)
}

fn command(settings: &Settings, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penr-webhooks"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    settings.give_to(&mut command);
    command
}

fn name(arguments: &[&str]) -> String {
    format!("`penr-webhooks {}` ends", arguments.join(" "))
}

/// A pipe without a reader: writing to it fails.
pub fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

impl Output {
    fn of(arguments: &[&str], output: &std::process::Output) -> Self {
        let output = Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        search::no_value_in_output(&arguments.join(" "), &output.stdout, &output.stderr);
        output
    }
}
