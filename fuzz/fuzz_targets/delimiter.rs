#![no_main]

use libfuzzer_sys::fuzz_target;
use socketserver::framing::DelimiterCodec;
use socketserver_fuzz::{Stream, check};

fuzz_target!(|input: (u8, Vec<u8>, bool, u8, Stream<'_>)| {
    let (first, mut delimiter, unterminated, limit, stream) = input;
    delimiter.push(first);
    let mut codec = DelimiterCodec::new(delimiter);
    if unterminated {
        codec = codec.allow_unterminated();
    }
    check(&stream, &codec.max_frame_length(limit.into()));
});
