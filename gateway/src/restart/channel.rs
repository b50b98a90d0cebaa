//! Frames and descriptors over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::Error;
use super::frame::{HEADER, Header, Kind, MAX_FDS};

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// A frame that has come.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) payload: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// The conversation with the other process.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// Sends a frame; the other process gets descriptors of its own for what these stand for.
    pub(super) async fn send(
        &mut self,
        kind: Kind,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let header = Header { kind, fds: fds.len(), length: payload.len() }.encode();
        let sent = self.0.async_io(Interest::WRITABLE, || send_with(&self.0, &header, fds)).await?;
        // Descriptors go with the first byte, so that the rest may follow without.
        self.0.write_all(header.get(sent..).unwrap_or_default()).await?;
        self.0.write_all(payload).await?;
        Ok(())
    }

    /// Waits for a frame of this kind.
    ///
    /// # Errors
    /// The other process is gone, or says something else.
    pub(super) async fn expect(&mut self, kind: Kind) -> Result<Frame, Error> {
        let (came, frame) = self.receive().await?;
        if came == kind { Ok(frame) } else { Err(Error::Unexpected { came, wanted: kind }) }
    }

    pub(super) async fn receive(&mut self) -> Result<(Kind, Frame), Error> {
        let (mut header, mut filled, mut fds) = ([0; HEADER], 0, Vec::new());
        while let Some(room) = header.get_mut(filled..).filter(|room| !room.is_empty()) {
            let read = self.0.async_io(Interest::READABLE, || receive_with(&self.0, room, &mut fds)).await?;
            if read == 0 {
                return Err(Error::Gone);
            }
            filled += read;
        }
        let header = Header::decode(&header)?;
        if fds.len() != header.fds {
            return Err(Error::Descriptors { wanted: header.fds, came: fds.len() });
        }
        let mut payload = vec![0; header.length];
        self.0.read_exact(&mut payload).await?;
        Ok((header.kind, Frame { payload, fds }))
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("more descriptors than a frame may have"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

fn receive_with(stream: &UnixStream, room: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(room)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            fds.extend(came);
        }
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, two) = UnixStream::pair().unwrap();
        (Channel::new(one), Channel::new(two))
    }

    #[tokio::test]
    async fn descriptors_arrive_with_the_frame_that_they_were_sent_with() {
        let (mut old, mut new) = pair();
        let pipes: Vec<_> = (0..MAX_FDS).map(|_| std::io::pipe().unwrap()).collect();
        let readers: Vec<_> = pipes.iter().map(|(reader, _)| reader.as_fd()).collect();
        let payload = vec![7; 3_000_000];
        let sending = async {
            old.send(Kind::Tunnels, &payload, &readers).await.unwrap();
            old.send(Kind::Ready, &[], &readers[..1]).await.unwrap();
        };
        let receiving = async {
            let tunnels = new.expect(Kind::Tunnels).await.unwrap();
            (tunnels, new.expect(Kind::Ready).await.unwrap())
        };
        let ((), (tunnels, ready)) = tokio::join!(sending, receiving);
        assert!(tunnels.payload == payload && tunnels.fds.len() == MAX_FDS && ready.fds.len() == 1);
        for (index, (fd, (_, mut writer))) in tunnels.fds.into_iter().zip(pipes).enumerate() {
            writer.write_all(&[index as u8]).unwrap();
            drop(writer);
            let mut read = Vec::new();
            std::fs::File::from(fd).read_to_end(&mut read).unwrap();
            assert_eq!(read, [index as u8]);
        }
    }

    #[tokio::test]
    async fn a_process_that_has_ended_and_one_that_talks_out_of_turn_are_told_apart() {
        let (mut old, mut new) = pair();
        old.send(Kind::Taken, &[], &[]).await.unwrap();
        let error = new.expect(Kind::Ready).await.unwrap_err();
        assert!(matches!(error, Error::Unexpected { came: Kind::Taken, wanted: Kind::Ready }));
        drop(old);
        assert!(matches!(new.expect(Kind::Ready).await.unwrap_err(), Error::Gone));
    }

    #[tokio::test]
    async fn garbage_is_refused() {
        let (mut one, two) = UnixStream::pair().unwrap();
        one.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(matches!(Channel::new(two).receive().await.unwrap_err(), Error::Frame(_)));
    }
}
