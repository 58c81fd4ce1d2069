//! Writes what `make install` puts beside the program: shell completions and man pages, made from the commands' own help.

use std::path::{Path, PathBuf};

use clap::{Command, ValueHint};
use clap_complete::Shell;
use serde_json::json;

use super::{CommandResult, Failure, output};

pub(super) const COMPLETIONS_EXAMPLE: &str = "\
Example, for the shell that is running:
  source <(penr-webhooks completions bash)";

pub(super) const MAN_PAGES_EXAMPLE: &str = "\
Example:
  penr-webhooks man-pages /usr/local/share/man/man1";

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell, such as bash
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(super) struct ManPages {
    /// The folder, which must be there, such as /usr/local/share/man/man1
    #[arg(value_hint = ValueHint::DirPath)]
    folder: PathBuf,
}

pub(super) fn completions(Completions { shell }: &Completions, mut program: Command, json: bool) -> CommandResult {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut program, name, &mut script);
    let script = String::from_utf8_lossy(&script);
    match json {
        true => output::json(&json!({ "script": script })),
        false => output::line(script.trim_end()),
    }
}

/// One page for each command, named as `git` names its pages: penr-webhooks-webhooks-list.1.
pub(super) fn man_pages(ManPages { folder }: &ManPages, program: Command, json: bool) -> CommandResult {
    let unwritten = |error| Failure::Failed(anyhow::Error::new(error).context(cannot_write(folder)));
    clap_mangen::generate_to(program, folder).map_err(unwritten)?;
    match json {
        true => output::json(&json!({ "folder": folder })),
        false => output::line(format_args!("the man pages are in {}", folder.display())),
    }
}

fn cannot_write(folder: &Path) -> String {
    format!("cannot write man pages to {}", folder.display())
}
