"""Usage: openapi_examples.py OPENAPI.JSON

Fails if an example of the description does not fit its schema.
"""

import json
import sys

from openapi_schema_validator import OAS31Validator, oas31_format_checker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

with open(sys.argv[1], encoding="utf-8") as file:
    document = json.load(file)
registry = Registry().with_resource("urn:openapi", DRAFT202012.create_resource(document))
wrong = []
seen = 0


def absolute(schema):
    """The schema with references that are looked up in the description."""
    if isinstance(schema, dict):
        return {k: "urn:openapi" + v if k == "$ref" else absolute(v) for k, v in schema.items()}
    return [absolute(part) for part in schema] if isinstance(schema, list) else schema


def look(place, part):
    """Checks every object that has both a schema and an example."""
    global seen
    if isinstance(part, dict):
        if "schema" in part and "example" in part:
            seen += 1
            validator = OAS31Validator(
                absolute(part["schema"]), registry=registry, format_checker=oas31_format_checker
            )
            for error in validator.iter_errors(part["example"]):
                wrong.append(f"{place}: {error.json_path}: {error.message}")
        for name, value in part.items():
            if name != "example":
                look(f"{place}/{name}", value)
    elif isinstance(part, list):
        for position, value in enumerate(part):
            look(f"{place}/{position}", value)


look("paths", document["paths"])
if wrong:
    sys.exit("examples that do not fit their schemas:\n" + "\n".join(wrong))
print(f"{seen} examples fit their schemas")
