//! What waits to be written to one socket: shared frames, counted in bytes.
//!
//! Invariant: never more than the limit waits; a frame that has begun to leave is never torn.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::Bytes;
use tokio::net::TcpStream;

/// Frames that one system call takes: enough to fill a socket's buffer with small ones.
const MAX_SLICES: usize = 64;
/// Places that an empty queue keeps; more are given back.
const KEPT_CAPACITY: usize = 8;

/// The queue is full: the client is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Bytes>,
    /// Bytes that wait, without those of the first frame that have left.
    bytes: usize,
    /// How much of the first frame has left.
    written: usize,
}

impl Outbox {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// A frame larger than the whole limit is let through when nothing else waits: it could never leave otherwise.
    pub(super) fn push(&mut self, frame: Bytes, limit: usize) -> Result<(), Full> {
        if !self.frames.is_empty() && self.bytes + frame.len() > limit {
            return Err(Full);
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        Ok(())
    }

    /// Drops what has not begun to leave.
    pub(super) fn clear(&mut self) {
        let begun = self.frames.pop_front().filter(|_| self.written > 0);
        self.frames = VecDeque::new();
        self.bytes = begun.as_ref().map_or(0, |frame| frame.len() - self.written);
        self.frames.extend(begun);
    }

    /// Writes what the socket takes now. True when everything has left, false when the socket is full.
    pub(super) fn flush(&mut self, socket: &TcpStream) -> io::Result<bool> {
        while !self.frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let mut used = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                let skip = if used == 0 { self.written } else { 0 };
                *slice = IoSlice::new(frame.get(skip..).unwrap_or_default());
                used += 1;
            }
            match socket.try_write_vectored(&slices[..used]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        if self.frames.capacity() > KEPT_CAPACITY {
            self.frames.shrink_to(KEPT_CAPACITY);
        }
        Ok(true)
    }

    pub(super) fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(first) = self.frames.front() {
            let left = first.len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
impl Outbox {
    pub(super) fn frames(&self) -> impl Iterator<Item = &Bytes> {
        self.frames.iter()
    }

    /// The bytes that wait.
    pub(super) fn left(&self) -> Vec<u8> {
        self.frames.iter().flatten().copied().skip(self.written).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_counts_what_waits() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(Bytes::from(vec![0; 100]), 50), Ok(()), "the first always fits");
        assert_eq!(outbox.push(Bytes::from_static(b"x"), 50), Err(Full));
        outbox.advance(60);
        assert_eq!((outbox.bytes(), outbox.push(Bytes::from(vec![0; 10]), 50)), (40, Ok(())));
        outbox.advance(45);
        assert_eq!((outbox.bytes(), outbox.written), (5, 5));
    }

    #[test]
    fn clearing_never_tears_a_frame() {
        let mut outbox = Outbox::default();
        for _ in 0..3 {
            outbox.push(Bytes::from_static(b"abcdef"), 100).expect("room");
        }
        outbox.advance(8);
        outbox.clear();
        assert_eq!((outbox.bytes(), outbox.frames.len(), outbox.written), (4, 1, 2));
        outbox.advance(4);
        outbox.clear();
        assert!(outbox.is_empty());
    }

    #[tokio::test]
    async fn many_frames_leave_in_order_through_a_small_socket() {
        use tokio::{io::AsyncReadExt, net::TcpListener};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().expect("address")), listener.accept());
        let (mut client, (server, _)) = (client.expect("connect"), server.expect("accept"));
        let mut outbox = Outbox::default();
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        for chunk in sent.chunks(777) {
            outbox.push(Bytes::copy_from_slice(chunk), usize::MAX).expect("room");
        }
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            client.read_to_end(&mut got).await.expect("read");
            got
        });
        while !outbox.flush(&server).expect("flush") {
            server.writable().await.expect("writable");
        }
        assert_eq!(outbox.bytes(), 0);
        drop(server);
        assert!(reading.await.expect("reader") == sent);
    }
}
