//! What a newer description of the API takes away from an older one: everything that could break a client built from the
//! older one. What it adds is not named.

use serde_json::Value;

use super::shapes::{Shape, entries};

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
                let (schema, other) = (&content["schema"], &other["content"][media]["schema"]);
                match asks_for_more(old, new) {
                    // Only a request with the new parameter, which no older client sends, may get another shape.
                    true => self.kept_shapes(&place, schema, other),
                    false => self.schema(&place, schema, other, Made::ByServer),
                }
            }
        }
    }

    fn parameters(&mut self, place: &str, old: &Value, new: &Value) {
        let (old, new) = (parameters(old), parameters(new));
        for parameter in &old {
            let place = format!("{place} parameter {}", parameter["name"]);
            match new.iter().find(|other| is_same(parameter, other)) {
                Some(other) => self.schema(&place, &parameter["schema"], &other["schema"], Made::ByClient),
                None => self.demand(false, &place, "is gone"),
            }
        }
        for parameter in new.iter().filter(|one| one["required"] == true) {
            let was = old.iter().any(|other| is_same(parameter, other) && other["required"] == true);
            self.demand(was, place, &format!("needs the parameter {}", parameter["name"]));
        }
    }

    /// A client's older value must fit one of the newer shapes. A server's newer value must fit one of the older shapes; and each
    /// older shape with fields must still be there, since clients ask for it.
    fn schema(&mut self, place: &str, old: &Value, new: &Value, made: Made) {
        let (olds, news) = (Shape::all(self.older, old), Shape::all(self.newer, new));
        let found = match made {
            Made::ByClient => self.each_fits(place, &olds, &news, made),
            Made::ByServer => {
                let mut found = self.each_fits(place, &news, &olds, made);
                let with_fields: Vec<Shape> = olds.into_iter().filter(Shape::has_parts).collect();
                let lost = self.each_is_kept(place, &with_fields, &news);
                found.extend(lost);
                found
            }
        };
        for one in found {
            if !self.found.contains(&one) {
                self.found.push(one);
            }
        }
    }

    /// Each older shape of an answer must be found among the newer ones.
    fn kept_shapes(&mut self, place: &str, old: &Value, new: &Value) {
        let (olds, news) = (Shape::all(self.older, old), Shape::all(self.newer, new));
        let lost = self.each_is_kept(place, &olds, &news);
        self.found.extend(lost);
    }

    fn each_is_kept(&self, place: &str, olds: &[Shape], news: &[Shape]) -> Vec<String> {
        let of_one = |old: &Shape| least(news.iter().map(|new| self.between(place, old, new, Made::ByServer)));
        olds.iter().flat_map(of_one).collect()
    }

    /// What keeps each of the shapes from the one of the others that it fits best.
    fn each_fits(&self, place: &str, shapes: &[Shape], others: &[Shape], made: Made) -> Vec<String> {
        let between = |one: &Shape, other: &Shape| match made {
            Made::ByClient => self.between(place, one, other, made),
            Made::ByServer => self.between(place, other, one, made),
        };
        let of_one = |one: &Shape| least(others.iter().map(|other| between(one, other)));
        shapes.iter().flat_map(of_one).collect()
    }

    fn between(&self, place: &str, old: &Shape, new: &Shape, made: Made) -> Vec<String> {
        let mut part = Comparison { older: self.older, newer: self.newer, found: Vec::new() };
        part.shape(place, old, new, made);
        part.found
    }

    fn shape(&mut self, place: &str, old: &Shape, new: &Shape, made: Made) {
        let (narrow, wide) = if made == Made::ByClient { (old, new) } else { (new, old) };
        let allowed = wide.kind.is_none() || narrow.kind == wide.kind;
        self.demand(allowed, place, &format!("was {}, is {}", old.named(), new.named()));
        self.words(place, old, new, made);
        self.bounds(place, old, new, made);
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
    fn words(&mut self, place: &str, old: &Shape, new: &Shape, made: Made) {
        let (more, less) = if made == Made::ByClient { (new, old) } else { (old, new) };
        let kept = match (&more.words, &less.words) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(more), Some(less)) => less.is_subset(more),
        };
        self.demand(kept, place, &format!("had the words {:?}, has {:?}", old.words, new.words));
    }

    fn bounds(&mut self, place: &str, old: &Shape, new: &Shape, made: Made) {
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
        let number = |shape: &Shape, name: &str| shape.get(name).and_then(Value::as_f64);
        for name in ["minimum", "minLength", "minItems"] {
            let kept = number(new, name).is_none_or(|new| number(old, name).is_some_and(|old| old >= new));
            self.demand(kept, place, &format!("has a larger {name}"));
        }
        for name in ["maximum", "maxLength", "maxItems"] {
            let kept = number(new, name).is_none_or(|new| number(old, name).is_some_and(|old| old <= new));
            self.demand(kept, place, &format!("has a smaller {name}"));
        }
        let open = |shape: &Shape| shape.get("additionalProperties") != Some(&Value::Bool(false));
        self.demand(open(new) || !open(old), place, "takes no other fields any more");
    }
}

