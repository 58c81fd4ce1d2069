//! The command line: tables for people, one JSON document with `--json` for programs.

// These macros panic when the reader has closed the stream; `output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::signals::Signals;
use crate::config::{ConfigError, ConfigFile, Settings};
use crate::error_chain;
use crate::ids::{AccountId, EventId};
use crate::ops::Role;
use crate::queue::{self, QueueError};
use crate::scrub;
use crate::store::{Store, StoreError};
use crate::webhook::WebhookRefusal;

mod accounts;
mod check;
mod dead_letters;
mod doctor;
mod events;
mod install;
mod json_lines;
mod listen;
mod log;
mod migrate;
mod nearest;
mod output;
mod publish;
mod ready;
mod roles;
mod running;
mod signals;
mod terminal;
mod threads;
mod times;
mod token;
mod top;
mod webhooks;

/// Delivers penr.ai's webhooks: events from RabbitMQ become signed POSTs and log rows.
#[derive(Debug, Parser)]
#[command(name = "penr-webhooks", version, arg_required_else_help = true)]
struct Cli {
    /// Print one JSON document instead of a table
    #[arg(long, global = true, display_order = 900)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the database's schema up to date; safe to run from several replicas at once
    #[command(after_help = migrate::EXAMPLES)]
    Migrate(migrate::Arguments),
    /// Consume events and deliver them until SIGTERM or SIGINT
    #[command(after_help = WORKER_EXAMPLE)]
    Worker,
    /// Serve the HTTP API and the page at /settings/webhooks until SIGTERM or SIGINT
    #[command(after_help = API_EXAMPLE)]
    Api,
    /// All roles in one process
    #[command(after_help = RUN_EXAMPLE)]
    Run,
    /// Register and manage webhooks
    #[command(subcommand)]
    Webhooks(webhooks::Command),
    /// Show what became of an event, or what would become of one
    #[command(subcommand)]
    Events(events::Command),
    /// Erase what is kept of an account
    #[command(subcommand)]
    Accounts(accounts::Command),
    /// Publish events as penr.ai's services do: persistent, confirmed, mandatory
    #[command(after_help = publish::EXAMPLES)]
    Publish(publish::Arguments),
    /// Make a bearer token for the API
    #[command(after_help = token::EXAMPLES)]
    Token(token::Arguments),
    /// Run a receiver for development that verifies both signatures
    #[command(after_help = listen::EXAMPLES)]
    Listen(listen::Arguments),
    /// Look at the broker messages that were no events, send them again or remove them
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Ask the process on this machine whether it is ready (ops.listen): for health checks of containers
    #[command(after_help = ready::EXAMPLES)]
    Ready(ready::Arguments),
    /// Show what the whole installation does, until q is pressed
    #[command(after_help = top::EXAMPLES)]
    Top(top::Arguments),
    /// Check settings, servers, network and machine, and say what to do; changes nothing
    #[command(after_help = DOCTOR_EXAMPLE)]
    Doctor,
    /// Print a script that completes commands and flags in a shell
    #[command(after_help = install::COMPLETIONS_EXAMPLE)]
    Completions(install::Completions),
    /// Write a man page for every command into a folder
    #[command(after_help = install::MAN_PAGES_EXAMPLE)]
    ManPages(install::ManPages),
}

const WORKER_EXAMPLE: &str = "\
Example, with a file of settings:
  PENR_WEBHOOKS_CONFIG=/etc/penr-webhooks.toml penr-webhooks worker";

const API_EXAMPLE: &str = "\
Example, with a file of settings:
  PENR_WEBHOOKS_CONFIG=/etc/penr-webhooks.toml penr-webhooks api";

const RUN_EXAMPLE: &str = "\
Example, for development:
  PENR_WEBHOOKS_CONFIG=config/development.toml penr-webhooks run";

