//! What every decoder must do with any bytes.

use std::io::{self, Cursor, Read, Write};
use std::iter::Cycle;
use std::vec::IntoIter;

use arbitrary::Arbitrary;
use socketserver::StreamRequest;
use socketserver::framing::{Decoder, Encoder, Framed};

/// A stream, and how it is cut.
#[derive(Arbitrary, Debug)]
pub struct Stream<'a> {
    pub bytes: &'a [u8],
    pub cuts: Vec<u8>,
}

/// The bytes, in pieces of the lengths that `cuts` gives, over and over.
struct Pieces {
    bytes: Cursor<Vec<u8>>,
    cuts: Cycle<IntoIter<u8>>,
}

impl Pieces {
    fn new(stream: &Stream<'_>) -> Self {
        Pieces {
            bytes: Cursor::new(stream.bytes.to_vec()),
            cuts: stream.cuts.clone().into_iter().cycle(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = self.cuts.next().map_or(u64::MAX, |cut| u64::from(cut) + 1);
        Read::by_ref(&mut self.bytes).take(most).read(out)
    }
}

/// Nothing is answered.
impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl socketserver::Stream for Pieces {}

/// However the stream is cut and its messages are asked for, it is the same messages and ends the same way; what was
/// decoded can be sent, and is decoded again, if the codec sends what it decodes.
pub fn check<C: Decoder + Encoder + Clone>(stream: &Stream<'_>, codec: &C) {
    let whole = decode(stream.bytes, codec);
    assert_eq!(decode(Pieces::new(stream), codec), whole);
    assert_eq!(decode_lent(Pieces::new(stream), codec), whole);
    assert_eq!(decode_apart(Pieces::new(stream), codec), whole);

    let mut sent = Framed::new(Vec::new(), codec.clone());
    let mut accepted = Vec::new();
    for message in whole.0 {
        if sent.send(&message).is_ok() {
            accepted.push(message);
        }
    }
    // Nothing at all is a message where the whole stream is one.
    if !accepted.is_empty() {
        let wire = sent.into_parts().io;
        assert_eq!(decode(&wire[..], codec), (accepted, None));
    }
}

type Decoded = (Vec<Vec<u8>>, Option<io::ErrorKind>);

fn decode<C: Decoder + Clone>(stream: impl Read, codec: &C) -> Decoded {
    let mut messages = Vec::new();
    for message in Framed::new(stream, codec.clone()) {
        match message {
            Ok(message) => messages.push(message),
            Err(error) => return (messages, Some(error.kind())),
        }
    }
    (messages, None)
}

/// Lent, and without a read where all of a message has come with another.
fn decode_lent<C: Decoder + Clone>(stream: impl Read, codec: &C) -> Decoded {
    let (mut framed, mut messages) = (Framed::new(stream, codec.clone()), Vec::new());
    let end = loop {
        match framed.next_ref() {
            Ok(Some(message)) => messages.push(message.to_vec()),
            Ok(None) => break None,
            Err(error) => break Some(error.kind()),
        }
        let failed = loop {
            match framed.next_buffered() {
                Ok(Some(message)) => messages.push(message.to_vec()),
                Ok(None) => break None,
                Err(error) => break Some(error.kind()),
            }
        };
        if failed.is_some() {
            break failed;
        }
    };
    (messages, end)
}

/// Each with a `Framed` of its own over one request, which gets back what was read ahead.
fn decode_apart<C: Decoder + Clone>(stream: impl socketserver::Stream, codec: &C) -> Decoded {
    let (mut request, mut codec) = (StreamRequest::new(stream, "a client"), codec.clone());
    let mut messages = Vec::new();
    loop {
        let mut framed = request.framed(codec);
        match framed.next() {
            Some(Ok(message)) => messages.push(message),
            Some(Err(error)) => return (messages, Some(error.kind())),
            None => return (messages, None),
        }
        codec = framed.codec().clone();
    }
}
