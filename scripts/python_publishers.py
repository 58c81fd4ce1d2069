"""Publishes events of account acc_42 as the libraries cloudevents, pika and kombu make them with their ordinary options.

Prints a line per message: its id, and the reason for which it must become a dead letter, or "sent" and its data. The ids are the
names of the ways in which the messages are made.
"""

import json
import os
import sys
from datetime import datetime, timedelta, timezone

import kombu
import pika
from cloudevents.core.bindings.amqp import to_structured_event
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as OlderCloudEvent
from cloudevents.v1.http import to_structured

TYPE = "content.published"
ACCOUNT = "acc_42"
DATA = {"title": "Grüße"}


def cloud_events():
    """Messages in structured mode: id, properties, body, what must become of it."""

    def event(name, data, **more):
        attributes = {"id": name, "source": "/sites/7", "type": TYPE, "accountid": ACCOUNT, **more}
        message = to_structured_event(CloudEvent(attributes, data))
        content_type = message.properties["content-type"]
        return name, pika.BasicProperties(content_type=content_type), message.application_data

    zone = timezone(timedelta(hours=5, minutes=30))
    yield *event("cloudevents-dict", DATA), "sent", DATA
    yield *event("cloudevents-text", "Grüße"), "sent", "Grüße"
    yield *event("cloudevents-no-data", None), "sent", None
    yield *event("cloudevents-local-time", DATA, time=datetime(2026, 11, 23, 10, tzinfo=zone)), "sent", DATA
    yield *event("cloudevents-subject", DATA, subject="7", datacontenttype="application/json"), "sent", DATA
    yield *event("cloudevents-bytes", json.dumps(DATA).encode()), "unsupported_cloudevent", None
    yield *event("cloudevents-other-type", DATA, type="ai.penr." + TYPE), "unknown_type", None
    name = "cloudevents-older-interface"
    older = OlderCloudEvent({"id": name, "source": "/sites/7", "type": TYPE, "accountid": ACCOUNT}, DATA)
    headers, body = to_structured(older)
    yield name, pika.BasicProperties(content_type=headers["content-type"]), body, "sent", DATA


def plain(name, **more):
    return {"id": name, "type": TYPE, "account_id": ACCOUNT, "data": DATA, **more}


def pika_events():
    """As a publisher writes them by hand."""
    iso = datetime.now(timezone.utc).isoformat()
    null = plain(None, occurred_at=None)
    now = int(datetime.now().timestamp())
    nothing = pika.BasicProperties()
    yield "pika-isoformat", nothing, json.dumps(plain("pika-isoformat", occurred_at=iso)), "sent", DATA
    properties = pika.BasicProperties(message_id="pika-nulls", timestamp=now)
    yield "pika-nulls", properties, json.dumps(null), "sent", DATA
    name = "pika-byte-order-mark"
    yield name, pika.BasicProperties(message_id=name), json.dumps(plain(name)).encode("utf-8-sig"), "not_json", None
    name = "pika-utf-16"
    yield name, pika.BasicProperties(message_id=name), json.dumps(plain(name)).encode("utf-16"), "not_utf8", None


def kombu_events():
    """Options of kombu's publish: id, options, what must become of it."""
    yield "kombu-json", {}, "sent", DATA
    yield "kombu-gzip", {"compression": "gzip"}, "encoded", None
    yield "kombu-zlib", {"compression": "zlib"}, "encoded", None
    yield "kombu-bzip2", {"compression": "bzip2"}, "encoded", None
    yield "kombu-pickle", {"serializer": "pickle"}, "not_utf8", None


def publish_by_pika(url, exchange):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    for name, properties, body, fate, data in [*cloud_events(), *pika_events()]:
        properties.delivery_mode = pika.DeliveryMode.Persistent.value
        channel.basic_publish(exchange, TYPE, body, properties, mandatory=True)
        print(json.dumps({"id": name, "fate": fate, "data": data}))
    connection.close()


def publish_by_kombu(url, exchange):
    with kombu.Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer()
        for name, options, fate, data in kombu_events():
            producer.publish(
                plain(name), exchange=exchange, routing_key=TYPE, mandatory=True, message_id=name, declare=[], **options
            )
            print(json.dumps({"id": name, "fate": fate, "data": data}))


if __name__ == "__main__":
    publish_by_pika(os.environ["AMQP_URL"], sys.argv[1])
    publish_by_kombu(os.environ["AMQP_URL"], sys.argv[1])
