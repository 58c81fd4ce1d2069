"""Usage: event_schema.py SCHEMA MESSAGES
Judges the messages by the schema with Python's jsonschema: what is sent must fit, and what breaks a rule that the schema has
must not."""

import base64
import json
import sys

from jsonschema import Draft202012Validator

# For the other reasons the body is no JSON, or the schema cannot say what is wrong.
RULES = {"not_an_object", "wrong_type", "invalid_account_id", "unknown_type", "unsupported_cloudevent"}


def body(row):
    if "body" in row:
        return row["body"].encode()
    return base64.b64decode(row["body_base64"])


def main():
    schema_file, messages_file = sys.argv[1:]
    with open(schema_file, encoding="utf-8") as file:
        schema = json.load(file)
    with open(messages_file, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    # Python's $ also matches before a last line feed.
    event = {"id": "evt_1", "type": "content.published", "account_id": "acc_42", "data": 1}
    for field in ("id", "account_id"):
        row = {"name": f"{field} with a line feed", "body": json.dumps({**event, field: "a\n"}), "reason": "wrong_type"}
        rows.append(row)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    judged, wrong = 0, 0
    for row in rows:
        if "sent" not in row and row["reason"] not in RULES:
            continue
        try:
            document = json.loads(body(row))
        except ValueError:
            # Such as JavaScript's "[object Object]". What is sent is JSON.
            if "sent" in row:
                raise
            continue
        judged += 1
        error = next(validator.iter_errors(document), None)
        if (error is None) != ("sent" in row):
            wrong += 1
            print(f"{row['name']}: {error.message if error else 'it fits, and should not'}", file=sys.stderr)
    if wrong or judged < 100:
        sys.exit(f"{schema_file}: {wrong} of {judged} messages are judged wrongly")
    print(f"ok {schema_file}: {judged} messages")


main()
