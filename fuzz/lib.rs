//! What every decoder must do with any bytes.

use std::io::{self, Read};

use arbitrary::Arbitrary;
use socketserver::framing::{Decoder, Encoder, Framed};

/// A stream, and how it is cut.
#[derive(Arbitrary, Debug)]
pub struct Stream<'a> {
    pub bytes: &'a [u8],
    pub cuts: Vec<u8>,
}

/// The bytes, in pieces of the lengths that `cuts` gives, over and over.
struct Pieces<'a> {
    bytes: &'a [u8],
    cuts: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = self.cuts.next().map_or(usize::MAX, |&cut| usize::from(cut) + 1);
        let (mut now, _) = self.bytes.split_at(most.min(self.bytes.len()));
        let count = now.read(out)?;
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
}

/// However the stream is cut, it is the same messages and ends the same way; what was decoded can be sent,
/// and is decoded again, if the codec sends what it decodes.
pub fn check<C: Decoder + Encoder + Clone>(stream: &Stream<'_>, codec: &C) {
    let whole = decode(stream.bytes, codec);
    let pieces = Pieces {
        bytes: stream.bytes,
        cuts: stream.cuts.iter().cycle(),
    };
    assert_eq!(decode(pieces, codec), whole);

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
