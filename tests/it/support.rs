//! What the integration tests are written with: a world per test ([`Site`]), the real binary as child processes
//! ([`Replica`]), scripted receivers, and ways to hurt connections and servers. Nothing here knows the product's code.
#![allow(dead_code, unused_imports, reason = "a vocabulary: a word stays when the last test using it goes")]

pub mod api;
pub mod attempts;
pub mod broker;
pub mod browser;
pub mod checker;
pub mod cli;
pub mod files;
pub mod http;
pub mod ledger;
pub mod level;
pub mod load;
pub mod name_server;
pub mod nginx;
pub mod nowhere;
pub mod pooler;
pub mod private;
pub mod proxy;
pub mod raw_amqp;
pub mod receiver;
pub mod replica;
pub mod reply;
pub mod request;
pub mod servers;
pub mod settings;
pub mod site;
pub mod standby;
pub mod tls;
pub mod wait;

pub use api::{Api, Customer};
pub use attempts::LoggedAttempt;
pub use broker::DeadLetter;
pub use browser::Browser;
pub use checker::{Books, Published, check};
pub use cli::{Output, Webhook};
pub use files::write_at_once;
pub use ledger::Ledger;
pub use level::Level;
pub use name_server::{NameServer, Says};
pub use nginx::Nginx;
pub use nowhere::{ClosedPort, FullBacklog};
pub use pooler::Pooler;
pub use private::PrivateServers;
pub use proxy::Proxy;
pub use raw_amqp::{Fate, Message, Table};
pub use receiver::Receiver;
pub use replica::{Launch, Replica};
pub use reply::{Gate, Reply};
pub use request::{Request, Verdict};
pub use servers::Servers;
pub use site::Site;
pub use standby::{Loss, Replicated, Way};
pub use tls::{Authority, Flaw, TlsFront};
pub use wait::{PATIENCE, eventually, wait_until, within};
