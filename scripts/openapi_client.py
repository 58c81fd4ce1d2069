"""Usage: openapi_client.py OPENAPI.JSON

Calls every operation of the description with the client that openapi-python-client has made: once with what is required,
and once more with each optional parameter. Every call must succeed, and its answer must be what the description says.
"""

import datetime
import enum
import importlib
import inspect
import json
import keyword
import os
import re
import sys
import typing
import uuid

from client import AuthenticatedClient
from client.types import Unset

# Parameters that have a meaning only beside others.
BESIDE = {"state": {"view": "deliveries"}}
# A cursor is signed: no example can be one.
WITHOUT_EXAMPLE = {"cursor"}

with open(sys.argv[1], encoding="utf-8") as file:
    document = json.load(file)
client = AuthenticatedClient(base_url=os.environ["PENR_URL"], token=os.environ["PENR_TOKEN"])
webhook = os.environ["PENR_WEBHOOK"]


def snake(name):
    """The name as the generator writes it in Python."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").replace(" ", "_").lower()
    return f"{name}_" if keyword.iskeyword(name) else name


def ask(path):
    answer = client.get_httpx_client().get(path)
    answer.raise_for_status()
    return answer.json()


def known(name, example):
    """A value that means something to this server."""
    delivery = ask(f"/v1/webhooks/{webhook}/deliveries")["data"][-1]
    own = {"id": webhook, "delivery_id": delivery["delivery_id"], "event_id": delivery["event_id"]}
    if name == "If-Match":
        version = ask(f"/v1/webhooks/{webhook}")["version"]
        return f'"{version}"'
    if name == "Idempotency-Key":
        return str(uuid.uuid4())  # another request under a key that was used is refused
    return own.get(name, example)


def of_type(hint, value):
    """The value as the client wants it."""
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if kind not in (Unset, type(None))]
    for kind in kinds:
        if hasattr(kind, "from_dict"):
            return kind.from_dict(value)
        if kind is uuid.UUID or (inspect.isclass(kind) and issubclass(kind, enum.Enum)):
            return kind(value)
        if kind is datetime.datetime:
            return datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    return value


def call(operation, values):
    module = importlib.import_module(f"client.api.{snake(operation['tags'][0])}.{snake(operation['operationId'])}")
    hints = typing.get_type_hints(module.sync_detailed)
    given = {snake(name): of_type(hints[snake(name)], value) for name, value in values.items()}
    answer = module.sync_detailed(client=client, **given)
    what = f"{operation['operationId']}({', '.join(values)})"
    if answer.status_code // 100 != 2:
        sys.exit(f"{what}: {int(answer.status_code)} {answer.content.decode()}")
    if answer.content and plain(answer.parsed.to_dict()) != plain(json.loads(answer.content)):
        sys.exit(f"{what}: the client reads {answer.parsed.to_dict()} from {answer.content.decode()}")
    return what


def plain(value):
    """Without the spelling of times, which Python does not keep."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", value):
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    return value


def calls(operation):
    """The parameters of each call to make."""
    parameters = {parameter["name"]: parameter for parameter in operation.get("parameters", [])}
    required = {name: known(name, parameter["example"]) for name, parameter in parameters.items() if parameter.get("required")}
    body = operation.get("requestBody")
    if body:
        value = dict(body["content"]["application/json"]["example"])
        if "url" in value:
            value["url"] = os.environ["PENR_RECEIVER"]
        required["body"] = value
    yield required
    for name in parameters.keys() - required.keys() - WITHOUT_EXAMPLE:
        beside = {other: value for other, value in BESIDE.get(name, {}).items() if other in parameters}
        yield required | beside | {name: known(name, parameters[name]["example"])}


operations = [operation for path in document["paths"].values() for operation in path.values()]
done = 0
# Deleting comes last, since the other calls need the webhook.
for operation in sorted(operations, key=lambda one: one["operationId"] == "deleteWebhook"):
    # A call's values are looked up just before it: the call before may have changed the webhook's version.
    for values in calls(operation):
        call(operation, values)
        done += 1
        if operation["operationId"] == "deleteWebhook":
            break
print(f"{len(operations)} operations, {done} calls")
