//! The code that the page shows for verifying requests. `make examples` runs the same files.

use serde_json::json;

macro_rules! example {
    ($language:literal, $extension:literal) => {
        (
            $language,
            include_str!(concat!("../../examples/verify/simple.", $extension)),
            include_str!(concat!("../../examples/verify/rotation.", $extension)),
        )
    };
}

/// A language, the code for `X-Webhook-Signature`, and the code for `Webhook-Signature`.
const EXAMPLES: [(&str, &str, &str); 5] = [
    example!("Node.js", "js"),
    example!("Python", "py"),
    example!("Go", "go"),
    example!("PHP", "php"),
    example!("Ruby", "rb"),
];

/// The JavaScript module that gives the page this code.
pub(super) fn page_module() -> String {
    let rows = EXAMPLES.map(|(language, simple, rotation)| {
        json!([language, { "simple": simple.trim_end(), "rotation": rotation.trim_end() }])
    });
    format!("// Made from examples/verify.\nexport const EXAMPLES = {};\n", json!(rows))
}
