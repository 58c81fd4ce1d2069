use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::config::UrlSource;
use crate::secret::SecretText;

fn settings(url: String, connect_timeout: Duration) -> Amqp {
    Amqp {
        url: SecretText::new(url),
        url_from: UrlSource::default(),
        ca_file: String::new(),
        management: None,
        connect_timeout,
        heartbeat: Duration::from_secs(10),
    }
}

fn settings_of(listener: &TcpListener) -> Amqp {
    let url = format!("amqp://guest:guest@{}/%2f", listener.local_addr().unwrap());
    settings(url, Duration::from_secs(1))
}

/// All that the client sends until its socket ends.
async fn all_of(listener: &TcpListener) -> Vec<u8> {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut sent = Vec::new();
    timeout(Duration::from_secs(10), socket.read_to_end(&mut sent)).await.expect("the socket ends").unwrap();
    sent
}

#[tokio::test]
async fn an_attempt_without_an_answer_ends_its_socket() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings_of(&mute);
    let (opened, sent) = tokio::join!(connect(&settings, Purpose::Doctor), all_of(&mute));
    assert!(matches!(opened, Err(QueueError::Unavailable(_))));
    assert_eq!(sent, b"AMQP\0\0\x09\x01");
}

async fn wait_until_no_task_is_left() {
    let tasks = tokio::runtime::Handle::current().metrics();
    let none = async {
        while tasks.num_alive_tasks() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), none).await.expect("all tasks end");
}

#[tokio::test]
async fn an_attempt_that_is_refused_leaves_no_task() {
    let gone = settings_of(&TcpListener::bind("127.0.0.1:0").await.unwrap());
    for _ in 0..3 {
        assert!(matches!(connect(&gone, Purpose::Doctor).await, Err(QueueError::Unavailable(_))));
    }
    wait_until_no_task_is_left().await;
}

#[tokio::test]
async fn an_attempt_without_an_answer_or_with_a_hangup_leaves_no_task() {
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = settings_of(&peer);
    let (mute, _socket) = tokio::join!(connect(&settings, Purpose::Doctor), peer.accept());
    let hang_up = async { drop(peer.accept().await) };
    let (hung_up, ()) = tokio::join!(connect(&settings, Purpose::Doctor), hang_up);
    assert!(mute.is_err() && hung_up.is_err());
    wait_until_no_task_is_left().await;
}

#[tokio::test]
async fn an_attempt_that_is_dropped_ends_its_socket() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Amqp { connect_timeout: Duration::from_secs(600), ..settings_of(&mute) };
    let given_up = timeout(Duration::from_secs(1), connect(&settings, Purpose::Doctor));
    let (given_up, _) = tokio::join!(given_up, all_of(&mute));
    assert!(given_up.is_err());
}

#[tokio::test]
async fn every_address_of_a_name_has_a_share_of_the_time() {
    // Both accept and send nothing.
    let silent = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let ips = silent.each_ref().map(|listener| listener.local_addr().unwrap());
    let settings = settings("amqp://share".to_owned(), Duration::from_secs(9));
    let deadline = Instant::now() + Duration::from_secs(2);
    let search = Search { settings: &settings, tls: None, purpose: Purpose::Doctor, deadline };
    let (address, mut unserved) = (Address::read("amqp://share").unwrap(), Unserved::default());
    let tried = search.among_ips((0, &address.nodes()[0]), &ips, deadline, &mut unserved);
    let (link, first, second) = tokio::join!(tried, silent[0].accept(), silent[1].accept());
    assert!(link.is_none() && first.is_ok() && second.is_ok());
    assert_eq!(unserved.to_string(), "share:5672: no answer");
}
