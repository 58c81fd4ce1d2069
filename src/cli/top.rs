//! Shows what the whole installation does, again and again, until q is pressed; with `--json` once, for scripts.

use std::io::{IsTerminal as _, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::overview::Overview;
use self::screen::Screen;
use super::signals::{HUNG_UP, SignalReceiver, Signals, hangups};
use super::{CommandResult, Failure, output, store, terminal};
use crate::config::Settings;
use crate::error_chain;
use crate::store::Store;

mod overview;
mod room;
mod screen;
mod table;

pub(super) const EXAMPLES: &str = "\
Examples:
  penr-webhooks top
  penr-webhooks top --interval 5s
  penr-webhooks top --json";

/// How soon a pressed key is noticed.
const KEYS_LOOKED_FOR: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Ask again after this time, 500ms to 1m
    #[arg(long, default_value = "2s", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval: Duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_millis(500)..=Duration::from_secs(60);
    bounds.contains(&interval).then_some(interval).ok_or_else(|| "must be from 500ms to 1m".to_owned())
}

pub(super) async fn run(arguments: Arguments, settings: &Settings, json: bool, signals: &Signals) -> CommandResult {
    let store = store(settings)?;
    if json {
        return output::json(&Overview::ask(&store).await?);
    }
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Failure::Usage("top needs a terminal; `top --json` prints the same once, for scripts".to_owned()));
    }
    // The first answer comes before the screen is taken: what is wrong with the settings or the schema is told as usual.
    let overview = Some(Overview::ask(&store).await?);
    let screen = Screen { overview, problem: None, colours: terminal::has_colours(&stdout()) };
    let ends = Ends { signals: signals.receiver()?, hangups: hangups()? };
    let terminal = ratatui::try_init()?;
    let watched = watch(terminal, screen, &store, arguments.interval, ends).await;
    let restored = ratatui::try_restore();
    // A terminal that was closed cannot be restored.
    watched?;
    Ok(restored?)
}

/// The signals that end it.
struct Ends {
    signals: SignalReceiver,
    hangups: Signal,
}

impl Ends {
    /// Waits for one, and returns the exit code that belongs to it.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            code = self.signals.next() => code,
            _ = self.hangups.recv() => HUNG_UP,
        }
    }
}

/// Draws until the user, or a signal, ends it.
async fn watch(
    mut terminal: DefaultTerminal,
    mut screen: Screen,
    store: &Store,
    interval: Duration,
    mut ends: Ends,
) -> CommandResult {
    let mut keys = Keys::read();
    let mut ask = Box::pin(ask_after(store, interval));
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        tokio::select! {
            answer = &mut ask => {
                match answer {
                    Ok(overview) => (screen.overview, screen.problem) = (Some(overview), None),
                    Err(problem) => screen.problem = Some(problem),
                }
                ask.set(ask_after(store, interval));
            }
            key = keys.pressed.recv() => match key {
                Some(Pressed::Redraw) => {}
                Some(Pressed::Quit) | None => return Ok(()),
            },
            ended = ends.next() => return Err(Failure::Stopped("the screen was closed".to_owned(), ended)),
        }
    }
}

/// The next overview, after a wait.
async fn ask_after(store: &Store, wait: Duration) -> Result<Overview, String> {
    tokio::time::sleep(wait).await;
    Overview::ask(store).await.map_err(|error| format!("not up to date: {}", error_chain(&error)))
}

enum Pressed {
    Quit,
    /// The terminal has another size.
    Redraw,
}

/// Reads keys in a thread of its own, which ends soon after this is dropped.
struct Keys {
    pressed: mpsc::Receiver<Pressed>,
    ended: Arc<AtomicBool>,
    _reader: JoinHandle<()>,
}

impl Keys {
    fn read() -> Self {
        let (sender, receiver) = mpsc::channel(8);
        let ended = Arc::new(AtomicBool::new(false));
        let told = ended.clone();
        let reader = tokio::task::spawn_blocking(move || {
            while !told.load(Ordering::Relaxed) {
                // A terminal that cannot be read is gone: dropping the sender ends the command.
                let Ok(any) = event::poll(KEYS_LOOKED_FOR) else { return };
                let key = match any.then(event::read) {
                    None => continue,
                    Some(Ok(event)) => pressed(&event),
                    Some(Err(_)) => return,
                };
                if key.is_some_and(|key| sender.blocking_send(key).is_err()) {
                    return;
                }
            }
        });
        Self { pressed: receiver, ended, _reader: reader }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn pressed(event: &Event) -> Option<Pressed> {
    match event {
        Event::Resize(..) => Some(Pressed::Redraw),
        Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Pressed::Quit),
            // The terminal sends no signal for it while it is read key by key.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Pressed::Quit),
            _ => None,
        },
        _ => None,
    }
}
