//! Merges the defaults, the operator's file and the environment, and remembers where each value was set. Pure: the caller
//! brings the texts.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use toml::{Table, Value};
use zeroize::Zeroize as _;

use super::ConfigError;
use super::source::UrlSource;

const DEFAULTS: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "PENR_WEBHOOKS__";
const FILE_SUFFIX: &str = "_FILE";
/// The section to which an operator may add keys.
const OPEN_SECTION: &str = "event_types";
/// Variables with names of their own, which other software uses too, and their settings.
const ALIASES: [(&str, &str); 2] = [("DATABASE_URL", "database.url"), ("AMQP_URL", "amqp.url")];

/// The settings file, read by the caller.
#[derive(Debug, Clone)]
pub struct ConfigFile {
    /// The file's path, for messages.
    pub path: String,
    /// The file's content, in TOML.
    pub text: String,
}

/// All layers merged into one.
pub(super) struct Layers {
    table: Table,
    /// By setting: the name under which the operator set it.
    origins: HashMap<String, String>,
    /// By setting: the path of the file that holds its value, for settings whose variable ends with `_FILE`.
    files: HashMap<String, String>,
}

/// Merges all layers. The environment replaces the file, and the file the defaults.
///
/// # Errors
///
/// The file is not TOML, a name in it or in the environment is no setting, a value is of another kind than the default, two
/// variables give one setting, or a file that a variable names cannot be read.
pub(super) fn merge(
    file: Option<ConfigFile>,
    environment: impl IntoIterator<Item = (String, String)>,
    read_secret_file: impl Fn(&str) -> std::io::Result<String>,
) -> Result<Layers, ConfigError> {
    let table = DEFAULTS.parse().expect("config/default.toml is valid TOML");
    let mut layers = Layers { table, origins: HashMap::new(), files: HashMap::new() };
    if let Some(file) = file {
        layers.merge_file(&file)?;
    }
    let mut from_environment = HashMap::new();
    for (variable, value) in environment {
        let Some((setting, in_file)) = layers.setting_of(&variable) else { continue };
        let value = if in_file { layers.read_file(&setting, &variable, value, &read_secret_file)? } else { value };
        if let Some(other) = from_environment.insert(setting.clone(), variable.clone()) {
            return Err(ConfigError::new(variable, format!("and {other} give the same setting; keep one of them")));
        }
        layers.merge_variable(&setting, &variable, value)?;
    }
    Ok(layers)
}

fn name_of(variable: &str) -> Option<String> {
    let alias = ALIASES.iter().find(|(alias, _)| *alias == variable).map(|(_, setting)| (*setting).to_owned());
    alias.or_else(|| Some(variable.strip_prefix(PREFIX)?.to_lowercase().replace("__", ".")))
}

impl Drop for Layers {
    fn drop(&mut self) {
        wipe(&mut self.table);
    }
}

/// Overwrites every text: some are secrets. The types that hold the settings wipe theirs. Not wiped are the copies that
/// [`Layers::section`] makes of texts that its type does not read.
fn wipe(table: &mut Table) {
    for (_, value) in table.iter_mut() {
        match value {
            Value::String(text) => text.zeroize(),
            Value::Table(table) => wipe(table),
            _ => {}
        }
    }
}

impl Layers {
    /// Which setting an environment variable gives, if it is one of ours, and whether the variable names a file that holds
    /// the value. `…_FILE` names a file unless a setting itself is called so, as `amqp.ca_file` is.
    fn setting_of(&mut self, variable: &str) -> Option<(String, bool)> {
        let whole = name_of(variable);
        let plain = variable.strip_suffix(FILE_SUFFIX).and_then(name_of);
        let is_setting = whole.as_ref().is_some_and(|setting| find(&mut self.table, setting).is_some());
        match plain {
            Some(setting) if !is_setting => Some((setting, true)),
            _ => whole.map(|setting| (setting, false)),
        }
    }

    /// Reads one section of the merged settings.
    ///
    /// # Errors
    ///
    /// A value of it is not what its type wants; the error names the setting as the operator wrote it.
    pub(super) fn section<T: DeserializeOwned>(&self, section: &str) -> Result<T, ConfigError> {
        let mut track = serde_path_to_error::Track::new();
        let value = self.table[section].clone();
        let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
        T::deserialize(deserializer).or_else(|error| {
            let path = track.path().to_string();
            // A list is set as a whole: an error in one of its entries is the list's.
            let name = path.split('[').next().unwrap_or_default();
            self.refuse(&format!("{section}.{name}"), error.message())
        })
    }

    /// Reads one setting, named `section.name`.
    ///
    /// # Errors
    ///
    /// The value is not what its type wants; the error names the setting as the operator wrote it.
    pub(super) fn setting<T: DeserializeOwned>(&self, setting: &str) -> Result<T, ConfigError> {
        let (section, name) = setting.split_once('.').expect("a section and a name");
        let value = self.table[section][name].clone();
        T::deserialize(value).or_else(|error| self.refuse(setting, error.message()))
    }

