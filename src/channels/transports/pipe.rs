//! The HTTP side of a session's pipe: what the session writes is the body of an answer, and commands that arrive by other
//! requests are written to the session, each as one frame of a client.
//!
//! Invariants: a silent stream owns no buffer; it ends when the session does, and the session ends when it is dropped. While
//! the client does not read, nothing is read of the pipe, and commands wait in their bounded mailbox.

use std::{
    convert::Infallible,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::{Bytes, HttpBody};
use bytes::{Buf, BufMut, BytesMut};
use dzvin_actors::channels::Posted;
use dzvin_protocols::channels::centrifuge::{Form, unpack_commands};
use hyper::body::Frame;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::UnixStream,
    sync::mpsc,
};

/// Borrowed from the stack for one read, and so the largest piece of a body.
const PIECE: usize = 16 * 1024;

/// What the session is told by the client, in one frame. The mask is for proxies between browser and hub; here are none.
pub(super) fn client_frame(form: Form, message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 14);
    out.put_u8(if form == Form::Json { 0x81 } else { 0x82 });
    match (u8::try_from(message.len()), u16::try_from(message.len())) {
        (Ok(short @ 0..=125), _) => out.put_u8(0x80 | short),
        (_, Ok(middle)) => {
            out.put_u8(0x80 | 126);
            out.put_u16(middle);
        }
        _ => {
            out.put_u8(0x80 | 127);
            out.put_u64(message.len() as u64);
        }
    }
    out.put_u32(0);
    out.put_slice(message);
    out.freeze()
}

/// The body of an answer that goes on.
pub(super) struct Stream {
    pipe: UnixStream,
    /// What stands before everything.
    greeting: &'static [u8],
    commands: Option<Commands>,
}

/// Commands on their way into the pipe.
struct Commands {
    form: Form,
    arriving: mpsc::Receiver<Posted>,
    /// What the pipe has not taken yet of the last.
    rest: Bytes,
}

impl Stream {
    pub(super) fn new(pipe: UnixStream, greeting: &'static [u8]) -> Self {
        Self { pipe, greeting, commands: None }
    }

    /// The same, with commands that arrive.
    pub(super) fn with_commands(mut self, form: Form, arriving: mpsc::Receiver<Posted>) -> Self {
        self.commands = Some(Commands { form, arriving, rest: Bytes::new() });
        self
    }
}

impl Commands {
    /// Hands on what has arrived. Ready when nothing more will: the session is over.
    fn poll_hand_on(&mut self, pipe: &UnixStream, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while !self.rest.is_empty() {
                match pipe.try_write(&self.rest) {
                    Ok(written) => self.rest.advance(written),
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                        if ready!(pipe.poll_write_ready(cx)).is_err() {
                            return Poll::Ready(());
                        }
                    }
                    Err(_) => return Poll::Ready(()),
                }
            }
            let Some(posted) = ready!(self.arriving.poll_recv(cx)) else { return Poll::Ready(()) };
            let text = &posted.commands;
            self.rest = match unpack_commands(self.form, text) {
                Some(commands) => client_frame(self.form, &commands),
                // Text for a session that speaks Protobuf: it knows how to answer that.
                None => client_frame(Form::Json, text.as_bytes()),
            };
        }
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let it = self.get_mut();
        if !it.greeting.is_empty() {
            let greeting = Bytes::from_static(std::mem::take(&mut it.greeting));
            return Poll::Ready(Some(Ok(Frame::data(greeting))));
        }
        if let Some(commands) = &mut it.commands
            && commands.poll_hand_on(&it.pipe, cx).is_ready()
        {
            it.commands = None;
        }
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut buffer = ReadBuf::uninit(&mut space);
        let read = ready!(Pin::new(&mut it.pipe).poll_read(cx, &mut buffer));
        // A session that ends with commands unread resets the pipe: an end like any other.
        Poll::Ready(match (read, buffer.filled()) {
            (Err(_), _) | (_, []) => None,
            (Ok(()), piece) => Some(Ok(Frame::data(Bytes::copy_from_slice(piece)))),
        })
    }
}

