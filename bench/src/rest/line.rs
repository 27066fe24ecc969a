//! The generator: kept connections with one request under way on each, written and read by hand. A library's client would take as much
//! of the two cores as the hub.

use super::{for_seconds, work::Work};
use crate::error::{BenchError, Fallible};
use crate::realtime::wire;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How much is read at a time.
const BUFFER: usize = 64 * 1024;
/// How long an answer may take before it is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where requests go, and what they are about.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) address: String,
    pub(super) token: String,
    /// Entities, bytes of a document, entities on a page.
    pub(super) sizes: [usize; 3],
    /// The next request's number: no two have the same.
    pub(super) next: Arc<AtomicU64>,
    /// Of the bare handler: bytes of its answer.
    pub(super) answer: Option<usize>,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timed {
    pub(super) work: Work,
    /// From when it was due, or written, to its whole answer.
    pub(super) took_us: i64,
    /// Whether it was answered with success.
    pub(super) done: bool,
}

struct Line {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Line {
    async fn connect(address: &str) -> Fallible<Self> {
        let stream = TcpStream::connect(address).await.map_err(BenchError::because("connecting"))?;
        stream.set_nodelay(true).map_err(BenchError::because("connecting"))?;
        Ok(Self { stream, answer: Vec::with_capacity(BUFFER) })
    }

    /// The status, and the bytes of the answer's body.
    async fn ask(&mut self, request: &str) -> Fallible<(u16, usize)> {
        let because = || BenchError::because("asking over HTTP");
        self.stream.write_all(request.as_bytes()).await.map_err(because())?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await.map_err(because())? == 0 {
                return Err(BenchError::new("the server has ended the connection"));
            }
            if let Some(reply) = wire::reply(&self.answer)? {
                return Ok((reply.status, reply.body.len()));
            }
        }
    }
}

/// Asks once; answers how long the body of the answer is.
pub(super) async fn once(place: &Place, request: &str) -> Fallible<usize> {
    let mut line = Line::connect(&place.address).await?;
    match line.ask(request).await? {
        (200..300, bytes) => Ok(bytes),
        (status, _) => Err(BenchError::new(format!("answered {status}: {}", String::from_utf8_lossy(&line.answer)))),
    }
}

/// One request; a connection that does not survive it is made anew.
async fn timed(place: &Place, line: &mut Line, work: Work, n: u64, from: Instant) -> Fallible<Timed> {
    let asked = tokio::time::timeout(PATIENCE, line.ask(&work.request(place, n))).await;
    let took_us = i64::try_from(from.elapsed().as_micros()).unwrap_or(i64::MAX);
    if !matches!(asked, Ok(Ok(_))) {
        *line = Line::connect(&place.address).await?;
    }
    Ok(Timed { work, took_us, done: matches!(asked, Ok(Ok((200..300, _)))) })
}

/// One after the other as fast as they are answered, so many at a time; answers them, and the seconds that it took.
pub(super) async fn closed(place: &Place, work: Work, in_flight: usize, seconds: f64) -> Fallible<(Vec<Timed>, f64)> {
    let begun = Instant::now();
    let until = begun + for_seconds(seconds);
    let all = gather(place, in_flight, move |place| async move {
        let (mut line, mut all) = (Line::connect(&place.address).await?, Vec::new());
        while Instant::now() < until {
            let n = place.next.fetch_add(1, Ordering::Relaxed);
            all.push(timed(&place, &mut line, work, n, Instant::now()).await?);
        }
        Ok::<_, BenchError>(all)
    });
    let all = all.await?;
    Ok((all, begun.elapsed().as_secs_f64()))
}

/// The mix at a steady rate: each request has its due time by the schedule and is counted from there, so whoever has to wait for a free
/// connection behind a stall pays for it.
pub(super) async fn open(place: &Place, rate: u64, seconds: u64, connections: usize) -> Fallible<Vec<Timed>> {
    let (due, count) = (Arc::new(AtomicU64::new(0)), rate * seconds);
    // All are connected by then.
    let begun = Instant::now() + Duration::from_millis(200);
    let all = gather(place, connections, move |place| {
        let due = Arc::clone(&due);
        async move {
            let (mut line, mut all) = (Line::connect(&place.address).await?, Vec::new());
            loop {
                let nth = due.fetch_add(1, Ordering::Relaxed);
                if nth >= count {
                    return Ok::<_, BenchError>(all);
                }
                let at = begun + Duration::from_secs_f64(nth as f64 / rate as f64);
                tokio::time::sleep_until(at.into()).await;
                let n = place.next.fetch_add(1, Ordering::Relaxed);
                all.push(timed(&place, &mut line, Work::of_mix(nth), n, at).await?);
            }
        }
    });
    all.await
}

/// What so many do at the same time.
async fn gather<F>(place: &Place, count: usize, work: impl Fn(Place) -> F) -> Fallible<Vec<Timed>>
where
    F: Future<Output = Fallible<Vec<Timed>>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        tasks.spawn(work(place.clone()));
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done.map_err(BenchError::because("running the generator"))??);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A server that answers each request after `pause`, one connection at a time.
    async fn slow(pause: Duration) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = vec![0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {
                    tokio::time::sleep(pause).await;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        break;
                    }
                }
            }
        });
        address
    }

    fn place(address: String) -> Place {
        let (token, next) = (String::new(), Arc::new(AtomicU64::new(0)));
        Place { address, token, sizes: [10, 64, 5], next, answer: None }
    }

    /// A server that takes 20 ms for each of 100 that come within a second is behind by a second at the end: whoever counts from when a
    /// request could be written would say 20 ms.
    #[tokio::test]
    async fn whoever_waits_behind_a_slow_one_pays_for_it() {
        let place = place(slow(Duration::from_millis(20)).await);
        let all = open(&place, 100, 1, 1).await.unwrap();
        let worst = all.iter().map(|it| it.took_us).max().unwrap();
        assert!(all.len() == 100 && all.iter().all(|it| it.done));
        assert!(worst > 800_000, "{worst}");
        let (all, _) = closed(&place, Work::One, 1, 0.3).await.unwrap();
        assert!(all.iter().all(|it| (20_000..800_000).contains(&it.took_us)), "{all:?}");
    }
}