    /// An error about a setting, under the name that the operator wrote.
    ///
    /// # Errors
    ///
    /// Always.
    pub(super) fn refuse<T>(&self, setting: &str, problem: impl Into<String>) -> Result<T, ConfigError> {
        Err(ConfigError::new(self.origin(setting), problem))
    }

    /// The name under which the operator set a setting; the setting's own name if the default is in force.
    pub(super) fn origin(&self, setting: &str) -> String {
        self.origins.get(setting).cloned().unwrap_or_else(|| setting.to_owned())
    }

    /// Where a server's URL, or its password, was given.
    pub(super) fn url_source(&self, setting: &str) -> UrlSource {
        let name = self.origins.get(setting).cloned().unwrap_or_default();
        UrlSource::new(name, self.files.get(setting).cloned())
    }

    fn read_file(
        &mut self,
        setting: &str,
        variable: &str,
        path: String,
        read_secret_file: impl Fn(&str) -> std::io::Result<String>,
    ) -> Result<String, ConfigError> {
        let text = read_secret_file(&path)
            .map_err(|error| ConfigError::new(variable, format!("names a file that cannot be read: {error}")))?;
        self.files.insert(setting.to_owned(), path);
        Ok(text.trim_end().to_owned())
    }

    fn merge_file(&mut self, file: &ConfigFile) -> Result<(), ConfigError> {
        let table: Table = file.text.parse().map_err(|error: toml::de::Error| {
            // Only the message: the library's full text repeats the line, which may hold a secret.
            let line = error.span().map_or(0, |span| file.text[..span.start].lines().count());
            ConfigError::new(&file.path, format!("is not valid TOML near line {line}: {}", error.message()))
        })?;
        let origins = &mut self.origins;
        merge_table(&mut self.table, table, "", &mut |setting| {
            origins.insert(setting.to_owned(), format!("{setting} (in {})", file.path));
        })
        .map_err(|(setting, problem)| ConfigError::new(format!("{setting} (in {})", file.path), problem))
    }

    fn merge_variable(&mut self, setting: &str, variable: &str, text: String) -> Result<(), ConfigError> {
        let slot = find(&mut self.table, setting).ok_or_else(|| ConfigError::new(variable, "is no setting"))?;
        *slot = parse_as(slot, text).map_err(|problem| ConfigError::new(variable, problem))?;
        self.origins.insert(setting.to_owned(), variable.to_owned());
        Ok(())
    }
}

fn find<'a>(table: &'a mut Table, setting: &str) -> Option<&'a mut Value> {
    let (section, name) = setting.split_once('.')?;
    let value = table.get_mut(section)?.as_table_mut()?.get_mut(name)?;
    (!value.is_table()).then_some(value)
}

/// Reads a variable's text as a value of the same kind as the default: a secret that consists of digits stays a text.
fn parse_as(default: &Value, text: String) -> Result<Value, &'static str> {
    let parsed = |problem| {
        let table: Table = format!("value = {text}").parse().map_err(|_| problem)?;
        let value = table.get("value").filter(|value| value.same_type(default)).cloned();
        value.filter(|_| table.len() == 1).ok_or(problem)
    };
    match default {
        Value::String(_) if text.is_empty() => Err("is empty; unset it or give it a value"),
        Value::String(_) => Ok(Value::String(text)),
        Value::Integer(_) => text.parse().map(Value::Integer).map_err(|_| "must be a whole number"),
        Value::Float(_) => text.parse().map(Value::Float).map_err(|_| "must be a number"),
        Value::Boolean(_) => text.parse().map(Value::Boolean).map_err(|_| "must be true or false"),
        _ => parsed("must be a TOML array such as [\"5s\", \"5m\"]"),
    }
}

type Refused = (String, &'static str);

fn merge_table(base: &mut Table, changes: Table, path: &str, on_set: &mut impl FnMut(&str)) -> Result<(), Refused> {
    for (name, value) in changes {
        let setting = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match (base.get_mut(&name), value) {
            (Some(Value::Table(base)), Value::Table(changes)) => merge_table(base, changes, &setting, on_set)?,
            (Some(Value::Float(old)), Value::Integer(new)) => *old = new as f64,
            (Some(old), new) if old.same_type(&new) => *old = new,
            (Some(old), _) => return Err((setting, kind(old))),
            (None, value) if path == OPEN_SECTION => drop(base.insert(name, value)),
            (None, _) => return Err((setting, "is no setting")),
        }
        on_set(&setting);
    }
    Ok(())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "must be text in quotes",
        Value::Integer(_) => "must be a whole number",
        Value::Float(_) => "must be a number",
        Value::Boolean(_) => "must be true or false",
        Value::Array(_) => "must be a list",
        Value::Table(_) => "must be a section",
        Value::Datetime(_) => "must be a time",
    }
}
