// Publishes an event and waits until RabbitMQ has it: node publish.js [TYPE]
const { randomUUID } = require('node:crypto');
const amqp = require('amqplib');

const event = {
  id: `evt_${randomUUID()}`, // in a service: made with the row that the event is about, and kept there
  type: process.argv[2] ?? 'content.published',
  account_id: 'acc_42',
  occurred_at: new Date().toISOString(),
  data: { title: 'Hello' },
};

// Settles when RabbitMQ has answered. The channel is a confirm channel.
async function publish(channel, event) {
  let onReturn, timer;
  try {
    await new Promise((resolve, reject) => {
      // RabbitMQ confirms a message that it returns, too. The return comes before the confirm.
      onReturn = ({ fields, properties }) => {
        if (properties.messageId === event.id) reject(new Error(`returned: ${fields.replyText} for the type ${event.type}`));
      };
      channel.on('return', onReturn);
      timer = setTimeout(() => reject(new Error('not confirmed within 10 seconds')), 10_000);
      channel.publish('penr.events', event.type, Buffer.from(JSON.stringify(event)), {
        persistent: true, mandatory: true, messageId: event.id, contentType: 'application/json',
        headers: { account_id: event.account_id },
      }, (error) => (error ? reject(error) : resolve()));
    });
  } finally {
    channel.off('return', onReturn);
    clearTimeout(timer);
  }
}

async function main() {
  const connection = await amqp.connect(process.env.AMQP_URL, { timeout: 10_000 }); // without it, it may wait for ever
  const channel = await connection.createConfirmChannel();
  // Without these, Node.js ends the process. The events that wait for their confirms fail, too.
  for (const emitter of [connection, channel]) emitter.on('error', (error) => console.error(error.message));
  await publish(channel, event);
  console.log(`published ${event.id}`);
  await connection.close();
}

main().catch((error) => {
  console.error(`not published: ${error.message}`);
  process.exit(1);
});
