//! How output is encoded on the wire.

use std::borrow::Cow;

use clap::ValueEnum;
use encoding_rs::GBK;

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Encoding {
    /// Output goes as the command printed it.
    #[value(name = "utf-8")]
    Utf8,
    /// Output is taken for UTF-8 and sent as GBK.
    Gbk,
}

impl Encoding {
    /// From what a command printed to what is sent. What is not UTF-8, or has no place in GBK, becomes
    /// `?`: the tutorial's clients end at the first byte that is not GBK.
    pub(crate) fn encode(self, output: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Encoding::Utf8 => Cow::Borrowed(output),
            Encoding::Gbk => {
                let mut encoded = Vec::with_capacity(output.len());
                for chunk in output.utf8_chunks() {
                    encode_gbk(chunk.valid(), &mut encoded);
                    if !chunk.invalid().is_empty() {
                        encoded.push(b'?');
                    }
                }
                Cow::Owned(encoded)
            }
        }
    }

    /// From what was received to what is printed.
    pub(crate) fn decode(self, received: Vec<u8>) -> Vec<u8> {
        match self {
            Encoding::Utf8 => received,
            Encoding::Gbk => GBK.decode_without_bom_handling(&received).0.into_owned().into_bytes(),
        }
    }
}

fn encode_gbk(text: &str, into: &mut Vec<u8>) {
    let (encoded, _, unmappable) = GBK.encode(text);
    if !unmappable {
        into.extend_from_slice(&encoded);
        return;
    }
    let mut character = [0; 4];
    for each in text.chars() {
        match GBK.encode(each.encode_utf8(&mut character)) {
            (encoded, _, false) => into.extend_from_slice(&encoded),
            _ => into.push(b'?'),
        }
    }
}
