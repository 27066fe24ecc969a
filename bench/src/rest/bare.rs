//! The floor of the handler: the web framework that the hub stands on, with nothing in it. It reads the request with its body and
//! answers as many bytes as the path says. It looks at no token, asks no database, counts nothing.

use crate::error::{BenchError, Fallible};
use crate::report::say;
use axum::{Router, body::Bytes, extract::Path, http::header, response::IntoResponse};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Most bytes of an answer.
const MOST: usize = 4 * 1024 * 1024;

/// Says its address, and lives until its input ends.
pub(crate) async fn run() -> Fallible<()> {
    let doing = || BenchError::because("starting the bare handler");
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(doing())?;
    say(&listener.local_addr().map_err(doing())?.to_string());
    let text = Bytes::from(vec![b'x'; MOST]);
    let answer = move |Path(bytes): Path<usize>, _: Bytes| {
        let body = text.slice(..bytes.min(MOST));
        async move { ([(header::CONTENT_TYPE, "application/json")], body).into_response() }
    };
    let router = Router::new().route("/{bytes}", axum::routing::any(answer));
    let (ended_in, ended) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).for_each(drop);
        let _ = ended_in.send(());
    });
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served.map_err(doing()),
        _ = ended => Ok(()),
    }
}
