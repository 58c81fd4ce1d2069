use lapin::protocol::AMQPError;
use tokio::net::TcpListener;

use super::*;
use crate::config::UrlSource;

fn nodes(text: &str) -> Vec<Node> {
    Address::read(text).unwrap().nodes().to_vec()
}

fn away() -> Refusal {
    refusal(&io::Error::from_raw_os_error(111).into())
}

fn refused() -> Refusal {
    let text = "ACCESS_REFUSED - Login was refused";
    refusal(&ErrorKind::ProtocolError(AMQPError::new(AMQPSoftError::ACCESSREFUSED.into(), text.into())).into())
}

#[test]
fn every_address_is_named_once_in_the_order_in_which_it_was_written() {
    let nodes = nodes("amqp://a,amqp://[::1]:5673,amqps://c");
    let ip = |last| Some(IpAddr::from([10, 0, 0, last]));
    let mut failure = Unserved::default();
    failure.note(2, &nodes[2], ip(2), away());
    failure.note(2, &nodes[2], ip(1), refused());
    failure.note(0, &nodes[0], ip(2), away());
    failure.note(0, &nodes[0], ip(1), away());
    failure.note(1, &nodes[1], Some("::1".parse().unwrap()), away());
    assert_eq!(
        failure.to_string(),
        "a:5672: Connection refused; [::1]:5673: Connection refused; \
         c:5671 (10.0.0.1): ACCESS_REFUSED - Login was refused; c:5671 (10.0.0.2): Connection refused"
    );
    assert!(failure.is_of_login());
}

#[test]
fn a_login_that_two_nodes_refuse_is_tried_at_no_other() {
    let nodes = nodes("amqp://u:p@a,amqp://u:p@b,amqp://u:p@c,amqp://u:q@d");
    let mut failure = Unserved::default();
    failure.note(0, &nodes[0], None, refused());
    failure.note(1, &nodes[1], None, away());
    assert!(!failure.is_refused(&nodes[2]));
    failure.note(1, &nodes[1], None, refused());
    assert!(failure.is_refused(&nodes[2]) && !failure.is_refused(&nodes[3]));
}

#[test]
fn who_is_down_is_no_mistake_and_who_refuses_is() {
    let hard = |kind: AMQPHardError| {
        refusal(&ErrorKind::ProtocolError(AMQPError::new(kind.into(), "vhost is down".into())).into()).fault
    };
    assert_eq!(hard(AMQPHardError::CONNECTIONFORCED), Fault::Away);
    assert_eq!(hard(AMQPHardError::NOTALLOWED), Fault::Other);
    assert_eq!((away().fault, refused().fault), (Fault::Away, Fault::Login));
    let of_tls = |error: rustls::Error| refusal(&io::Error::other(error).into());
    let expired = of_tls(rustls::CertificateError::Expired.into());
    assert_eq!((expired.reason.as_str(), expired.fault), ("its certificate is refused: it has expired", Fault::Other));
    let plain = of_tls(rustls::InvalidMessage::InvalidContentType.into());
    assert_eq!(plain.reason, "it does not speak TLS: is its port right?");
}

#[test]
fn nodes_are_tried_in_turn_and_those_that_failed_last() {
    let nodes = nodes("amqp://turn1,amqp://turn2:5673,amqp://turn3");
    let usual = in_turn(&nodes);
    assert!([[0, 1, 2], [1, 2, 0], [2, 0, 1]].contains(&usual[..].try_into().unwrap()));
    assert_eq!(in_turn(&nodes), usual, "the same every time");
    let first = shown(&nodes[usual[0]], Some(IpAddr::from([10, 0, 0, 1])));
    known().failed.insert(first.clone(), Instant::now());
    assert_eq!(in_turn(&nodes), [usual[1], usual[2], usual[0]]);
    known().failed.insert(first, Instant::now() - LAST_FOR);
    assert_eq!(in_turn(&nodes), usual);
}

#[tokio::test]
async fn every_address_of_a_name_has_a_share_of_the_time() {
    // They accept and say nothing.
    let silent = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let ips = silent.each_ref().map(|listener| listener.local_addr().unwrap());
    let settings = Amqp {
        url: "amqp://share".into(),
        url_from: UrlSource::default(),
        ca_file: String::new(),
        management: None,
        connect_timeout: Duration::from_secs(9),
        heartbeat: Duration::from_secs(9),
    };
    let deadline = Instant::now() + Duration::from_millis(200);
    let search = Search { settings: &settings, tls: None, purpose: Purpose::Doctor, deadline };
    let (nodes, mut failure) = (nodes("amqp://share"), Unserved::default());
    let tried = search.among_ips((0, &nodes[0]), &ips, deadline, &mut failure);
    let (link, first, second) = tokio::join!(tried, silent[0].accept(), silent[1].accept());
    assert!(link.is_none() && first.is_ok() && second.is_ok());
    assert_eq!(failure.to_string(), "share:5672: no answer");
}
