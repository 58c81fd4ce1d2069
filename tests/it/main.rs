//! Promises held against the real binary on real RabbitMQ and real Postgres. Run with `make test`.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tests cast small numbers")]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

mod api;
mod architecture;
mod asks_for_time;
mod asyncapi;
mod bad_input;
mod broker_rights;
mod command_line;
mod containers;
mod courtesy;
mod dead_letters;
mod delivers;
mod doctor;
mod documents;
mod due;
mod egress_proxy;
mod event_schema;
mod fails_over;
mod fairness;
mod fuzz_corpus;
mod health;
mod hidden_value;
mod holds;
mod holds_seen;
mod hostile_receivers;
mod kept_connections;
mod metrics;
mod migrates;
mod model;
mod never_inside;
mod nobody_waits;
mod paces;
mod page;
mod poolers;
mod processes;
mod reaches_postgres;
mod reaches_rabbitmq;
mod recovers;
mod redelivers;
mod retention;
mod retries;
mod rights;
mod rolls_out;
mod runbooks;
mod secrets;
mod shards;
mod soak;
mod stops;
mod survives_broker;
mod survives_dns;
mod survives_egress;
mod survives_kills;
mod survives_postgres;
mod survives_scarcity;
mod traces;
