use super::*;
use crate::store::scripted::{Scripted, ScriptedLogin};

const PATIENCE: Duration = Duration::from_secs(5);

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// As if `name` had the addresses of both servers.
async fn through_name(servers: &[Scripted; 2], query: &str, last: &LastServed) -> Result<IpAddr, String> {
    let port = servers[0].addr.port();
    let address = Address::read(&format!("postgres://u@name:{port}/d?sslmode=disable{query}")).unwrap();
    let mut search = Search { address: &address, last, failure: NoHost::default() };
    let mut addresses: Vec<_> = servers.iter().map(|server| Some(server.ip())).collect();
    let target = address.targets()[0];
    addresses.sort_by_key(|ip| !last.was(target, ip.unwrap()));
    let before = servers.each_ref().map(Scripted::logins);
    match search.try_addresses(target, &addresses, soon()).await {
        None => Err(search.failure.to_string()),
        Some(_) if servers[0].logins() > before[0] && servers[1].logins() == before[1] => Ok(servers[0].ip()),
        Some(_) => Ok(servers[1].ip()),
    }
}

#[tokio::test]
async fn of_one_names_addresses_one_that_takes_writes_serves() {
    let servers = Scripted::start_two().await;
    let last = LastServed::default();
    assert_eq!(through_name(&servers, "", &last).await, Ok(servers[0].ip()));
    servers[0].set_read_only(true);
    assert_eq!(through_name(&servers, "", &last).await, Ok(servers[1].ip()));
    // It is tried first now.
    assert_eq!(through_name(&servers, "&target_session_attrs=read-write", &last).await, Ok(servers[1].ip()));
    assert_eq!(servers[0].logins(), 2);
}

#[tokio::test]
async fn where_none_of_one_names_addresses_takes_writes_one_may_be_read() {
    let servers = Scripted::start_two().await;
    let last = LastServed::default();
    servers.iter().for_each(|server| server.set_read_only(true));
    assert!(through_name(&servers, "", &last).await.is_ok());
    let refused = through_name(&servers, "&target_session_attrs=read-write", &last).await.unwrap_err();
    assert_eq!(refused.matches("does not allow writes").count(), 2, "{refused}");
    servers[1].set_read_only(false);
    assert_eq!(through_name(&servers, "", &last).await, Ok(servers[1].ip()));
}

#[tokio::test]
async fn one_that_was_asked_for_as_any_is_forgotten_on_demand() {
    let servers = Scripted::start_two().await;
    let last = LastServed::default();
    last.remember(
        &Target { host: Host::Tcp("name".into()), address: None, port: servers[0].addr.port() },
        Some(servers[1].ip()),
    );
    assert_eq!(through_name(&servers, "&target_session_attrs=any", &last).await, Ok(servers[1].ip()));
    last.forget();
    assert_eq!(through_name(&servers, "&target_session_attrs=any", &last).await, Ok(servers[0].ip()));
}

async fn tried(logins: [ScriptedLogin; 2]) -> [usize; 2] {
    let servers = [Scripted::start(logins[0]).await, Scripted::start(logins[1]).await];
    let url = format!("postgres://u@{},{}/d?sslmode=disable&connect_timeout=1", servers[0].addr, servers[1].addr);
    let _ = connect(&Address::read(&url).unwrap(), &LastServed::default(), soon()).await;
    servers.each_ref().map(Scripted::logins)
}

#[tokio::test]
async fn no_other_host_is_given_a_password_that_one_has_refused() {
    for code in ["28P01", "28000"] {
        assert_eq!(tried([ScriptedLogin::Refused(code), ScriptedLogin::Served]).await, [1, 0], "{code}");
    }
    // The server is starting, it has too many connections, or a pooler does not reach it.
    for code in ["57P03", "53300", "08P01"] {
        assert_eq!(tried([ScriptedLogin::Refused(code), ScriptedLogin::Served]).await, [1, 1], "{code}");
    }
}
