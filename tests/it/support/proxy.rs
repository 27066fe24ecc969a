//! A proxy on a free port that can cut, refuse, stall and slow what passes through it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

/// Where the proxy leads.
#[derive(Debug, Clone)]
pub enum Upstream {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What the network is like now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weather {
    /// Grows with each cut: connections of before are gone.
    cuts: u64,
    refuse: bool,
    stall: bool,
    delay: Duration,
    /// A connection that is asked this goes on to the server, and ends before the answer.
    cut_after: Option<&'static str>,
}

/// A running proxy; it ends with this value.
#[derive(Debug)]
pub struct Proxy {
    /// Where to connect instead.
    pub addr: SocketAddr,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(upstream: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let weather = watch::Sender::new(Weather::default());
        let accepting = tokio::spawn(accept(listener, upstream, weather.clone()));
        Self { addr, weather, accepting }
    }

    /// Ends every connection; new ones are welcome.
    pub fn cut(&self) {
        self.weather.send_modify(|w| w.cuts += 1);
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.weather.send_modify(|w| w.refuse = refuse);
    }

    /// Whether bytes stand still while connections stay open.
    pub fn stall(&self, stall: bool) {
        self.weather.send_modify(|w| w.stall = stall);
    }

    /// Ends each connection on which this is asked, once the server has it and before its answer.
    pub fn cut_after(&self, asked: Option<&'static str>) {
        self.weather.send_modify(|w| w.cut_after = asked);
    }

    /// How long each piece is held back.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|w| w.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, upstream: Upstream, weather: watch::Sender<Weather>) {
    while let Ok((client, _)) = listener.accept().await {
        if !weather.borrow().refuse {
            tokio::spawn(connect(client, upstream.clone(), weather.subscribe()));
        }
    }
}

async fn connect(client: TcpStream, upstream: Upstream, weather: watch::Receiver<Weather>) {
    match upstream {
        Upstream::Tcp(addr) => {
            let Ok(server) = TcpStream::connect(addr).await else { return };
            let _ = server.set_nodelay(true);
            join(client, server, weather).await;
        }
        Upstream::Unix(path) => {
            let Ok(server) = UnixStream::connect(path).await else { return };
            join(client, server, weather).await;
        }
    }
}

async fn join<S: AsyncRead + AsyncWrite + Unpin>(client: TcpStream, server: S, mut weather: watch::Receiver<Weather>) {
    let _ = client.set_nodelay(true);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = tokio::io::split(server);
    let cuts = weather.borrow().cuts;
    tokio::select! {
        () = pump(client_read, server_write, weather.clone(), true) => {}
        () = pump(server_read, client_write, weather.clone(), false) => {}
        _ = weather.wait_for(|w| w.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    asks: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(n @ 1..) = from.read(&mut buffer).await else { return };
        let Weather { delay, cut_after, .. } = match weather.wait_for(|w| !w.stall).await {
            Ok(now) => *now,
            Err(_) => return,
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
        let last = cut_after.filter(|_| asks).map(str::as_bytes);
        if last.is_some_and(|last| buffer[..n].windows(last.len()).any(|part| part == last)) {
            return;
        }
    }
}
