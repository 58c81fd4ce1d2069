// An outbox: `outbox.js write TITLE` writes a row and its event in one transaction; `outbox.js relay` publishes until it is ended.
const amqp = require('amqplib');
const postgres = require('postgres');

const db = postgres(process.env.DATABASE_URL);

const write = (account, title) => db.begin(async (sql) => {
  const [article] = await sql`INSERT INTO articles (account_id, title) VALUES (${account}, ${title}) RETURNING id`;
  const data = sql.json({ article_id: article.id, title });
  await sql`INSERT INTO outbox (type, account_id, data) VALUES ('content.published', ${account}, ${data})`;
});

async function relay() {
  const connection = await amqp.connect(process.env.AMQP_URL, { timeout: 10_000 });
  const channel = await connection.createConfirmChannel();
  for (const emitter of [connection, channel]) emitter.on('error', end);
  connection.on('close', () => end(new Error('RabbitMQ has closed the connection')));
  const state = { returned: null };
  channel.on('return', ({ fields }) => { state.returned = fields.replyText; });
  for (;;) {
    if (!(await publishNext(channel, state))) await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

// Publishes an event and marks it. If this process dies in between, the event is published again, with the same id.
const publishNext = (channel, state) => db.begin(async (sql) => {
  // ::text, because JavaScript would round the numbers above 2^53 in `data`.
  const [row] = await sql`
    SELECT position, id, type, account_id, json_build_object('id', id, 'type', type, 'account_id', account_id,
        'occurred_at', occurred_at, 'data', data)::text AS body
    FROM outbox WHERE published_at IS NULL AND refused IS NULL ORDER BY position LIMIT 1 FOR UPDATE SKIP LOCKED`;
  if (!row) return false;
  state.returned = null;
  const timer = setTimeout(() => end(new Error('not confirmed within 10 seconds')), 10_000);
  channel.publish('penr.events', row.type, Buffer.from(row.body), {
    persistent: true, mandatory: true, messageId: row.id, contentType: 'application/json',
    headers: { account_id: row.account_id },
  });
  await channel.waitForConfirms(); // RabbitMQ confirms an event that it returns, too. The return comes first.
  clearTimeout(timer);
  if (state.returned === null) {
    await sql`UPDATE outbox SET published_at = now() WHERE position = ${row.position}`;
  } else {
    console.error(`${row.id} is returned: ${state.returned} for the type ${row.type}`);
    await sql`UPDATE outbox SET refused = ${state.returned} WHERE position = ${row.position}`;
  }
  return true;
});

// Every other error ends the relay. Whoever starts it again starts with the event that was not marked.
function end(error) {
  console.error(error.message);
  process.exit(1);
}

(process.argv[2] === 'write' ? write('acc_42', process.argv[3]).then(() => db.end()) : relay()).catch(end);
