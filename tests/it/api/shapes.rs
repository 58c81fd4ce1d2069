//! The shapes that a schema of the API's description permits: one for each choice, and none has references or choices.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

#[derive(Clone, Default)]
pub struct Shape {
    /// The type; `None` if a value may have any.
    pub kind: Option<String>,
    pub words: Option<BTreeSet<String>>,
    pub required: BTreeSet<String>,
    pub properties: Map<String, Value>,
    pub items: Option<Value>,
    others: Map<String, Value>,
}

impl Shape {
    /// A type that may be null counts as two choices, as `oneOf` with null does.
    pub fn all(document: &Value, schema: &Value) -> Vec<Self> {
        Self::default().with(document, schema)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.others.get(name)
    }

    pub fn named(&self) -> &str {
        self.kind.as_deref().unwrap_or("anything")
    }

    /// Whether it is an object with known fields, or a list.
    pub fn has_parts(&self) -> bool {
        !self.properties.is_empty() || self.items.is_some()
    }

    /// This shape and what the schema adds to it, once for each choice of the schema.
    fn with(self, document: &Value, schema: &Value) -> Vec<Self> {
        let mut shapes = vec![self];
        if let Some(reference) = schema["$ref"].as_str() {
            let target = document.pointer(reference.trim_start_matches('#')).expect("references lead somewhere");
            shapes = each(shapes, |shape| shape.with(document, target));
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            shapes = each(shapes, |shape| shape.with(document, part));
        }
        for choices in ["oneOf", "anyOf"].iter().filter_map(|name| schema[name].as_array()) {
            shapes =
                each(shapes, |shape| choices.iter().flat_map(|choice| shape.clone().with(document, choice)).collect());
        }
        each(shapes, |shape| shape.with_own(schema))
    }

    fn with_own(mut self, schema: &Value) -> Vec<Self> {
        for (name, value) in entries(schema) {
            match name.as_str() {
                "type" | "$ref" | "allOf" | "oneOf" | "anyOf" => {}
                "enum" => self.words = Some(strings(value)),
                "required" => self.required.extend(strings(value)),
                "properties" => self.properties.extend(value.as_object().cloned().unwrap_or_default()),
                "items" => self.items = Some(value.clone()),
                _ => drop(self.others.insert(name.clone(), value.clone())),
            }
        }
        match strings(&schema["type"]) {
            kinds if kinds.is_empty() => vec![self],
            kinds => kinds.into_iter().map(|kind| self.clone().of_kind(kind)).collect(),
        }
    }

    /// Null has no words and no bounds.
    fn of_kind(self, kind: String) -> Self {
        let shape = if kind == "null" { Self::default() } else { self };
        Self { kind: Some(kind), ..shape }
    }
}

fn each(shapes: Vec<Shape>, choices: impl Fn(Shape) -> Vec<Shape>) -> Vec<Shape> {
    shapes.into_iter().flat_map(choices).collect()
}

fn strings(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(all) => all.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect(),
        Value::String(one) => BTreeSet::from([one.clone()]),
        _ => BTreeSet::new(),
    }
}

pub fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
