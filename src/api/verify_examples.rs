//! The code that the page shows for verifying requests. `make examples` runs the same files.

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

/// The JavaScript module that gives the page this code, as rows of `EXAMPLES`.
pub(super) fn page_module() -> String {
    let rows = EXAMPLES.map(|(language, simple, rotation)| {
        let [language, rotation, simple] = [language, rotation, simple].map(literal);
        format!("[{language},{rotation},{simple}]")
    });
    format!("export const EXAMPLES = [{}];\n", rows.join(",\n"))
}

/// A template literal of JavaScript, in which lines and quotation marks stand as they are.
fn literal(text: &str) -> String {
    let text = text.trim_end().replace('\\', r"\\").replace('`', r"\`").replace("${", r"\${");
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_with_characters_of_its_own_is_a_template_literal() {
        assert_eq!(literal("`${a}` + '\\n'\n"), r"`\`\${a}\` + '\\n'`");
    }
}
