use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Client, session, the word that the session is gone, and the task between them.
fn pumped(room: usize) -> (DuplexStream, UnixStream, oneshot::Sender<()>, tokio::task::JoinHandle<io::Result<()>>) {
    let (client, there) = duplex(room);
    let (ours, session) = UnixStream::pair().expect("a pipe");
    let (held, gone) = oneshot::channel();
    (client, session, held, tokio::spawn(carry(there, ours, gone, Duration::from_millis(500))))
}

#[tokio::test]
async fn bytes_pass_both_ways_whatever_the_pieces() {
    let (mut client, mut session, _held, _task) = pumped(7);
    let text: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let expected = text.clone();
    let echo = tokio::spawn(async move {
        let mut got = vec![0; expected.len()];
        session.read_exact(&mut got).await.expect("read");
        assert!(got == expected);
        session.write_all(&got).await.expect("written");
        session
    });
    let (mut reading, mut writing) = tokio::io::split(client);
    let mut back = vec![0; text.len()];
    let (wrote, read) = tokio::join!(writing.write_all(&text), reading.read_exact(&mut back));
    wrote.expect("written");
    read.expect("read");
    assert!(back == text);
    drop(echo.await.expect("echoed"));
    client = reading.unsplit(writing);
    assert_eq!(client.read(&mut [0]).await.expect("the end is passed on"), 0);
}

#[tokio::test]
async fn half_an_end_is_half_an_end() {
    let (mut client, mut session, _held, task) = pumped(1024);
    client.write_all(b"last words").await.expect("written");
    client.shutdown().await.expect("half closed");
    let mut heard = Vec::new();
    session.read_to_end(&mut heard).await.expect("an end");
    assert_eq!(heard, b"last words");
    // The other half goes on.
    session.write_all(b"goodbye").await.expect("written");
    drop(session);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("an end");
    assert_eq!(answer, b"goodbye");
    task.await.expect("no panic").expect("in order");
}

#[tokio::test]
async fn the_last_words_of_a_session_arrive_although_the_client_goes_on_talking() {
    let (mut client, mut session, held, task) = pumped(16);
    session.write_all(b"a close frame that is longer than the socket takes at once").await.expect("written");
    drop((session, held));
    client.write_all(b"did you hear that").await.expect("read and forgotten");
    let mut heard = Vec::new();
    let (mut reading, mut writing) = tokio::io::split(client);
    let talk = async {
        writing.write_all(&[b'x'; 4096]).await.expect("read and forgotten");
        writing.shutdown().await.expect("an end");
    };
    let ((), read) = tokio::join!(talk, reading.read_to_end(&mut heard));
    read.expect("an end");
    assert_eq!(heard, b"a close frame that is longer than the socket takes at once");
    task.await.expect("no panic").expect("in order");
}

#[tokio::test]
async fn a_client_that_reads_nothing_pushes_back() {
    let (_client, session, _held, _task) = pumped(16);
    SockRef::from(&session).set_send_buffer_size(PIPE).expect("a size");
    let mut taken = 0;
    loop {
        match timeout(Duration::from_millis(200), session.writable()).await {
            Ok(ready) => ready.expect("open"),
            Err(_) => break,
        }
        match session.try_write(&[b'x'; 1024]) {
            Ok(n) => taken += n,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(taken < 8 * PIPE, "it takes without end");
    }
    assert!(taken >= READ_BUFFER, "{taken}");
}

#[tokio::test]
async fn a_task_does_not_outlive_its_session_for_long() {
    let (client, mut session, held, task) = pumped(16);
    session.write_all(&[b'x'; 4096]).await.expect("written");
    drop(session);
    assert!(!task.is_finished());
    drop(held);
    let ended = task.await.expect("no panic");
    assert_eq!(ended.expect_err("cut").kind(), io::ErrorKind::TimedOut);
    drop(client);
}

#[tokio::test]
async fn a_client_that_is_gone_ends_it() {
    let (client, mut session, _held, task) = pumped(16);
    drop(client);
    assert_eq!(session.read(&mut [0]).await.expect("an end"), 0);
    // Writing finds out what reading did not.
    let _ = session.write_all(b"to nobody").await;
    drop(session);
    drop(task.await.expect("no panic"));
}
