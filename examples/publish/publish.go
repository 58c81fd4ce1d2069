// Publishes an event and waits until RabbitMQ has it: go run publish.go [TYPE]
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

type Event struct {
	ID         string    `json:"id"`
	Type       string    `json:"type"`
	AccountID  string    `json:"account_id"`
	OccurredAt time.Time `json:"occurred_at"`
	Data       any       `json:"data"`
}

// Publisher belongs to one goroutine: each event waits for its answer before the next is published.
type Publisher struct {
	channel  *amqp.Channel
	closed   <-chan *amqp.Error
	returns  <-chan amqp.Return
	confirms <-chan amqp.Confirmation
}

// Publish returns nil when RabbitMQ has the event.
func (p *Publisher) Publish(event Event) error {
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	const mandatory, immediate = true, false
	message := amqp.Publishing{
		DeliveryMode: amqp.Persistent, MessageId: event.ID, ContentType: "application/json",
		Headers: amqp.Table{"account_id": event.AccountID}, Body: body,
	}
	err = p.channel.PublishWithContext(context.Background(), "penr.events", event.Type, mandatory, immediate, message)
	if err != nil {
		return err
	}
	select {
	case confirm, open := <-p.confirms:
		if !open {
			return fmt.Errorf("the channel was closed: %v", <-p.closed)
		}
		if len(p.returns) > 0 { // RabbitMQ confirms a message that it returns, too; the return comes first
			return fmt.Errorf("returned: %s for the type %s", (<-p.returns).ReplyText, event.Type)
		}
		if !confirm.Ack {
			return errors.New("RabbitMQ refused it (nack)")
		}
		return nil
	case <-time.After(10 * time.Second):
		return errors.New("not confirmed within 10 seconds")
	}
}

func main() {
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	exitOn(err)
	channel, err := connection.Channel()
	exitOn(err)
	exitOn(channel.Confirm(false))
	publisher := Publisher{
		channel, channel.NotifyClose(make(chan *amqp.Error, 1)),
		channel.NotifyReturn(make(chan amqp.Return, 1)), channel.NotifyPublish(make(chan amqp.Confirmation, 1)),
	}
	random := make([]byte, 16)
	_, err = rand.Read(random)
	exitOn(err)
	event := Event{
		ID:   fmt.Sprintf("evt_%x", random), // in a service: made with the row that the event is about, and kept there
		Type: "content.published", AccountID: "acc_42", OccurredAt: time.Now(), Data: map[string]string{"title": "Hello"},
	}
	if len(os.Args) > 1 {
		event.Type = os.Args[1]
	}
	exitOn(publisher.Publish(event))
	fmt.Println("published", event.ID)
	exitOn(connection.Close())
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "not published:", err)
		os.Exit(1)
	}
}
