//! Adds the examples of `examples.json` to the description: one for every parameter, body and answer.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;
use utoipa::openapi::path::{Operation, ParameterBuilder};
use utoipa::openapi::{OpenApi, RefOr};

use super::operations;

#[derive(Deserialize)]
struct Examples {
    /// By the parameters' names: a name means the same in every operation.
    parameters: BTreeMap<String, Value>,
    /// By their ids.
    operations: BTreeMap<String, Example>,
}

#[derive(Deserialize)]
struct Example {
    body: Option<Value>,
    /// The body of a successful answer.
    answer: Option<Value>,
}

static EXAMPLES: LazyLock<Examples> =
    LazyLock::new(|| serde_json::from_str(include_str!("examples.json")).expect("the examples are JSON of this form"));

pub(super) fn add(document: &mut OpenApi) {
    for operation in operations(document) {
        add_to_parameters(operation);
        let id = operation.operation_id.as_deref().unwrap_or_default();
        let Some(example) = EXAMPLES.operations.get(id) else { continue };
        let bodies = operation.request_body.iter_mut().flat_map(|body| body.content.values_mut());
        bodies.for_each(|content| content.example.clone_from(&example.body));
        for (status, answer) in &mut operation.responses.responses {
            if let (true, RefOr::T(answer)) = (status.starts_with('2'), answer) {
                answer.content.values_mut().for_each(|content| content.example.clone_from(&example.answer));
            }
        }
    }
}

fn add_to_parameters(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let example = EXAMPLES.parameters.get(&parameter.name).cloned();
        *parameter = ParameterBuilder::from(parameter.clone()).example(example).build();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::document;

    /// Whether the examples fit their schemas is checked by the test that reads the description with other people's tools.
    #[test]
    fn every_operation_has_examples() {
        let document = serde_json::to_value(document()).unwrap();
        let mut missing = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let mut need = |what: &str, holder: &serde_json::Value| {
                    if holder.is_object() && holder.get("example").is_none() {
                        missing.push(format!("{method} {path}: {what}"));
                    }
                };
                for parameter in operation.get("parameters").and_then(|all| all.as_array()).into_iter().flatten() {
                    need(&parameter["name"].to_string(), parameter);
                }
                need("body", &operation["requestBody"]["content"]["application/json"]);
                for status in ["200", "201", "202"] {
                    need(status, &operation["responses"][status]["content"]["application/json"]);
                }
            }
        }
        assert_eq!(json!(missing), json!([]), "add them to src/api/openapi/examples.json");
    }
}
