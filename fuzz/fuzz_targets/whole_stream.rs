#![no_main]

use libfuzzer_sys::fuzz_target;
use socketserver::framing::WholeStreamCodec;
use socketserver_fuzz::{Stream, check};

fuzz_target!(|input: (u8, Stream<'_>)| {
    let (limit, stream) = input;
    check(&stream, &WholeStreamCodec::new().max_frame_length(limit.into()));
});
