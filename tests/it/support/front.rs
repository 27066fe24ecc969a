//! The door before several hubs: each connection goes to one that answers, as a load balancer would do it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A running door; it ends with this value.
pub struct Front {
    pub addr: SocketAddr,
    hubs: Arc<Mutex<Vec<SocketAddr>>>,
    cuts: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Front {
    /// A door before these hubs.
    pub async fn start(hubs: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("address");
        let (hubs, cuts) = (Arc::new(Mutex::new(hubs)), watch::Sender::new(0));
        let (behind, cut) = (Arc::clone(&hubs), cuts.clone());
        let next = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (behind, mut cut, next) =
                    (behind.lock().expect("hubs").clone(), cut.subscribe(), Arc::clone(&next));
                tokio::spawn(async move {
                    tokio::select! {
                        () = pass(client, behind, next.fetch_add(1, Ordering::Relaxed)) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { addr, hubs, cuts, accepting }
    }

    /// Ends every connection; new ones are welcome.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Other hubs stand behind from now on.
    pub fn lead_to(&self, hubs: Vec<SocketAddr>) {
        *self.hubs.lock().expect("hubs") = hubs;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut client: TcpStream, hubs: Vec<SocketAddr>, first: usize) {
    for offset in 0..hubs.len() {
        if let Ok(mut hub) = TcpStream::connect(hubs[(first + offset) % hubs.len()]).await {
            let _ = client.set_nodelay(true);
            let _ = hub.set_nodelay(true);
            let _ = copy_bidirectional(&mut client, &mut hub).await;
            return;
        }
    }
}
