//! What a newer description of the API takes away from an older one: everything that could break a client built from the
//! older one. What it adds is not named.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Who makes the values of a schema.
#[derive(Clone, Copy, PartialEq)]
enum Made {
    /// The client sends them: the newer server must accept all that the older one did.
    ByClient,
    /// The server sends them: the newer one may send nothing that the older one never sent.
    ByServer,
}

/// One sentence for each thing that is gone or stricter.
pub fn taken_away(older: &Value, newer: &Value) -> Vec<String> {
    let mut comparison = Comparison { older, newer, found: Vec::new() };
    for (path, operations) in entries(&older["paths"]) {
        for (method, operation) in entries(operations) {
            let place = format!("{method} {path}");
            comparison.operation(&place, operation, &newer["paths"][path][method]);
        }
    }
    comparison.found
}

struct Comparison<'a> {
    older: &'a Value,
    newer: &'a Value,
    found: Vec<String>,
}

impl Comparison<'_> {
    fn demand(&mut self, kept: bool, place: &str, what: &str) {
        if !kept {
            self.found.push(format!("{place}: {what}"));
        }
    }

    fn operation(&mut self, place: &str, old: &Value, new: &Value) {
        if !new.is_object() {
            return self.demand(false, place, "is gone");
        }
        self.demand(old["operationId"] == new["operationId"], place, "has another operationId");
        self.parameters(place, old, new);
        let body = |operation: &Value| operation["requestBody"]["content"]["application/json"]["schema"].clone();
        self.demand(
            old["requestBody"]["required"] == true || new["requestBody"]["required"] != true,
            place,
            "needs a body",
        );
        if old["requestBody"].is_object() {
            self.schema(&format!("{place} body"), &body(old), &body(new), Made::ByClient);
        }
        for (status, answer) in entries(&old["responses"]) {
            let place = format!("{place} {status}");
            let other = &new["responses"][status];
            self.demand(other.is_object(), &place, "is gone");
            for (name, _) in entries(&answer["headers"]) {
                self.demand(other["headers"][name].is_object(), &place, &format!("the header {name} is gone"));
            }
            for (media, content) in entries(&answer["content"]) {
                self.schema(&place, &content["schema"], &other["content"][media]["schema"], Made::ByServer);
            }
        }
    }

    fn parameters(&mut self, place: &str, old: &Value, new: &Value) {
        let all = |operation: &Value| operation["parameters"].as_array().cloned().unwrap_or_default();
        let (old, new) = (all(old), all(new));
        let same = |one: &Value, other: &Value| one["name"] == other["name"] && one["in"] == other["in"];
        for parameter in &old {
            let place = format!("{place} parameter {}", parameter["name"]);
            match new.iter().find(|other| same(parameter, other)) {
                Some(other) => self.schema(&place, &parameter["schema"], &other["schema"], Made::ByClient),
                None => self.demand(false, &place, "is gone"),
            }
        }
        for parameter in new.iter().filter(|one| one["required"] == true) {
            let was = old.iter().any(|other| same(parameter, other) && other["required"] == true);
            self.demand(was, place, &format!("needs the parameter {}", parameter["name"]));
        }
    }

    fn schema(&mut self, place: &str, old: &Value, new: &Value, made: Made) {
        let (old, new) = (Flat::of(self.older, old), Flat::of(self.newer, new));
        let allowed = match made {
            Made::ByClient => new.types.is_empty() || old.types.is_subset(&new.types) && !old.types.is_empty(),
            Made::ByServer => old.types.is_empty() || new.types.is_subset(&old.types) && !new.types.is_empty(),
        };
        self.demand(allowed, place, &format!("was {:?}, is {:?}", old.types, new.types));
        self.words(place, &old, &new, made);
        self.bounds(place, &old, &new, made);
        for (name, property) in &old.properties {
            let place = format!("{place}.{name}");
            match new.properties.get(name) {
                Some(other) => self.schema(&place, property, other, made),
                None => self.demand(false, &place, "is gone"),
            }
        }
        let (needed, kept) = match made {
            Made::ByClient => (&new.required, &old.required),
            Made::ByServer => (&old.required, &new.required),
        };
        for name in needed.difference(kept) {
            let what = if made == Made::ByClient { "must be given now" } else { "may be left out now" };
            self.demand(false, &format!("{place}.{name}"), what);
        }
        if let Some(items) = &old.items {
            self.schema(&format!("{place}[]"), items, new.items.as_ref().unwrap_or(&Value::Null), made);
        }
    }

    /// A list of allowed words may grow where the client chooses, and may only shrink where the server does: a client built
    /// from the older description fails at a word that it does not know.
    fn words(&mut self, place: &str, old: &Flat, new: &Flat, made: Made) {
        let (more, less) = if made == Made::ByClient { (new, old) } else { (old, new) };
        let kept = match (&more.words, &less.words) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(more), Some(less)) => less.is_subset(more),
        };
        self.demand(kept, place, &format!("had the words {:?}, has {:?}", old.words, new.words));
    }

    fn bounds(&mut self, place: &str, old: &Flat, new: &Flat, made: Made) {
        if made == Made::ByServer {
            return self.demand(old.get("format") == new.get("format"), place, "has another format");
        }
        for name in ["pattern", "format"] {
            self.demand(
                new.get(name).is_none() || old.get(name) == new.get(name),
                place,
                &format!("has another {name}"),
            );
        }
        let number = |flat: &Flat, name: &str| flat.get(name).and_then(Value::as_f64);
        for name in ["minimum", "minLength", "minItems"] {
            let kept = number(new, name).is_none_or(|new| number(old, name).is_some_and(|old| old >= new));
            self.demand(kept, place, &format!("has a larger {name}"));
        }
        for name in ["maximum", "maxLength", "maxItems"] {
            let kept = number(new, name).is_none_or(|new| number(old, name).is_some_and(|old| old <= new));
            self.demand(kept, place, &format!("has a smaller {name}"));
        }
        let open = |flat: &Flat| flat.get("additionalProperties") != Some(&Value::Bool(false));
        self.demand(open(new) || !open(old), place, "takes no other fields any more");
    }
}

