#![no_main]

use libfuzzer_sys::fuzz_target;
use socketserver::framing::FixedLengthCodec;
use socketserver_fuzz::{Stream, check};

fuzz_target!(|input: (u8, Stream<'_>)| {
    let (length, stream) = input;
    check(&stream, &FixedLengthCodec::new(usize::from(length) + 1));
});
