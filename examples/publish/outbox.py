# An outbox: `outbox.py write TITLE` writes a row and its event in one transaction; `outbox.py relay` publishes until it is ended.
import json, os, sys
import pika, psycopg

NEXT = """
    SELECT position, id, type, account_id, json_build_object('id', id, 'type', type, 'account_id', account_id,
        'occurred_at', occurred_at, 'data', data)::text
    FROM outbox WHERE published_at IS NULL AND refused IS NULL ORDER BY position LIMIT 1 FOR UPDATE SKIP LOCKED"""


def write(db, account, title):
    with db.transaction():
        insert = "INSERT INTO articles (account_id, title) VALUES (%s, %s) RETURNING id"
        article = db.execute(insert, (account, title)).fetchone()[0]
        data = json.dumps({"article_id": article, "title": title})
        db.execute("INSERT INTO outbox (type, account_id, data) VALUES ('content.published', %s, %s)", (account, data))


def relay(db, connection):
    channel = connection.channel()
    channel.confirm_delivery()
    while True:
        if not publish_next(db, channel):
            connection.sleep(0.5)  # answers heartbeats, as time.sleep would not


def publish_next(db, channel):
    """Publishes an event and marks it. If this process dies in between, the event is published again, with the same id."""
    with db.transaction():
        row = db.execute(NEXT).fetchone()
        if row is None:
            return False
        position, id, type, account, body = row
        properties = pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent, message_id=id, content_type="application/json",
            headers={"account_id": account})
        try:
            channel.basic_publish("penr.events", type, body.encode(), properties, mandatory=True)
            db.execute("UPDATE outbox SET published_at = now() WHERE position = %s", (position,))
        except pika.exceptions.UnroutableError as error:
            reason = error.messages[0].method.reply_text
            print(f"{id} is returned: {reason} for the type {type}", file=sys.stderr)
            db.execute("UPDATE outbox SET refused = %s WHERE position = %s", (reason, position))
    return True


# Every other error ends the relay. Whoever starts it again starts with the event that was not marked.
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
    if sys.argv[1] == "write":
        write(db, "acc_42", sys.argv[2])
    else:
        relay(db, pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])))
