//! Callers of the API who keep it busy and want no answer. They end with the crowd.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

const HANGS_UP_AFTER: Duration = Duration::from_millis(5);
const COMES_AGAIN_AFTER: Duration = Duration::from_millis(100);

pub struct Crowd(JoinSet<()>);

impl Crowd {
    /// This many requests a second, with these heads in turn, each by a new caller who hangs up soon.
    pub fn of_hang_ups(address: &str, heads: Vec<String>, per_second: u32) -> Self {
        let address = address.to_owned();
        let mut crowd = JoinSet::new();
        crowd.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / per_second);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut callers = JoinSet::new();
            for head in heads.into_iter().cycle() {
                ticks.tick().await;
                callers.spawn(hang_up(address.clone(), head));
                while callers.try_join_next().is_some() {}
            }
        });
        Self(crowd)
    }

    /// This many callers that never finish their head, and come again when they are sent away.
    pub fn of_unfinished(address: &str, callers: u32) -> Self {
        let mut crowd = JoinSet::new();
        for _ in 0..callers {
            let address = address.to_owned();
            crowd.spawn(async move {
                loop {
                    // Refused or closed by the API: the caller comes again in both cases.
                    let _ = dawdle(&address).await;
                    sleep(COMES_AGAIN_AFTER).await;
                }
            });
        }
        Self(crowd)
    }
}

async fn hang_up(address: String, head: String) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let _ = stream.write_all(head.as_bytes()).await;
    sleep(HANGS_UP_AFTER).await;
}

async fn dawdle(address: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /v1/webhooks HTTP/1.1\r\nHost: x\r\nX-Slow: ").await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}