#[cfg(test)]
mod tests {
    use dzvin_actors::channels::Mailboxes;
    use dzvin_protocols::channels::websocket::{Decoder, Message};
    use futures_util::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn piece(stream: &mut Stream) -> Option<Bytes> {
        let frame = poll_fn(|cx| Pin::new(&mut *stream).poll_frame(cx)).await?;
        Some(frame.unwrap_or_else(|never| match never {}).into_data().expect("data"))
    }

    #[test]
    fn frames_are_those_that_the_session_reads() {
        for len in [0, 1, 125, 126, 0xffff, 0x1_0000, 200_000] {
            let message = "x".repeat(len);
            let mut decoder = Decoder::new(len);
            decoder.feed(&client_frame(Form::Json, message.as_bytes()));
            assert_eq!(decoder.next_message(), Ok(Some(Message::Text(message.clone()))), "{len}");
            decoder.feed(&client_frame(Form::Protobuf, message.as_bytes()));
            assert_eq!(decoder.next_message(), Ok(Some(Message::Binary(message.into_bytes()))), "{len}");
            assert!(decoder.is_idle());
        }
    }

    #[tokio::test]
    async fn commands_go_in_while_pieces_come_out() {
        let (ours, mut session) = UnixStream::pair().expect("a pipe");
        let mailboxes = Mailboxes::default();
        let (mailbox, arriving) = mailboxes.open();
        let post = |commands: &str| mailboxes.deliver(mailbox.session(), commands.to_owned()).expect("room");
        let mut stream = Stream::new(ours, b"\r\n").with_commands(Form::Json, arriving);
        assert_eq!(piece(&mut stream).await.as_deref(), Some(&b"\r\n"[..]));
        // More than the pipe takes at once.
        let long = "y".repeat(900_000);
        for command in ["{}", &long, "last"] {
            post(command);
        }
        let reading = tokio::spawn(async move {
            let mut decoder = Decoder::new(2_000_000);
            let mut heard = Vec::new();
            while heard.len() < 3 {
                let mut buffer = [0; 8192];
                let read = session.read(&mut buffer).await.expect("read");
                decoder.feed(&buffer[..read]);
                while let Some(message) = decoder.next_message().expect("frames") {
                    heard.push(message);
                }
            }
            session.write_all(b"data: over\n\n").await.expect("written");
            heard
        });
        // The stream alone drives both directions.
        assert_eq!(piece(&mut stream).await.as_deref(), Some(&b"data: over\n\n"[..]));
        let heard = reading.await.expect("heard");
        assert_eq!(heard, ["{}", &long, "last"].map(|text| Message::Text(text.to_owned())));
        assert_eq!(piece(&mut stream).await, None, "the session has ended");
    }

    #[tokio::test]
    async fn a_session_that_ends_with_commands_unread_is_an_end_and_no_fault() {
        let (ours, mut session) = UnixStream::pair().expect("a pipe");
        let mailboxes = Mailboxes::default();
        let (mailbox, arriving) = mailboxes.open();
        let post = |commands: &str| mailboxes.deliver(mailbox.session(), commands.to_owned()).expect("room");
        let mut stream = Stream::new(ours, b"").with_commands(Form::Protobuf, arriving);
        post("AAEC");
        post("{not base64}");
        session.write_all(b"x").await.expect("written");
        assert_eq!(piece(&mut stream).await.as_deref(), Some(&b"x"[..]));
        let mut buffer = [0; 64];
        let read = session.read(&mut buffer).await.expect("read");
        let mut decoder = Decoder::new(100);
        decoder.feed(&buffer[..read]);
        assert_eq!(decoder.next_message(), Ok(Some(Message::Binary(vec![0, 1, 2]))));
        assert_eq!(decoder.next_message(), Ok(Some(Message::Text("{not base64}".to_owned()))));
        post("AA");
        poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_frame(cx).is_pending())).await;
        drop(session);
        assert_eq!(piece(&mut stream).await, None);
    }
}
