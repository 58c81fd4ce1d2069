//! Decides which ports a webhook may use. Pure.

use std::ops::RangeInclusive;

use url::Url;

use super::UrlRefusal;

/// Above the system ports (RFC 6335, 6).
const FIRST_USER_PORT: u16 = 1024;

/// User ports of databases, brokers and administration: a POST to one of them is an attack or a mistake. Ports that web
/// servers commonly use are not listed, even if other software uses them too.
const REFUSED: &[RangeInclusive<u16>] = &[
    1433..=1434,   // SQL Server
    1521..=1521,   // Oracle
    1883..=1883,   // MQTT
    2049..=2049,   // NFS
    2181..=2181,   // ZooKeeper
    2375..=2377,   // Docker
    2379..=2380,   // etcd
    3306..=3306,   // MySQL
    3389..=3389,   // Remote Desktop
    4369..=4369,   // Erlang port mapper
    5432..=5432,   // PostgreSQL
    5671..=5672,   // AMQP
    5900..=5909,   // VNC
    5984..=5986,   // CouchDB, Windows Remote Management
    6000..=6009,   // X11
    6379..=6380,   // Redis
    6432..=6432,   // PgBouncer
    6443..=6443,   // Kubernetes API
    7000..=7001,   // Cassandra between nodes
    7199..=7199,   // Cassandra JMX
    7473..=7474,   // Neo4j
    7687..=7687,   // Neo4j Bolt
    8086..=8086,   // InfluxDB
    8200..=8201,   // Vault
    8300..=8302,   // Consul between nodes
    8500..=8503,   // Consul API
    8600..=8600,   // Consul DNS
    9042..=9042,   // Cassandra
    9092..=9094,   // Kafka
    9142..=9142,   // Cassandra over TLS
    9160..=9160,   // Cassandra Thrift
    9200..=9200,   // Elasticsearch
    9300..=9300,   // Elasticsearch between nodes
    10250..=10250, // kubelet
    10255..=10257, // kubelet read-only, kube-proxy, controller manager
    10259..=10259, // Kubernetes scheduler
    11211..=11211, // memcached
    15671..=15672, // RabbitMQ management
    25672..=25672, // RabbitMQ between nodes
    26257..=26257, // CockroachDB
    26379..=26379, // Redis Sentinel
    27017..=27019, // MongoDB
    28015..=28015, // RethinkDB
    28017..=28017, // MongoDB status
];

/// Accepts the default port of the scheme, and user ports that are not listed above.
pub(super) fn check(url: &Url) -> Result<(), UrlRefusal> {
    match url.port() {
        None => Ok(()),
        Some(port) if port >= FIRST_USER_PORT && !REFUSED.iter().any(|range| range.contains(&port)) => Ok(()),
        Some(_) => Err(UrlRefusal::Port),
    }
}
