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

    /// Where to cut encoded text to have at most `length` bytes without splitting a character.
    pub(crate) fn boundary(self, encoded: &[u8], length: usize) -> usize {
        match self {
            Encoding::Utf8 => {
                let is_inside = |index: &usize| encoded.get(*index).is_some_and(|byte| byte & 0xC0 == 0x80);
                // What is no UTF-8 is cut anywhere; a character has at most three bytes behind its first.
                let ends = length.saturating_sub(3)..=length;
                ends.rev().find(|index| !is_inside(index)).unwrap_or(length)
            }
            Encoding::Gbk => {
                let mut end = 0;
                loop {
                    // The first byte of two is 0x81 or more.
                    let width = 1 + usize::from(encoded.get(end).is_some_and(|byte| *byte > 0x80));
                    if end + width > length {
                        return end;
                    }
                    end += width;
                }
            }
        }
    }
}

fn encode_gbk(text: &str, into: &mut Vec<u8>) {
    let (encoded, _, unmappable) = GBK.encode(text);
    if !unmappable && !text.contains(is_newer_than_gbk) {
        into.extend_from_slice(&encoded);
        return;
    }
    let mut character = [0; 4];
    for each in text.chars() {
        match GBK.encode(each.encode_utf8(&mut character)) {
            (encoded, _, false) if !is_newer_than_gbk(each) => into.extend_from_slice(&encoded),
            _ => into.push(b'?'),
        }
    }
}

/// Whether only a newer standard gave the character its code, or nobody did (private use): the Web's GBK has these,
/// too, which is that of `encoding_rs`; Python's has not.
fn is_newer_than_gbk(character: char) -> bool {
    matches!(
        character,
        'ǹ' | 'ḿ' | '€' | '\u{303e}'
            | '\u{2e80}'..='\u{2eff}' // radicals
            | '\u{2ff0}'..='\u{2fff}' // how characters are composed
            | '\u{3400}'..='\u{4dbf}' // CJK extension A
            | '\u{9fa6}'..='\u{9fff}' // CJK, added later
            | '\u{e000}'..='\u{f8ff}' // private use
            | '\u{fe10}'..='\u{fe1f}' // vertical forms
    )
}
