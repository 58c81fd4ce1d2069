<?php
// Publishes an event and waits until RabbitMQ has it: php publish.php [TYPE]
require __DIR__ . '/vendor/autoload.php';

use PhpAmqpLib\Connection\AMQPConnectionConfig;
use PhpAmqpLib\Connection\AMQPConnectionFactory;
use PhpAmqpLib\Message\AMQPMessage;

$event = [
    'id' => 'evt_' . bin2hex(random_bytes(16)), // in a service: made with the row that the event is about, and kept there
    'type' => $argv[1] ?? 'content.published',
    'account_id' => 'acc_42',
    'occurred_at' => gmdate('Y-m-d\TH:i:s\Z'),
    'data' => ['title' => 'Hello'],
];

// Returns when RabbitMQ has it, and throws if not. The channel is in confirm mode.
function publish($channel, array $event): void
{
    $failed = null;
    $channel->set_return_listener(function ($code, $text, $exchange, $key) use (&$failed) {
        $failed = "returned: $text for the type $key";
    });
    $channel->set_nack_handler(function () use (&$failed) { $failed = 'RabbitMQ refused it (nack)'; });
    $channel->basic_publish(new AMQPMessage(json_encode($event, JSON_THROW_ON_ERROR), [
        'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
        'message_id' => $event['id'],
        'content_type' => 'application/json',
        'application_headers' => new PhpAmqpLib\Wire\AMQPTable(['account_id' => $event['account_id']]),
    ]), 'penr.events', $event['type'], true); // true: mandatory
    $channel->wait_for_pending_acks_returns(10); // seconds
    if ($failed !== null) throw new RuntimeException($failed);
}

try {
    $url = array_map('rawurldecode', parse_url(getenv('AMQP_URL')));
    $secure = $url['scheme'] === 'amqps';
    $config = new AMQPConnectionConfig();
    // php-amqplib 3.5.3 uses TLS only if all three are set.
    $config->setIsSecure($secure);
    $config->setNetworkProtocol($secure ? 'tls' : 'tcp');
    $config->setSslVerify(true);
    $config->setHost($url['host']);
    $config->setPort($url['port'] ?? ($secure ? 5671 : 5672));
    $config->setUser($url['user']);
    $config->setPassword($url['pass']);
    $config->setVhost(substr($url['path'] ?? '', 1) ?: '/');
    $config->setChannelRPCTimeout(3.0); // without it, PHP waits for ever for the answer to the close at its end
    $connection = AMQPConnectionFactory::create($config);
    $channel = $connection->channel();
    $channel->confirm_select();
    publish($channel, $event);
    echo "published {$event['id']}\n";
    $connection->close();
} catch (Exception $error) {
    fwrite(STDERR, "not published: {$error->getMessage()}\n");
    exit(1);
}
