#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use socketserver::framing::LengthDelimitedCodec;
use socketserver_fuzz::{Stream, check};

/// Any header that can be built.
#[derive(Arbitrary, Debug)]
struct Header {
    offset: u8,
    width: u8,
    varint: bool,
    little_endian: bool,
    signed: bool,
    counting: bool,
    adjustment: i64,
    skip: Option<u8>,
    limit: u16,
}

fuzz_target!(|input: (Header, Stream<'_>)| {
    let (header, stream) = input;
    let mut builder = LengthDelimitedCodec::builder()
        .length_field_offset(header.offset.into())
        .length_field_length(usize::from(header.width) % 8 + 1)
        .length_adjustment(header.adjustment)
        .max_frame_length(header.limit.into());
    if header.little_endian {
        builder = builder.little_endian();
    }
    if header.signed {
        builder = builder.signed();
    }
    if header.varint {
        builder = builder.varint();
    } else {
        if header.counting {
            builder = builder.length_includes_header();
        }
        if let Some(skip) = header.skip {
            builder = builder.num_skip(skip.into());
        }
    }
    check(&stream, &builder.new_codec());
});