fn parameters(operation: &Value) -> Vec<Value> {
    operation["parameters"].as_array().cloned().unwrap_or_default()
}

fn is_same(one: &Value, other: &Value) -> bool {
    one["name"] == other["name"] && one["in"] == other["in"]
}

/// Whether a request may have a parameter that it could not have before.
fn asks_for_more(old: &Value, new: &Value) -> bool {
    let old = parameters(old);
    parameters(new).iter().any(|parameter| !old.iter().any(|other| is_same(parameter, other)))
}

/// The shortest of the lists. Several shapes are compared with a shape; the one that has the least against it is meant.
fn least(lists: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    lists.min_by_key(Vec::len).unwrap_or_default()
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
    let choices = |names: &[&str]| {
        names
            .iter()
            .map(|name| serde_json::json!({ "$ref": format!("#/components/schemas/{name}") }))
            .collect::<Value>()
    };
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
        (field("LogRow", "attempt"), null(), "/deliveries 200.data[].attempt: was"),
        (field("LogRow", "http_status"), text.clone(), "/deliveries 200.data[].http_status: was"),
        (field("DeliveryRow", "attempts_made"), null(), "/deliveries 200.data[].attempts_made: was"),
        ("/components/schemas/Listed/anyOf".into(), choices(&["Deliveries"]), "is gone"),
        ("/components/schemas/Listed/anyOf".into(), choices(&["Log", "Deliveries", "Webhook"]), "/deliveries 200"),
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

#[test]
fn an_answer_may_gain_a_shape_only_for_requests_that_no_older_client_sends() {
    let answer =
        |schema: Value| serde_json::json!({ "200": { "content": { "application/json": { "schema": schema } } } });
    let described = |schema: Value, parameters: Value| {
        let operation =
            serde_json::json!({ "operationId": "list", "parameters": parameters, "responses": answer(schema) });
        serde_json::json!({ "paths": { "/list": { "get": operation } } })
    };
    let with = |name: &str| {
        let properties = serde_json::json!({ name: { "type": "string" } });
        serde_json::json!({ "type": "object", "properties": properties, "required": [name] })
    };
    let view = serde_json::json!([{ "name": "view", "in": "query", "schema": { "type": "string" } }]);
    let none = serde_json::json!([]);
    let either = serde_json::json!({ "anyOf": [with("one"), with("other")] });
    let older = described(with("one"), none.clone());
    assert_eq!(taken_away(&older, &described(either.clone(), view.clone())), Vec::<String>::new());
    assert!(!taken_away(&older, &described(either.clone(), none)).is_empty());
    assert!(!taken_away(&older, &described(with("other"), view.clone())).is_empty());
    let first = described(either, view.clone());
    assert!(!taken_away(&first, &described(with("one"), view)).is_empty(), "the other shape is gone");
}

#[test]
fn a_type_that_may_be_null_is_the_same_as_a_choice_with_null() {
    let described = |field: Value| {
        let schema = serde_json::json!({ "type": "object", "properties": { "field": field } });
        let answer = serde_json::json!({ "200": { "content": { "application/json": { "schema": schema } } } });
        serde_json::json!({ "paths": { "/one": { "get": { "operationId": "one", "responses": answer } } } })
    };
    let listed = described(serde_json::json!({ "type": ["string", "null"] }));
    let chosen = described(serde_json::json!({ "oneOf": [{ "type": "null" }, { "type": "string" }] }));
    let never_null = described(serde_json::json!({ "type": "string" }));
    assert_eq!(taken_away(&listed, &chosen), Vec::<String>::new());
    assert_eq!(taken_away(&chosen, &listed), Vec::<String>::new());
    assert_eq!(taken_away(&chosen, &never_null), Vec::<String>::new());
    assert!(!taken_away(&never_null, &chosen).is_empty());
}
