//! What waits to be written to one socket: shared frames, counted in bytes.
//!
//! Invariant: never more than the limit waits; a frame that has begun to leave is never torn.

use std::{collections::VecDeque, io, io::IoSlice};

use super::socket::Writer;
use bytes::Bytes;

/// Frames that one system call takes: enough to fill a socket's buffer with small ones.
const MAX_SLICES: usize = 64;
/// Places that an empty queue keeps; more are given back.
const KEPT_CAPACITY: usize = 8;

/// The queue is full: the client is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The oldest frame has a place of its own, for most often there is one or none, and then nothing is allocated. It comes first in memory:
/// a silent session asks for no more than whether there is one.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Outbox {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
    /// Bytes that wait, without those of the first frame that have left.
    bytes: usize,
    /// How much of the first frame has left.
    written: usize,
}

impl Outbox {
    /// One in which this waits, if it is not empty. Whatever is dropped later, it is not: it counts as begun, by a byte that nobody sends.
    pub(super) fn beginning_with(greeting: &[u8]) -> Self {
        if greeting.is_empty() {
            return Self::default();
        }
        let first = Some([&b"\0"[..], greeting].concat().into());
        Self { first, bytes: greeting.len(), written: 1, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// A frame larger than the whole limit is let through when nothing else waits: it could never leave otherwise.
    pub(super) fn push(&mut self, frame: Bytes, limit: usize) -> Result<(), Full> {
        if self.first.is_some() && self.bytes + frame.len() > limit {
            return Err(Full);
        }
        self.bytes += frame.len();
        if self.first.is_none() {
            self.first = Some(frame);
        } else {
            self.rest.push_back(frame);
        }
        Ok(())
    }

    /// Writes a frame while nothing waits, and keeps what the socket did not take. True when all of it has left.
    pub(super) fn write(&mut self, socket: &Writer, frame: &Bytes) -> io::Result<bool> {
        debug_assert!(self.is_empty());
        let written = match socket.try_write(frame) {
            Ok(n) if n == frame.len() => return Ok(true),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        self.bytes = frame.len() - written;
        self.written = written;
        self.first = Some(frame.clone());
        Ok(false)
    }

    /// Drops what has not begun to leave.
    pub(super) fn clear(&mut self) {
        self.first.take_if(|_| self.written == 0);
        self.bytes = self.first.as_ref().map_or(0, |frame| frame.len() - self.written);
        self.rest = VecDeque::new();
    }

    /// The same; the last frame stays.
    pub(super) fn keep_last(&mut self) {
        let Some(last) = self.rest.pop_back() else { return };
        self.clear();
        self.bytes += last.len();
        if self.first.is_none() {
            self.first = Some(last);
        } else {
            self.rest.push_back(last);
        }
    }

    /// Writes what the socket takes now. True when everything has left, false when the socket is full.
    pub(super) fn flush(&mut self, socket: &Writer) -> io::Result<bool> {
        while let Some(first) = &self.first {
            let begun = first.get(self.written..).unwrap_or_default();
            let written = if self.rest.is_empty() {
                socket.try_write(begun)
            } else {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let frames = std::iter::once(begun).chain(self.rest.iter().map(|frame| &frame[..]));
                let mut used = 0;
                for (slice, frame) in slices.iter_mut().zip(frames) {
                    *slice = IoSlice::new(frame);
                    used += 1;
                }
                socket.try_write_vectored(&slices[..used])
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        if self.rest.capacity() > KEPT_CAPACITY {
            self.rest = VecDeque::new();
        }
        Ok(true)
    }

    pub(super) fn advance(&mut self, mut n: usize) {
        self.bytes -= n;
        while let Some(first) = &self.first {
            let left = first.len() - self.written;
            if n < left {
                self.written += n;
                return;
            }
            n -= left;
            self.written = 0;
            self.first = self.rest.pop_front();
        }
    }
}

#[cfg(test)]
impl Outbox {
    pub(super) fn frames(&self) -> impl Iterator<Item = &Bytes> {
        self.first.iter().chain(&self.rest)
    }

    /// The bytes that wait.
    pub(super) fn left(&self) -> Vec<u8> {
        self.frames().flatten().copied().skip(self.written).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::Socket;

    #[test]
    fn what_it_begins_with_is_never_dropped() {
        assert!(Outbox::beginning_with(b"").is_empty());
        for keep in [false, true] {
            let mut outbox = Outbox::beginning_with(b"101");
            assert_eq!((outbox.bytes(), outbox.left()), (3, b"101".to_vec()));
            outbox.push(Bytes::from_static(b"x"), 100).expect("room");
            outbox.push(Bytes::from_static(b"bye"), 100).expect("room");
            if keep {
                outbox.keep_last();
            } else {
                outbox.clear();
            }
            let left: &[u8] = if keep { b"101bye" } else { b"101" };
            assert_eq!((outbox.bytes(), outbox.left()), (left.len(), left.to_vec()));
        }
    }

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
        assert_eq!((outbox.bytes(), outbox.frames().count(), outbox.written), (4, 1, 2));
        outbox.advance(4);
        outbox.clear();
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_last_frame_may_stay() {
        for (left, expected) in [(0, "end"), (2, "cdefend"), (7, "bcdefend"), (13, "nd"), (15, "")] {
            let mut outbox = Outbox::default();
            for frame in ["abcdef", "abcdef", "end"] {
                outbox.push(Bytes::from_static(frame.as_bytes()), 100).expect("room");
            }
            outbox.advance(left);
            outbox.keep_last();
            assert_eq!((&*outbox.left(), outbox.bytes()), (expected.as_bytes(), expected.len()), "{left}");
        }
    }

    #[tokio::test]
    async fn many_frames_leave_in_order_through_a_small_socket() {
        use tokio::{
            io::AsyncReadExt,
            net::{TcpListener, TcpStream},
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().expect("address")), listener.accept());
        let (mut client, (server, _)) = (client.expect("connect"), server.expect("accept"));
        let (_reading, server) = Socket::from(server).split();
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
