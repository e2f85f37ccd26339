#![no_main]

use libfuzzer_sys::fuzz_target;
use socketserver::framing::NetstringCodec;
use socketserver_fuzz::{Stream, check};

fuzz_target!(|input: (u16, Stream<'_>)| {
    let (limit, stream) = input;
    check(&stream, &NetstringCodec::new().max_frame_length(limit.into()));
});
