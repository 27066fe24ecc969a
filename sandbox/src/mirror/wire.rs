//! The server's half of a WebSocket, byte by byte (RFC 6455). Written by hand because the faults need what a correct library
//! refuses: fragments of any size, half a frame, a reset, silence. Server frames are not masked, so a body of several megabytes
//! is written piece by piece without being copied.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::tcp::OwnedWriteHalf;

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
const CONTINUATION: u8 = 0;
const FIN: u8 = 0x80;

/// How bytes leave.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// Payload bytes of a fragment.
    pub(crate) fragment: Option<usize>,
    /// Bytes a second.
    pub(crate) pace: Option<usize>,
    /// Text frames say that they are binary.
    pub(crate) binary: bool,
}

/// The writing half.
#[derive(Debug)]
pub(crate) struct Writer {
    out: BufWriter<OwnedWriteHalf>,
}

fn header(first: u8, len: usize) -> ([u8; 10], usize) {
    let mut head = [0; 10];
    head[0] = first;
    let used = match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short), _) if short < 126 => {
            head[1] = short;
            2
        }
        (_, Ok(medium)) => {
            head[1] = 126;
            head[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        }
        _ => {
            head[1] = 127;
            head[2..10].copy_from_slice(&(len as u64).to_be_bytes());
            10
        }
    };
    (head, used)
}

impl Writer {
    pub(crate) fn new(half: OwnedWriteHalf) -> Self {
        Self { out: BufWriter::with_capacity(64 * 1024, half) }
    }

    /// Sends a text message given in pieces of known total length.
    pub(crate) async fn message<'a>(
        &mut self,
        len: usize,
        pieces: impl Iterator<Item = &'a str>,
        style: Style,
    ) -> io::Result<()> {
        let opcode = if style.binary { BINARY } else { TEXT };
        let Some(size) = style.fragment else {
            let (head, used) = header(FIN | opcode, len);
            self.bytes(&head[..used], style.pace).await?;
            for piece in pieces {
                self.bytes(piece.as_bytes(), style.pace).await?;
            }
            return Ok(());
        };
        let whole: String = pieces.collect();
        let count = whole.len().div_ceil(size.max(1)).max(1);
        let mut chunks = whole.as_bytes().chunks(size.max(1));
        for n in 0..count {
            let chunk = chunks.next().unwrap_or_default();
            let fin = if n + 1 == count { FIN } else { 0 };
            let (head, used) = header(fin | if n == 0 { opcode } else { CONTINUATION }, chunk.len());
            self.bytes(&head[..used], style.pace).await?;
            self.bytes(chunk, style.pace).await?;
        }
        Ok(())
    }

    /// Sends the beginning of a message and stops in its middle.
    pub(crate) async fn half_a_message(&mut self) -> io::Result<()> {
        let (head, used) = header(FIN | TEXT, 4096);
        self.out.write_all(&head[..used]).await?;
        self.out.write_all(b"{\"type\":\"upsert\",\"data\":{\"_id\":").await?;
        self.flush().await
    }

    /// Sends a control frame (payload of at most 125 bytes) and everything before it.
    pub(crate) async fn control(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let payload = &payload[..payload.len().min(125)];
        let (head, used) = header(FIN | opcode, payload.len());
        self.out.write_all(&head[..used]).await?;
        self.out.write_all(payload).await?;
        self.flush().await
    }

    async fn bytes(&mut self, bytes: &[u8], pace: Option<usize>) -> io::Result<()> {
        let Some(pace) = pace else { return self.out.write_all(bytes).await };
        for chunk in bytes.chunks((pace / 50).max(1)) {
            self.out.write_all(chunk).await?;
            self.out.flush().await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.out.flush().await
    }

    /// Ends the stream.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        self.out.shutdown().await
    }

    /// Makes the end of the connection a reset; the caller must let go of the reading half too.
    pub(crate) fn reset(self) {
        let half = self.out.into_inner();
        let _ = half.as_ref().set_zero_linger();
        half.forget();
    }
}

/// One frame of the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFrame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// Why reading ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the stream ended: {0}")]
    Io(#[from] io::Error),
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    #[error("a message of more than {0} bytes")]
    TooBig(usize),
}

/// Reads one message or control frame; fragments are put together.
pub(crate) async fn read_message<R: AsyncRead + Unpin>(
    from: &mut R,
    partial: &mut Option<ClientFrame>,
    limit: usize,
) -> Result<ClientFrame, ReadError> {
    loop {
        let mut head = [0u8; 2];
        from.read_exact(&mut head).await?;
        let (fin, opcode) = (head[0] & FIN != 0, head[0] & 0x0f);
        if head[0] & 0x70 != 0 {
            return Err(ReadError::Protocol("a reserved bit is set"));
        }
        if head[1] & 0x80 == 0 {
            return Err(ReadError::Protocol("a client frame is not masked"));
        }
        let len = match head[1] & 0x7f {
            126 => u64::from(from.read_u16().await?),
            127 => from.read_u64().await?,
            short => u64::from(short),
        };
        let so_far = partial.as_ref().map_or(0, |p| p.payload.len());
        let len = usize::try_from(len).ok().filter(|len| so_far + len <= limit).ok_or(ReadError::TooBig(limit))?;
        let mut mask = [0u8; 4];
        from.read_exact(&mut mask).await?;
        let mut payload = vec![0; len];
        from.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let whole = match (opcode, fin, partial.take()) {
            (CLOSE..=PONG, true, kept) => {
                *partial = kept;
                return Ok(ClientFrame { opcode, payload });
            }
            (TEXT | BINARY, _, None) => ClientFrame { opcode, payload },
            (CONTINUATION, _, Some(mut kept)) => {
                kept.payload.extend_from_slice(&payload);
                kept
            }
            _ => return Err(ReadError::Protocol("an opcode that does not belong here")),
        };
        if fin {
            return Ok(whole);
        }
        *partial = Some(whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 1, 2, 3, 4];
        out.extend(payload.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(a, b)| a ^ b));
        out
    }

    #[tokio::test]
    async fn fragments_come_together_around_a_ping() {
        let bytes = [masked(TEXT, b"one "), masked(FIN | PING, b"p"), masked(FIN, b"two")].concat();
        let (mut from, mut partial) = (&bytes[..], None);
        let ping = read_message(&mut from, &mut partial, 100).await.unwrap();
        assert_eq!((ping.opcode, ping.payload.as_slice()), (PING, &b"p"[..]));
        let text = read_message(&mut from, &mut partial, 100).await.unwrap();
        assert_eq!((text.opcode, text.payload.as_slice()), (TEXT, &b"one two"[..]));
    }

    #[tokio::test]
    async fn bad_frames_are_refused() {
        let cases: [(&[u8], &str); 4] = [
            (&[FIN | TEXT, 1, b'x'], "masked"),
            (&masked(0xf1, b"x"), "reserved"),
            (&masked(FIN, b"x"), "belong"),
            (&masked(FIN | TEXT, &[b'x'; 101]), "more than 100"),
        ];
        for (bytes, what) in cases {
            let mut from = bytes;
            let error = read_message(&mut from, &mut None, 100).await.unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn lengths_take_three_forms() {
        assert_eq!(header(0x81, 125).1, 2);
        assert_eq!(header(0x81, 126), ([0x81, 126, 0, 126, 0, 0, 0, 0, 0, 0], 4));
        assert_eq!(header(0x81, 65_536), ([0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0], 10));
    }
}
