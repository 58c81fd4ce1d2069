# Publishes an event and waits until RabbitMQ has it: python3 publish.py [TYPE]
import json, os, signal, sys, uuid
from datetime import datetime, timezone
import pika

event = {
    "id": f"evt_{uuid.uuid4()}",  # in a service: made with the row that the event is about, and kept there
    "type": sys.argv[1] if len(sys.argv) > 1 else "content.published",
    "account_id": "acc_42",
    "occurred_at": datetime.now(timezone.utc).isoformat(),
    "data": {"title": "Hello"},
}


def publish(channel, event):
    """Returns when RabbitMQ has it, and raises UnroutableError, NackError, or what ended the connection."""
    channel.basic_publish(
        "penr.events", event["type"], json.dumps(event).encode(), mandatory=True,
        properties=pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent, message_id=event["id"],
            content_type="application/json", headers={"account_id": event["account_id"]}))


def too_late(*_):
    raise TimeoutError("not confirmed within 10 seconds")


try:
    # pika waits for a confirm for ever. An alarm works in the main thread only.
    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(10)
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    channel.confirm_delivery()
    publish(channel, event)
    signal.alarm(0)
    print("published", event["id"])
    connection.close()
except pika.exceptions.UnroutableError as error:
    sys.exit(f"not published: returned: {error.messages[0].method.reply_text} for the type {event['type']}")
except (pika.exceptions.AMQPError, TimeoutError) as error:
    sys.exit(f"not published: {error!r}")