/// A schema without references: all parts of `allOf` as one, and a choice with null as a type that may be null.
#[derive(Default)]
struct Flat {
    types: BTreeSet<String>,
    words: Option<BTreeSet<String>>,
    required: BTreeSet<String>,
    properties: Map<String, Value>,
    items: Option<Value>,
    others: Map<String, Value>,
}

impl Flat {
    fn of(document: &Value, schema: &Value) -> Self {
        let mut flat = Self::default();
        flat.add(document, schema);
        flat
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.others.get(name)
    }

    fn add(&mut self, document: &Value, schema: &Value) {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = document.pointer(reference.trim_start_matches('#')).expect("references lead somewhere");
            self.add(document, target);
        }
        let strings = |value: &Value| match value {
            Value::Array(all) => all.iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect(),
            Value::String(one) => BTreeSet::from([one.clone()]),
            _ => BTreeSet::new(),
        };
        for part in ["allOf", "oneOf", "anyOf"].iter().filter_map(|name| schema[name].as_array()).flatten() {
            self.add(document, part);
        }
        for (name, value) in entries(schema) {
            match name.as_str() {
                "type" => self.types.extend(strings(value)),
                "enum" => self.words = Some(strings(value)),
                "required" => self.required.extend(strings(value)),
                "properties" => self.properties.extend(value.as_object().cloned().unwrap_or_default()),
                "items" => self.items = Some(value.clone()),
                _ => drop(self.others.insert(name.clone(), value.clone())),
            }
        }
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// What clients are built from: the description without its words and examples.
pub fn contract(description: &Value) -> Value {
    match description {
        Value::Object(fields) => {
            let said = |name: &str, value: &Value| {
                // A field of an object may have one of these names; then its value is a schema.
                matches!(name, "description" | "summary" | "example" | "info" | "tags") && !value["type"].is_string()
            };
            let kept = fields.iter().filter(|(name, value)| !said(name, value));
            Value::Object(kept.map(|(name, value)| (name.clone(), contract(value))).collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(contract).collect()),
        other => other.clone(),
    }
}

/// What must and what must not be found, each as a change of one place of the description.
#[test]
fn what_would_break_a_client_is_named() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let older: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let changed = |pointer: &str, value: Value| {
        let mut newer = older.clone();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        newer.pointer_mut(parent).expect(pointer)[last] = value;
        taken_away(&older, &newer)
    };
    let field = |schema: &str, name: &str| format!("/components/schemas/{schema}/properties/{name}");
    let list = "/paths/~1v1~1webhooks/get";
    let text = serde_json::json!({ "type": "string" });
    let words = |words: Value| serde_json::json!({ "type": "string", "enum": words });
    let null = || Value::Null;
    for (pointer, value, said) in [
        ("/paths/~1v1~1event-types/get".into(), null(), "is gone"),
        (format!("{list}/operationId"), "list".into(), "another operationId"),
        (format!("{list}/parameters"), serde_json::json!([]), "is gone"),
        (format!("{list}/parameters/0/required"), true.into(), "needs the parameter"),
        (format!("{list}/parameters/0/schema/maximum"), 50.into(), "smaller maximum"),
        (format!("{list}/responses/429"), null(), "is gone"),
        ("/paths/~1v1~1webhooks~1{id}~1test/post/requestBody/required".into(), true.into(), "needs a body"),
        (field("Webhook", "name"), serde_json::json!({ "type": ["string", "null"] }), "was"),
        (field("Webhook", "name"), serde_json::json!({ "type": "integer" }), "was"),
        ("/components/schemas/Webhook/required".into(), serde_json::json!(["id"]), "may be left out now"),
        ("/components/schemas/Wish/required".into(), serde_json::json!(["event_type"]), "must be given now"),
        (field("LogRow", "status"), words(serde_json::json!(["success", "failed", "lost"])), "words"),
        (field("Wish", "event_type"), words(serde_json::json!(["content.created"])), "words"),
    ] {
        let found = changed(&pointer, value);
        assert!(found.iter().any(|one| one.contains(said)), "{pointer}: {found:?}");
    }
    for (pointer, value) in [
        ("/paths/~1v1~1new".into(), serde_json::json!({ "get": { "operationId": "getNew" } })),
        (format!("{list}/responses/410"), serde_json::json!({ "description": "" })),
        (format!("{list}/summary"), "Other words".into()),
        (field("Webhook", "more"), text.clone()),
        (field("Wish", "more"), text.clone()),
        (format!("{list}/parameters/0/schema/maximum"), 500.into()),
        (format!("{list}/parameters/2/schema"), words(serde_json::json!(["activity", "more"]))),
    ] {
        assert_eq!(changed(&pointer, value), Vec::<String>::new(), "{pointer}");
    }
}
