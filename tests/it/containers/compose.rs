//! Reads a compose file as Compose does, as far as ours go: anchors, merges, `${…}` and `$$`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

pub const DEVELOPMENT: &str = "docker-compose.yml";
pub const PRODUCTION: &str = "docker-compose.production.yml";

/// A compose file, its variables replaced by what stands in the operator's environment.
pub struct Compose {
    pub whole: Value,
}

/// A service that runs our image.
pub struct Service<'a> {
    pub name: &'a str,
    whole: &'a Value,
}

impl Compose {
    /// The error names the first variable that must be set and is not.
    pub fn read(file: &str, environment: &[(&str, &str)]) -> Result<Self, String> {
        let text = text_of(file);
        let mut whole = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        replace_variables(&mut whole, environment)?;
        Ok(Self { whole })
    }

    /// The services that run our image.
    pub fn services(&self) -> Vec<Service<'_>> {
        let all = self.whole["services"].as_object().expect("services are a mapping").iter();
        let all = all.map(|(name, whole)| Service { name, whole });
        all.filter(|service| service["image"] == "penr-webhooks").collect()
    }

    pub fn service(&self, name: &str) -> Service<'_> {
        self.services().into_iter().find(|service| service.name == name).expect(name)
    }
}

impl Service<'_> {
    /// The variables that the file sets, and the names of those that are passed on from the operator's environment.
    pub fn environment(&self) -> (BTreeMap<String, String>, Vec<&str>) {
        let all = self.whole["environment"].as_object().expect("a mapping");
        let set = all.iter().filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
        let handed_on = all.iter().filter(|(_, value)| value.is_null()).map(|(name, _)| name.as_str()).collect();
        (set, handed_on)
    }

    /// A command, in one text or in words.
    pub fn words<'a>(&'a self, value: &'a Value) -> Vec<&'a str> {
        match value {
            Value::String(text) => text.split(' ').collect(),
            value => value.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
        }
    }

    /// The shell script that the service runs, if it runs one.
    pub fn script(&self) -> Option<&str> {
        self.whole["entrypoint"].is_array().then(|| self.whole["command"][0].as_str().expect("one text"))
    }
}

impl std::ops::Index<&str> for Service<'_> {
    type Output = Value;

    fn index(&self, key: &str) -> &Value {
        &self.whole[key]
    }
}

pub fn text_of(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn replace_variables(value: &mut Value, environment: &[(&str, &str)]) -> Result<(), String> {
    match value {
        Value::String(text) => *text = replaced(text, environment)?,
        Value::Array(values) => values.iter_mut().try_for_each(|value| replace_variables(value, environment))?,
        Value::Object(values) => values.values_mut().try_for_each(|value| replace_variables(value, environment))?,
        _ => {}
    }
    Ok(())
}

/// `$$`, `${NAME}`, `${NAME:-default}` and `${NAME:?message}`; an unknown name is empty.
fn replaced(text: &str, environment: &[(&str, &str)]) -> Result<String, String> {
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        done.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            done.push('$');
            rest = after;
            continue;
        }
        let inner = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        let (inner, after) = inner.unwrap_or_else(|| panic!("no variable, and no $$: {text}"));
        let name = inner.split(':').next().expect("there is a first part");
        match (environment.iter().find(|(known, _)| *known == name), inner[name.len()..].get(..2)) {
            (Some((_, value)), _) => done.push_str(value),
            (None, Some(":-")) => done.push_str(&inner[name.len() + 2..]),
            (None, Some(":?")) => return Err(format!("{name}: {}", &inner[name.len() + 2..])),
            (None, _) => {}
        }
        rest = after;
    }
    Ok(done + rest)
}

#[test]
fn variables_are_replaced_as_compose_does() {
    let replaced = |text| replaced(text, &[("A", "1")]);
    assert_eq!(replaced("$${A} ${A} ${A:-2} ${B:-[\"2\"]}${B} ${A:?3}").unwrap(), "${A} 1 1 [\"2\"] 1");
    assert_eq!(replaced("${B:?give B}").unwrap_err(), "B: give B");
}
