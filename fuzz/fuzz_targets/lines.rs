#![no_main]

use libfuzzer_sys::fuzz_target;
use socketserver::framing::LinesCodec;
use socketserver_fuzz::{Stream, check};

fuzz_target!(|input: (bool, bool, u8, Stream<'_>)| {
    let (crlf, unterminated, limit, stream) = input;
    let mut codec = if crlf { LinesCodec::crlf() } else { LinesCodec::new() };
    if unterminated {
        codec = codec.allow_unterminated();
    }
    check(&stream, &codec.max_frame_length(limit.into()));
});