const DOCTOR_EXAMPLE: &str = "\
Example:
  penr-webhooks doctor --json";

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The flags or settings cannot be used.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Failed(anyhow::Error),
    /// A signal ended the command: what was done until then, and the exit code.
    #[error("{0}")]
    Stopped(String, u8),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<WebhookRefusal> for Failure {
    fn from(refusal: WebhookRefusal) -> Self {
        Self::Usage(refusal.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Address(..) | StoreError::Sessions(_) => Self::Usage(error_chain(&error)),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Address(..) => Self::Usage(error_chain(&error)),
            error => Self::Failed(error.into()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<StoreError>() {
            Ok(error) => error.into(),
            Err(error) => Self::Failed(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// How a command ends; a `Failure` becomes the exit code.
type CommandResult = Result<(), Failure>;

/// Runs one command. Exit codes: 0 done, 1 failed, 2 usage or configuration, 130 ended by SIGINT, 143 by SIGTERM.
pub fn main() -> ExitCode {
    // First, so that a signal ends the command from its very start.
    let signals = match Signals::handle() {
        Ok(signals) => signals,
        Err(error) => return fail(&error.into()),
    };
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return fail(&anyhow::anyhow!("another crypto provider is installed already").into());
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // They need no settings: a package is built where there are none.
    match &cli.command {
        Command::Completions(arguments) => return exit_code(install::completions(arguments, Cli::command(), cli.json)),
        Command::ManPages(arguments) => return exit_code(install::man_pages(arguments, Cli::command(), cli.json)),
        _ => {}
    }
    let settings = match load_settings() {
        Ok(settings) => settings,
        Err(error) => return fail(&Failure::from(error)),
    };
    // A health check runs it every few seconds: it gets along without a log and without threads.
    if let Command::Ready(arguments) = &cli.command {
        return exit_code(ready::run(arguments, &settings, cli.json));
    }
    settings.logins().for_each(|login| scrub::keep_secret(&login));
    let runtime = match threads::runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return fail(&failure),
    };
    let log = log::start(&settings.log);
    let result = runtime.block_on(execute(cli, settings, &Process { log, signals }));
    // Does not wait for a thread in the system's name look-up, which cannot be interrupted.
    runtime.shutdown_background();
    exit_code(result)
}

fn exit_code(result: CommandResult) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

/// The parts that exist once per process.
struct Process {
    log: log::Writing,
    signals: Signals,
}

async fn execute(cli: Cli, settings: Settings, process: &Process) -> CommandResult {
    let json = cli.json;
    match cli.command {
        Command::Migrate(arguments) => migrate::run(&arguments, &settings, json).await,
        Command::Worker => roles::run(settings, Role::Worker, process).await,
        Command::Api => roles::run(settings, Role::Api, process).await,
        Command::Run => roles::run(settings, Role::Both, process).await,
        Command::Token(arguments) => token::run(&arguments, &settings, json),
        Command::Webhooks(command) => webhooks::run(command, &settings, json, &process.signals).await,
        Command::Events(command) => events::run(command, &settings, json).await,
        Command::Accounts(command) => accounts::run(command, &settings, json).await,
        Command::Publish(arguments) => publish::run(arguments, &settings, json, &process.signals).await,
        Command::Listen(arguments) => listen::run(arguments, json, &process.signals).await,
        Command::DeadLetters(command) => dead_letters::run(command, &settings, json, &process.signals).await,
        Command::Ready(_) | Command::Completions(_) | Command::ManPages(_) => {
            unreachable!("they ran before there was a runtime")
        }
        Command::Top(arguments) => top::run(arguments, &settings, json, &process.signals).await,
        Command::Doctor => doctor::run(&settings, json).await,
    }
}

/// The variable that names the settings file, whose values replace the defaults.
const CONFIG_FILE: &str = "PENR_WEBHOOKS_CONFIG";

fn load_settings() -> Result<Settings, ConfigError> {
    let file = match std::env::var(CONFIG_FILE) {
        Ok(path) => {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                ConfigError::new(CONFIG_FILE, format!("names a file that cannot be read: {path}: {error}"))
            })?;
            Some(ConfigFile { path, text })
        }
        Err(_) => None,
    };
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    };
    Settings::load(file, std::env::vars_os().filter_map(text), |path| std::fs::read_to_string(path))
}

/// Prints clap's error as one line, as all our errors are.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
    }
    output::complaint(nearest::wrong_arguments(error));
    ExitCode::from(2)
}

fn fail(failure: &Failure) -> ExitCode {
    match failure {
        Failure::Usage(problem) => {
            output::complaint(format_args!("error: {problem}"));
            ExitCode::from(2)
        }
        Failure::Failed(error) => {
            output::complaint(format_args!("error: {}", error_chain(error.as_ref())));
            ExitCode::from(1)
        }
        Failure::Stopped(so_far, code) => {
            output::complaint(format_args!("stopped by a signal: {so_far}"));
            ExitCode::from(*code)
        }
    }
}

/// Checks that the broker's address is set and well-formed. Connects to nothing.
fn broker_address(settings: &Settings) -> Result<(), Failure> {
    settings.amqp_url()?;
    Ok(queue::check_address(&settings.amqp)?)
}

fn store(settings: &Settings) -> Result<Store, Failure> {
    settings.database_url()?;
    Ok(Store::new(&settings.database)?)
}

/// Parses an account's id, for clap.
fn account(text: &str) -> Result<AccountId, String> {
    AccountId::parse(text).ok_or_else(|| "an account id has 1 to 128 printable ASCII characters".to_owned())
}

/// Parses an event's id, for clap.
fn event_id(text: &str) -> Result<EventId, String> {
    EventId::parse(text).ok_or_else(|| "an event's id has 1 to 128 letters, digits, `_` and `-`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `look` with every command that has none below it, and its names from the program's on.
    fn each_command(command: &clap::Command, names: &str, look: &mut impl FnMut(&str, &clap::Command)) {
        let names = format!("{names} {}", command.get_name());
        let mut below = command.get_subcommands().filter(|command| command.get_name() != "help").peekable();
        if below.peek().is_none() {
            return look(names.trim(), command);
        }
        below.for_each(|command| each_command(command, &names, look));
    }

    #[test]
    fn every_flag_has_help_and_stands_in_an_example() {
        let mut seen = 0;
        each_command(&Cli::command(), "", &mut |names, command| {
            let examples = command.get_after_help().unwrap_or_else(|| panic!("`{names}` has no example")).to_string();
            assert!(examples.contains(names), "the examples of `{names}` do not call it: {examples}");
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "json") {
                assert!(argument.get_help().is_some(), "`{names}`: {} has no help", argument.get_id());
                let flag = argument.get_long().map(|flag| format!("--{flag}"));
                let shown = flag.is_none_or(|flag| examples.contains(&flag));
                assert!(shown, "no example of `{names}` has {}: {examples}", argument.get_id());
            }
            seen += 1;
        });
        assert!(seen > 20, "{seen} commands");
    }

    /// An example that the program refuses would teach a mistake.
    #[test]
    fn every_example_is_accepted() {
        each_command(&Cli::command(), "", &mut |names, command| {
            let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default().replace("\\\n", " ");
            for line in examples.lines().filter(|line| line.starts_with("  ") && !line.contains("source")) {
                let call = &line[line.find("penr-webhooks ").expect("an example calls the program")..];
                let words = call.split_whitespace().map(|word| word.trim_matches('\''));
                let parsed = Cli::try_parse_from(words);
                assert!(parsed.is_ok(), "`{names}`: {line}: {}", parsed.unwrap_err());
            }
        });
    }
}
